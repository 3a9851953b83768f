//! Queues: make, pause and resume them. What is in them is in [`crate::stats`].

use sqlx::PgPool;

use crate::wake;

/// Why nothing was done to a queue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// There is no such queue.
    #[error("queue {0:?} does not exist: `causelist queues list` shows all, `causelist queues create` makes one")]
    Unknown(String),
    /// There is one of that name.
    #[error("queue {0:?} exists already")]
    Exists(String),
    /// A queue can't be called that.
    #[error("queue {0:?}: a name must be 1 to 63 of a-z, 0-9, '_' and '-', beginning with a letter")]
    Name(String),
    /// The database refused or couldn't be reached.
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
}

/// Makes a queue. It is empty and not paused; a worker takes from it once it is told to
/// (`worker.queues`).
///
/// # Errors
/// When there is one of that name or the name won't do.
pub async fn create(pool: &PgPool, name: &str) -> Result<(), QueueError> {
    let made = sqlx::query("insert into causelist.queue (name) values ($1) on conflict do nothing")
        .bind(name)
        .execute(pool)
        .await;
    match made {
        Ok(done) if done.rows_affected() == 0 => Err(QueueError::Exists(name.to_owned())),
        Ok(_) => Ok(()),
        // The table's own check of the name, or a NUL in it, which is no text at all.
        Err(sqlx::Error::Database(e)) if e.is_check_violation() || e.code().as_deref() == Some("22021") => {
            Err(QueueError::Name(name.chars().take(64).collect()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Lets a queue rest: nothing more is claimed from it. What runs goes on; what comes waits. False:
/// it was paused already.
///
/// # Errors
/// When there is no such queue.
pub async fn pause(pool: &PgPool, name: &str) -> Result<bool, QueueError> {
    set_paused(pool, name, true).await
}

/// Lets a paused queue go on. False: it was not paused.
///
/// # Errors
/// When there is no such queue.
pub async fn resume(pool: &PgPool, name: &str) -> Result<bool, QueueError> {
    let changed = set_paused(pool, name, false).await?;
    if changed {
        wake::notify_ready(pool, name).await;
    }
    Ok(changed)
}

async fn set_paused(pool: &PgPool, name: &str, paused: bool) -> Result<bool, QueueError> {
    // The row as it was before the update: of two callers at once, one changes it.
    let was: Option<bool> = sqlx::query_scalar(
        "with was as (select name, paused from causelist.queue where name = $1 for update),
              set as (update causelist.queue q set paused = $2 from was where q.name = was.name and was.paused <> $2)
         select paused from was",
    )
    .bind(name)
    .bind(paused)
    .fetch_optional(pool)
    .await?;
    was.map(|was| was != paused)
        .ok_or_else(|| QueueError::Unknown(name.chars().take(64).collect()))
}
