//! Admission: lets waiting jobs pass their gates into `ready`. The rules are in [`crate::limits`], the
//! counting in the SQL function `causelist.admit`.
//!
//! Every worker admits for the queues that it takes from: after jobs have ended, when it is woken, and at
//! every poll. Where no rule exists and nothing waits, only the poll remains, with one look at an empty
//! table.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::{FromRow, PgPool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::wake;

/// Jobs that one call lets pass.
const BATCH: i32 = 200;
/// Pause between two looks, so that many ends at the same time are one; thrice the time of a look, if
/// that is longer.
const SPACING: Duration = Duration::from_millis(10);

/// Says when another look is due.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    /// Some rule exists, or something waits.
    used: AtomicBool,
    call: Notify,
}

impl Gates {
    /// Room may have come free, or a job may have come to wait.
    pub(crate) fn nudge(&self) {
        if self.used.load(Ordering::Relaxed) {
            self.call.notify_one();
        }
    }
}

/// What one call did.
#[derive(Debug, FromRow)]
pub(crate) struct Admitted {
    /// off, busy or on: see `causelist.admit`.
    state: String,
    /// The queues that got jobs.
    pub(crate) queues: Vec<String>,
    /// How many.
    pub(crate) jobs: i32,
    more: bool,
}

/// Lets waiting jobs of these queues pass, as far as there is room; one batch.
pub(crate) async fn admit(pool: &PgPool, queues: &[String]) -> sqlx::Result<Admitted> {
    sqlx::query_as("select state, queues, jobs, more from causelist.admit($1, $2)")
        .bind(queues)
        .bind(BATCH)
        .fetch_one(pool)
        .await
}

/// Admits until `over`.
pub(crate) async fn keep_admitting(
    pool: PgPool,
    queues: Vec<String>,
    poll: Duration,
    gates: Arc<Gates>,
    wake: Arc<Notify>,
    over: CancellationToken,
) {
    while !over.is_cancelled() {
        let begun = Instant::now();
        let mut again = false;
        match admit(&pool, &queues).await {
            Ok(done) => {
                gates.used.store(done.state != "off", Ordering::Relaxed);
                again = done.more || done.state == "busy";
                if done.jobs > 0 {
                    wake.notify_one();
                }
                for queue in &done.queues {
                    wake::notify_ready(&pool, queue).await;
                }
                if done.more {
                    continue;
                }
            }
            Err(error) => tracing::warn!(%error, "could not let waiting jobs pass"),
        }
        tokio::select! {
            () = over.cancelled() => return,
            () = tokio::time::sleep(SPACING.max(begun.elapsed() * 3)) => {}
        }
        if again {
            continue;
        }
        tokio::select! {
            () = over.cancelled() => return,
            () = gates.call.notified() => {}
            () = tokio::time::sleep(poll) => {}
        }
    }
}
