//! Wake-up: NOTIFY takes a cluster-wide lock at commit, so it is sent outside the enqueuing
//! transaction and at most 20 times a second per queue and process. A lost one costs latency
//! only: workers poll.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::admit::Gates;

const CHANNEL: &str = "causelist_ready";
const SPACING: Duration = Duration::from_millis(50);

/// When each queue's last NOTIFY was sent or is going to be.
static NEXT: LazyLock<Mutex<HashMap<String, Instant>>> = LazyLock::new(Mutex::default);

/// Tells the fleet's workers that a queue has something ready. Call it after the commit. Failing to
/// do so is no error: polling finds the jobs.
pub async fn notify_ready(pool: &PgPool, queue: &str) {
    let now = Instant::now();
    let at = {
        let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
        match next.get(queue) {
            // One is on its way already and will be sent after this commit.
            Some(planned) if *planned > now => return,
            Some(last) if *last + SPACING > now => {
                let at = *last + SPACING;
                next.insert(queue.to_owned(), at);
                at
            }
            _ => {
                next.insert(queue.to_owned(), now);
                now
            }
        }
    };
    if at <= now {
        send(pool, queue).await;
        return;
    }
    let (pool, queue) = (pool.clone(), queue.to_owned());
    tokio::spawn(async move {
        tokio::time::sleep_until(at.into()).await;
        send(&pool, &queue).await;
    });
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
