//! How far a job has come, for people, and checkpoints that its next attempt goes on from. Both are one
//! row of `causelist.progress`, written under the job's fence; it goes when the job is finished, and
//! stays over retries, crashes and death.

use std::sync::Arc;
use std::time::Duration;

use causelist_core::{JobError, JobId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::db_error;

/// How far a job has come, as it said itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Steps done.
    pub done: Option<i64>,
    /// Steps in all, if it knows.
    pub total: Option<i64>,
    /// What it is at.
    pub note: Option<String>,
    /// When it was last heard of.
    pub at: DateTime<Utc>,
    /// What its next attempt goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Value>,
}

/// Between two writes of one job's progress.
const SPACING: Duration = Duration::from_secs(1);
/// A checkpoint's limit, in bytes of JSON text.
const CHECKPOINT_LIMIT: usize = 64 * 1024;
/// A note is cut to this many characters.
const NOTE_LIMIT: usize = 500;

#[derive(Debug, Clone, PartialEq)]
struct Said {
    done: i64,
    total: Option<i64>,
    note: String,
}

/// Writes one attempt's progress, once a second at most. What is said in between is written when the
/// second is over, or at the end.
#[derive(Debug)]
pub(crate) struct Writer {
    pool: PgPool,
    id: JobId,
    fence: i64,
    /// Held while it writes, so that nothing is written once it was closed.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    written: Option<Instant>,
    pending: Option<Said>,
    closed: bool,
}

impl Writer {
    pub(crate) fn new(pool: PgPool, id: JobId, fence: i64) -> Arc<Self> {
        Arc::new(Self {
            pool,
            id,
            fence,
            state: Mutex::default(),
        })
    }

    pub(crate) async fn say(self: &Arc<Self>, done: u64, total: Option<u64>, note: &str) -> Result<(), JobError> {
        let clamp = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let note = note.chars().map(|c| if c == '\0' { '\u{fffd}' } else { c });
        let said = Said {
            done: clamp(done),
            total: total.map(clamp),
            note: note.take(NOTE_LIMIT).collect(),
        };
        let mut state = self.state.lock().await;
        if state.closed {
            return Ok(());
        }
        if let Some(left) = state.written.and_then(|at| SPACING.checked_sub(at.elapsed())) {
            if state.pending.replace(said).is_none() {
                let writer = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep(left).await;
                    // A lost lease is told to the job itself, elsewhere.
                    let _ = writer.flush().await;
                });
            }
            return Ok(());
        }
        self.write(&mut state, said).await
    }

    async fn flush(&self) -> Result<(), JobError> {
        let mut state = self.state.lock().await;
        match state.pending.take() {
            Some(said) => self.write(&mut state, said).await,
            None => Ok(()),
        }
    }

    /// Nothing is written from now on. `keep`: the row may outlive the attempt, so the last word is
    /// written before.
    pub(crate) async fn close(&self, keep: bool) {
        let mut state = self.state.lock().await;
        state.closed = true;
        if let Some(said) = state.pending.take().filter(|_| keep) {
            let _ = self.write(&mut state, said).await;
        }
    }

    async fn write(&self, state: &mut State, said: Said) -> Result<(), JobError> {
        state.written = Some(Instant::now());
        let written = sqlx::query(
            "with held as materialized (
                 select id from causelist.claim where id = $1 and $2 = any (ids) for key share)
             insert into causelist.progress (id, done, total, note) select $2, $3, $4, nullif($5, '') from held
             on conflict (id) do update
                 set done = excluded.done, total = excluded.total, note = excluded.note, at = excluded.at",
        )
        .bind(self.fence)
        .bind(self.id)
        .bind(said.done)
        .bind(said.total)
        .bind(said.note)
        .execute(&self.pool)
        .await;
        match written {
            Ok(done) if done.rows_affected() == 0 => Err(JobError::LeaseLost),
            Ok(_) => Ok(()),
            // What people see is not worth a failure.
            Err(error) => {
                tracing::debug!(%error, job = self.id, "could not write progress");
                Ok(())
            }
        }
    }
}

/// Writes a checkpoint if the lease holds; the claim's row is locked by the same statement.
pub(crate) const CHECKPOINT: &str = "
with held as materialized (
    select id from causelist.claim where id = $1 and $2 = any (ids) for key share)
insert into causelist.progress (id, checkpoint) select $2, $3 from held
on conflict (id) do update set checkpoint = excluded.checkpoint, at = excluded.at";

/// A checkpoint as it is stored.
pub(crate) fn checkpoint_value<T: Serialize + ?Sized>(value: &T) -> Result<Value, JobError> {
    let value = serde_json::to_value(value)
        .map_err(|e| JobError::Permanent(format!("the checkpoint can't be written as JSON: {e}")))?;
    let text = value.to_string();
    if text.len() > CHECKPOINT_LIMIT {
        return Err(JobError::Permanent(format!(
            "the checkpoint takes {} bytes, the limit is {CHECKPOINT_LIMIT}: store the data elsewhere and keep its id",
            text.len()
        )));
    }
    if has_nul(&value) {
        return Err(JobError::Permanent(
            "the checkpoint holds a NUL character (\\u0000), which can't be stored: remove it".into(),
        ));
    }
    Ok(value)
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(k, v)| k.contains('\0') || has_nul(v)),
        _ => false,
    }
}

/// The checkpoint that an attempt of this job, this one or an earlier one, wrote last.
pub(crate) async fn last_checkpoint(pool: &PgPool, id: JobId) -> Result<Option<Value>, JobError> {
    let found: Option<Option<Value>> = sqlx::query_scalar("select checkpoint from causelist.progress where id = $1")
        .bind(id)
        .fetch_optional(pool)
        .await
        .map_err(db_error)?;
    Ok(found.flatten())
}
