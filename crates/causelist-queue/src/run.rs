//! One attempt: decode, run within its time, and say how it ended.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use causelist_core::{Clock, JobError};
use futures::FutureExt;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::claim::Claimed;
use crate::cx::{JobCx, States};
use crate::registry::Registry;
use crate::settle::{Outcome, Settled};

/// What every attempt of a worker shares.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) pool: PgPool,
    pub(crate) registry: Registry,
    pub(crate) states: States,
    pub(crate) clock: std::sync::Arc<dyn Clock>,
    /// Fires at the end of the grace period of a shutdown.
    pub(crate) halt: CancellationToken,
}

/// How an attempt ended, for the driver.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The driver must settle it.
    Settle(Settled),
    /// The job settled itself, in its own transaction.
    Completed,
    /// The lease was lost: nothing may be written.
    Lost,
}

/// How long a job of a kind that this worker does not know waits for one that does.
const UNKNOWN_KIND_DELAY: Duration = Duration::from_secs(30);

impl Runtime {
    /// Runs one attempt to its end. Never panics, never fails: every way to end is an [`Ended`].
    /// `stop` ends it early (cancelled by somebody), `lost` says that the lease is over.
    pub(crate) async fn execute(&self, job: &Claimed, stop: CancellationToken, lost: CancellationToken) -> Ended {
        let started_at = self.clock.now();
        let settled = |outcome| {
            Ended::Settle(Settled {
                id: job.id,
                attempt: job.attempt,
                keyed: job.keyed,
                started_at,
                outcome,
            })
        };
        let Some(entry) = self.registry.get(&job.kind) else {
            return settled(Outcome::Snooze(
                UNKNOWN_KIND_DELAY,
                format!("this worker does not know kind {:?}", job.kind),
            ));
        };
        let mut cx = JobCx {
            id: job.id,
            tenant: job.tenant,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            keyed: job.keyed,
            fence: job.fence,
            trace: job.trace.clone(),
            now: job.created_at,
            started_at,
            timeout: entry.spec.timeout,
            pool: self.pool.clone(),
            states: self.states.clone(),
            cancel: stop.child_token(),
            completed: AtomicBool::new(false),
        };
        let cancel = cx.cancel.clone();
        let timeout = entry.spec.timeout;
        let end = {
            let run = AssertUnwindSafe((entry.run)(&mut cx, &job.args)).catch_unwind();
            tokio::select! {
                biased;
                () = lost.cancelled() => Err(JobError::LeaseLost),
                // A job that watches its token gets a moment to stop by itself.
                () = after(&stop, Duration::from_secs(2)) => Err(JobError::Cancelled),
                () = self.halt.cancelled() => Err(JobError::Snooze(
                    Duration::ZERO,
                    "the worker shut down before the job had ended; it runs again".into(),
                )),
                () = tokio::time::sleep(timeout) => Err(JobError::Retry(format!("took longer than its time limit of {timeout:?}"))),
                end = run => end.unwrap_or_else(|panic| Err(JobError::Retry(format!("panicked: {}", panic_text(&*panic))))),
            }
        };
        cancel.cancel();
        match end {
            _ if cx.is_completed() => Ended::Completed,
            Ok(report) => settled(Outcome::Done(report)),
            Err(error) => {
                let backoff = entry.spec.retry.delay(job.attempt.unsigned_abs(), rand::random());
                Outcome::of_error(error, job.attempt, job.max_attempts, backoff).map_or(Ended::Lost, settled)
            }
        }
    }
}

async fn after(token: &CancellationToken, grace: Duration) {
    token.cancelled().await;
    tokio::time::sleep(grace).await;
}

/// A panic's message: written by the programmer, so it may be stored; cut, since it may quote data.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    text.chars().take(200).collect()
}
