//! What a running job is handed.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use causelist_core::{JobError, JobId, TenantId};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use tokio_util::sync::CancellationToken;

use crate::error::db_error;
use crate::settle::{Outcome, Settled, settle};

/// Clients and settings that jobs need, by type.
#[derive(Debug, Clone, Default)]
pub struct States(Arc<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl States {
    /// Adds a value; one of the same type is replaced.
    #[must_use]
    pub fn with<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        Arc::make_mut(&mut self.0).insert(TypeId::of::<T>(), Arc::new(value));
        self
    }

    fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0.get(&TypeId::of::<T>()).cloned().and_then(|v| v.downcast().ok())
    }
}

/// The context of one attempt.
#[derive(Debug)]
pub struct JobCx {
    pub(crate) id: JobId,
    pub(crate) tenant: Option<TenantId>,
    pub(crate) attempt: i16,
    pub(crate) max_attempts: i16,
    pub(crate) keyed: bool,
    pub(crate) fence: i64,
    pub(crate) trace: Option<String>,
    pub(crate) now: DateTime<Utc>,
    pub(crate) started_at: DateTime<Utc>,
    pub(crate) timeout: std::time::Duration,
    pub(crate) pool: PgPool,
    pub(crate) states: States,
    pub(crate) cancel: CancellationToken,
    pub(crate) completed: AtomicBool,
}

impl JobCx {
    /// The instant at which the run happens: a planned job's `executedAt`, else the moment the job
    /// was enqueued. The same in every attempt.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.now
    }

    /// The tenant the job is for; none: every active one.
    #[must_use]
    pub fn tenant(&self) -> Option<TenantId> {
        self.tenant
    }

    /// The job's id.
    #[must_use]
    pub fn job_id(&self) -> JobId {
        self.id
    }

    /// The number of this attempt; 1 is the first.
    #[must_use]
    pub fn attempt(&self) -> u16 {
        self.attempt.unsigned_abs()
    }

    /// Whether no further attempt follows a failure of this one.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        self.attempt >= self.max_attempts
    }

    /// The fence under which the job is held.
    #[must_use]
    pub fn fence(&self) -> i64 {
        self.fence
    }

    /// The W3C traceparent that came with the job.
    #[must_use]
    pub fn trace(&self) -> Option<&str> {
        self.trace.as_deref()
    }

    /// The database, for reads. What a job writes belongs into [`JobCx::begin`].
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Fires when the job should stop: it was cancelled, its lease is nearly over, its time is up.
    #[must_use]
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancel
    }

    /// A client or setting that was given to the worker.
    ///
    /// # Errors
    /// When there is none of this type: the worker is not set up for this kind of job.
    pub fn state<T: Send + Sync + 'static>(&self) -> Result<Arc<T>, JobError> {
        self.states.get::<T>().ok_or_else(|| {
            JobError::Permanent(format!(
                "this worker was built without a {}",
                std::any::type_name::<T>()
            ))
        })
    }

    /// Begins a transaction that can only be committed while the lease holds.
    ///
    /// # Errors
    /// When the database can't be reached.
    pub async fn begin(&self) -> Result<FencedTx<'_>, JobError> {
        let tx = self.pool.begin().await.map_err(db_error)?;
        Ok(FencedTx { cx: self, tx })
    }

    /// Whether the job was recorded as done by [`FencedTx::complete`].
    pub(crate) fn is_completed(&self) -> bool {
        self.completed.load(Ordering::Acquire)
    }
}

/// A transaction under the job's fence. Dropped, it rolls back.
#[derive(Debug)]
pub struct FencedTx<'a> {
    cx: &'a JobCx,
    tx: Transaction<'static, Postgres>,
}

impl FencedTx<'_> {
    /// Commits the job's writes together with its completion: both take place, or neither.
    ///
    /// # Errors
    /// [`JobError::LeaseLost`] when another worker has the job by now; nothing was written.
    pub async fn complete<R: Serialize + Sync>(mut self, report: &R) -> Result<(), JobError> {
        let result = serde_json::to_value(report)
            .map_err(|e| JobError::Permanent(format!("the report can't be written as JSON: {e}")))?;
        let settled = Settled {
            id: self.cx.id,
            attempt: self.cx.attempt,
            keyed: self.cx.keyed,
            started_at: self.cx.started_at,
            outcome: Outcome::Done(result),
        };
        let recorded = settle(&mut self.tx, self.cx.fence, &[settled])
            .await
            .map_err(db_error)?;
        if recorded == 0 {
            return Err(JobError::LeaseLost);
        }
        self.tx.commit().await.map_err(db_error)?;
        self.cx.completed.store(true, Ordering::Release);
        Ok(())
    }

    /// Commits the job's writes if the lease still holds; the job goes on.
    ///
    /// # Errors
    /// [`JobError::LeaseLost`] when another worker has the job by now; nothing was written.
    pub async fn commit_part(mut self) -> Result<(), JobError> {
        let held: Option<i64> =
            sqlx::query_scalar("select id from causelist.claim where id = $1 and $2 = any (ids) for share")
                .bind(self.cx.fence)
                .bind(self.cx.id)
                .fetch_optional(&mut *self.tx)
                .await
                .map_err(db_error)?;
        if held.is_none() {
            return Err(JobError::LeaseLost);
        }
        self.tx.commit().await.map_err(db_error)
    }
}

impl Deref for FencedTx<'_> {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.tx
    }
}

impl DerefMut for FencedTx<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}
