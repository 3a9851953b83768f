//! One attempt: decode, run within its time, and say how it ended.

use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI16};
use std::time::Duration;

use causelist_core::{Clock, JobError};
use chrono::{DateTime, Utc};
use futures::FutureExt;
use serde_json::Value;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::bundle::{Bundle, Held};
use crate::claim::Claimed;
use crate::cx::{JobCx, States};
use crate::family::Own;
use crate::quarantine::{Quarantine, Turn};
use crate::registry::{Entry, Registry, Run};
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
    pub(crate) quarantine: Quarantine,
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
    pub(crate) async fn execute(&self, held: &Held) -> Ended {
        let turn = match self.turn(held).await {
            Ok(turn) => turn,
            Err(error) => return self.not_started(&held.job, error),
        };
        let Held { job, stop, lost } = held;
        let started_at = self.clock.now();
        let Some((entry, Run::Each(run))) = self.registry.get(&job.kind).map(|e| (e, &e.run)) else {
            return self.unknown(job, started_at);
        };
        let mut cx = self.cx(job, entry, stop, started_at);
        let timeout = entry.spec.timeout;
        let end = {
            let run = AssertUnwindSafe(run(&mut cx, &job.args)).catch_unwind();
            tokio::select! {
                biased;
                // First, since most jobs end before any of the others had to be set up. One that ends as its
                // lease does writes nothing all the same: the fence sees to that.
                end = run => end.unwrap_or_else(|panic| Err(panicked(&*panic))),
                () = lost.cancelled() => Err(JobError::LeaseLost),
                // A job that watches its token gets a moment to stop by itself.
                () = after(stop, Duration::from_secs(2)) => Err(JobError::Cancelled),
                () = self.halt.cancelled() => Err(shut_down()),
                () = tokio::time::sleep(timeout) => Err(too_long(timeout)),
            }
        };
        stop.cancel();
        cx.close(end.is_err()).await;
        Quarantine::end(turn, &self.pool, job).await;
        Self::concluded(job, entry, &cx, end)
    }

    /// Runs one call of a batch kind to its end; one [`Ended`] for each of its jobs.
    pub(crate) async fn execute_batch(&self, bundle: &Bundle) -> Vec<Ended> {
        let Some(first) = bundle.jobs.first() else {
            return Vec::new();
        };
        // A suspect, or who was claimed beside one, comes alone.
        let turn = match self.turn(first).await {
            Ok(turn) => turn,
            Err(error) => {
                let not = |h: &Held| self.not_started(&h.job, error.clone());
                return bundle.jobs.iter().map(not).collect();
            }
        };
        let started_at = self.clock.now();
        let Some((entry, Run::Batch(_, run))) = self.registry.get(&first.job.kind).map(|e| (e, &e.run)) else {
            return bundle.jobs.iter().map(|h| self.unknown(&h.job, started_at)).collect();
        };
        let cxs: Vec<JobCx> = bundle
            .jobs
            .iter()
            .map(|h| self.cx(&h.job, entry, &h.stop, started_at))
            .collect();
        let args: Vec<&str> = bundle.jobs.iter().map(|h| &*h.job.args).collect();
        let timeout = entry.spec.timeout;
        let ends: Result<Vec<_>, JobError> = {
            let run = AssertUnwindSafe(run(&cxs, &args)).catch_unwind();
            tokio::select! {
                biased;
                ends = run => ends.map_err(|panic| panicked(&*panic)),
                () = first.lost.cancelled() => Err(JobError::LeaseLost),
                () = self.halt.cancelled() => Err(shut_down()),
                () = tokio::time::sleep(timeout) => Err(too_long(timeout)),
            }
        };
        let mut ends = ends.map(Vec::into_iter);
        let mut out = Vec::with_capacity(cxs.len());
        for (Held { job, stop, .. }, cx) in bundle.jobs.iter().zip(&cxs) {
            stop.cancel();
            let end = match &mut ends {
                Ok(ends) => ends.next().unwrap_or(Err(JobError::LeaseLost)),
                Err(error) => Err(error.clone()),
            };
            cx.close(end.is_err()).await;
            out.push(Self::concluded(job, entry, cx, end));
        }
        Quarantine::end(turn, &self.pool, &first.job).await;
        out
    }

    /// Waits for a job's leave to run; for nothing if no suspect is in its claim.
    async fn turn(&self, Held { job, stop, lost }: &Held) -> Result<Turn<'_>, JobError> {
        if !job.among_suspects {
            return Ok(Turn::Free);
        }
        tokio::select! {
            biased;
            () = lost.cancelled() => Err(JobError::LeaseLost),
            () = stop.cancelled() => Err(JobError::Cancelled),
            () = self.halt.cancelled() => Err(shut_down()),
            turn = self.quarantine.begin(&self.pool, job) => turn,
        }
    }

    fn not_started(&self, job: &Claimed, error: JobError) -> Ended {
        Outcome::of_error(error, job.attempt, job.max_attempts, Duration::ZERO).map_or(Ended::Lost, |outcome| {
            settled(job, self.clock.now(), job.marks, outcome)
        })
    }

    fn cx(&self, job: &Claimed, entry: &Entry, stop: &CancellationToken, started_at: DateTime<Utc>) -> JobCx {
        JobCx {
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
            cancel: stop.clone(),
            completed: AtomicBool::new(false),
            parent: job.parent,
            marks: AtomicI16::new(job.marks),
            children: Own::default(),
            progress: OnceLock::new(),
        }
    }

    fn unknown(&self, job: &Claimed, started_at: DateTime<Utc>) -> Ended {
        let text = format!("this worker does not know kind {:?}", job.kind);
        settled(job, started_at, job.marks, Outcome::Snooze(UNKNOWN_KIND_DELAY, text))
    }

    fn concluded(job: &Claimed, entry: &Entry, cx: &JobCx, end: Result<Value, JobError>) -> Ended {
        match end {
            _ if cx.is_completed() => Ended::Completed,
            Ok(report) => settled(job, cx.started_at, cx.marks(), Outcome::Done(report)),
            Err(error) => {
                let backoff = entry.spec.retry.delay(job.attempt.unsigned_abs(), rand::random());
                Outcome::of_error(error, job.attempt, job.max_attempts, backoff)
                    .map_or(Ended::Lost, |outcome| settled(job, cx.started_at, cx.marks(), outcome))
            }
        }
    }
}

fn settled(job: &Claimed, started_at: DateTime<Utc>, marks: i16, outcome: Outcome) -> Ended {
    Ended::Settle(Settled {
        id: job.id,
        attempt: job.attempt,
        keyed: job.keyed,
        parent: job.parent,
        marks,
        started_at,
        outcome,
    })
}

fn shut_down() -> JobError {
    JobError::Snooze(
        Duration::ZERO,
        "the worker shut down before the job had ended; it runs again".into(),
    )
}

fn too_long(timeout: Duration) -> JobError {
    JobError::Retry(format!("took longer than its time limit of {timeout:?}"))
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> JobError {
    JobError::Retry(format!("panicked: {}", panic_text(panic)))
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
