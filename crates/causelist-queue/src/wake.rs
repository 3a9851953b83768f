//! Wake-up: NOTIFY takes a cluster-wide lock at commit, so a process sends at most one in ten
//! milliseconds for a queue: with the job where that is allowed, else after the commit. A lost one
//! costs latency only: workers poll.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::admit::Gates;
use crate::enqueue::Enqueued;

pub(crate) const CHANNEL: &str = "causelist_ready";
/// Commits with a NOTIFY follow each other, one fsync each: 100 a second leave the lock free nearly
/// always, and tell of each job at once where there are fewer than that.
const SPACING: Duration = Duration::from_millis(10);

/// When each queue's last NOTIFY was sent or is going to be.
static LAST: LazyLock<Mutex<HashMap<String, Instant>>> = LazyLock::new(Mutex::default);

/// Whether a NOTIFY may be sent now. If so, one counts as sent.
pub(crate) fn may_tell(queue: &str) -> bool {
    let now = Instant::now();
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match last.get_mut(queue) {
        Some(last) if *last + SPACING > now => false,
        Some(last) => {
            *last = now;
            true
        }
        None => {
            last.insert(queue.to_owned(), now);
            true
        }
    }
}

/// Tells the fleet's workers that a queue has something ready. Call it after the commit. Failing to
/// do so is no error: polling finds the jobs.
pub async fn notify_ready(pool: &PgPool, queue: &str) {
    if may_tell(queue) {
        send(pool, queue).await;
        return;
    }
    let at = {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let last = last.entry(queue.to_owned()).or_insert(now);
        if *last > now {
            // One is on its way already and will be sent after this commit.
            return;
        }
        *last += SPACING;
        *last
    };
    let (pool, queue) = (pool.clone(), queue.to_owned());
    tokio::spawn(async move {
        tokio::time::sleep_until(at.into()).await;
        send(&pool, &queue).await;
    });
}

/// The same after an enqueue that may have told of its job already.
pub async fn notify_enqueued(pool: &PgPool, queue: &str, made: &Enqueued) {
    if !made.told && !made.duplicate {
        notify_ready(pool, queue).await;
    }
}

async fn send(pool: &PgPool, queue: &str) {
    let sent = sqlx::query("select pg_notify($1, $2)")
        .bind(CHANNEL)
        .bind(queue)
        .execute(pool)
        .await;
    if let Err(error) = sent {
        tracing::debug!(%error, queue, "could not notify; workers will find the jobs by polling");
    }
}

/// Listens until `stop` and passes each NOTIFY on. Needs a connection of its own; behind a
/// transaction pooler it hears nothing, which costs latency only.
pub(crate) async fn listen(pool: PgPool, wake: Arc<Notify>, gates: Arc<Gates>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let run = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            // What was enqueued while nobody listened.
            wake.notify_one();
            loop {
                // None: the connection broke and was made anew; something may have been missed.
                listener.try_recv().await?;
                wake.notify_one();
                gates.nudge();
            }
        };
        let end: Result<(), sqlx::Error> = tokio::select! {
            () = stop.cancelled() => return,
            end = run => end,
        };
        if let Err(error) = end {
            tracing::debug!(%error, "listening for wake-ups failed; polling goes on");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
    }
}
