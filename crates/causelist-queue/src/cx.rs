//! What a running job is handed.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicI16, Ordering};
use std::sync::{Arc, OnceLock};

use causelist_core::{JobError, JobId, TenantId};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use tokio_util::sync::CancellationToken;

use crate::enqueue::NewJob;
use crate::error::db_error;
use crate::family::{self, marks};
use crate::progress::{self, CHECKPOINT, checkpoint_value};
use crate::settle::{Outcome, Settled, settle_in};
use crate::wake::notify_ready;

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
    pub(crate) parent: Option<JobId>,
    /// What is known of the job by now.
    pub(crate) marks: AtomicI16,
    pub(crate) children: family::Own,
    /// Made when it is first used.
    pub(crate) progress: OnceLock<Arc<progress::Writer>>,
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
        Ok(FencedTx {
            cx: self,
            tx,
            checkpoint: None,
        })
    }

    /// The job that this one is a part of.
    #[must_use]
    pub fn parent(&self) -> Option<JobId> {
        self.parent
    }

    /// Makes a new job a child of this one, with its tenant and trace unless it has its own. Enqueue it in
    /// a transaction of [`JobCx::begin`] (best in the one that completes the job: then all children are
    /// there, once). This job is finished when all its children have ended.
    #[must_use]
    pub fn child(&self, job: NewJob) -> NewJob {
        self.mark(marks::PARENT);
        self.children.add(job.queue_name());
        let mut job = job.parent(self.id);
        job.fence = Some(self.fence);
        job.tenant = job.tenant.or(self.tenant);
        job.trace = job.trace.or_else(|| self.trace.clone());
        job
    }

    /// Says how far the job has come, for people. Call it as often as you like: it is written once a
    /// second at most, and the last word always.
    ///
    /// # Errors
    /// [`JobError::LeaseLost`] when another worker has the job by now. A database that is away is no
    /// error.
    pub async fn progress(&self, done: u64, total: impl Into<Option<u64>>, note: &str) -> Result<(), JobError> {
        self.mark(marks::NOTED);
        let writer = self
            .progress
            .get_or_init(|| progress::Writer::new(self.pool.clone(), self.id, self.fence));
        writer.say(done, total.into(), note).await
    }

    /// Stores what the next attempt goes on from, should this one not come to its end: up to 64 KiB as
    /// JSON. What was done so far must be committed by then; [`FencedTx::checkpoint`] does both at once.
    ///
    /// # Errors
    /// [`JobError::LeaseLost`] when another worker has the job by now: nothing was written.
    /// [`JobError::Permanent`] when the value can't be stored.
    pub async fn checkpoint<T: Serialize + Sync + ?Sized>(&self, value: &T) -> Result<(), JobError> {
        let value = checkpoint_value(value)?;
        let mut db = self.pool.acquire().await.map_err(db_error)?;
        self.write_checkpoint(&mut db, value).await
    }

    async fn write_checkpoint(&self, db: &mut PgConnection, value: Value) -> Result<(), JobError> {
        self.mark(marks::NOTED);
        let written = sqlx::query(CHECKPOINT)
            .bind(self.fence)
            .bind(self.id)
            .bind(value)
            .execute(db)
            .await
            .map_err(db_error)?;
        if written.rows_affected() == 0 {
            return Err(JobError::LeaseLost);
        }
        Ok(())
    }

    /// The last checkpoint that this or an earlier attempt wrote; none at the first.
    ///
    /// # Errors
    /// [`JobError::Permanent`] when it can't be read as this type.
    pub async fn last_checkpoint<T: DeserializeOwned>(&self) -> Result<Option<T>, JobError> {
        let Some(value) = progress::last_checkpoint(&self.pool, self.id).await? else {
            return Ok(None);
        };
        serde_json::from_value(value)
            .map(Some)
            .map_err(|e| JobError::Permanent(format!("the checkpoint of an earlier attempt can't be read: {e}")))
    }

    pub(crate) fn marks(&self) -> i16 {
        self.marks.load(Ordering::Acquire)
    }

    /// Its run is over: no more progress is written. `stays`: it is not finished; nor is a parent.
    pub(crate) async fn close(&self, stays: bool) {
        if let Some(writer) = self.progress.get() {
            writer.close(stays || self.marks() & marks::PARENT != 0).await;
        }
    }

    /// What completing the job in a transaction records.
    pub(crate) async fn done(&self, result: Value) -> Settled {
        // Nothing is to be written once the settle has removed it.
        self.close(false).await;
        Settled {
            id: self.id,
            attempt: self.attempt,
            keyed: self.keyed,
            parent: self.parent,
            marks: self.marks(),
            started_at: self.started_at,
            outcome: Outcome::Done(result),
        }
    }

    /// That transaction was committed.
    pub(crate) async fn committed(&self) {
        self.completed.store(true, Ordering::Release);
        self.wake().await;
    }

    fn mark(&self, bit: i16) {
        self.marks.fetch_or(bit, Ordering::AcqRel);
    }

    /// After a commit: wakes the workers for the children that it enqueued.
    async fn wake(&self) {
        for queue in self.children.take_queues() {
            notify_ready(&self.pool, &queue).await;
        }
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
    checkpoint: Option<Value>,
}

impl FencedTx<'_> {
    /// Commits the job's writes together with its completion: both take place, or neither.
    ///
    /// # Errors
    /// [`JobError::LeaseLost`] when another worker has the job by now; nothing was written.
    pub async fn complete<R: Serialize + Sync>(mut self, report: &R) -> Result<(), JobError> {
        let result = serde_json::to_value(report)
            .map_err(|e| JobError::Permanent(format!("the report can't be written as JSON: {e}")))?;
        let settled = self.cx.done(result).await;
        let recorded = settle_in(&mut self.tx, self.cx.fence, &[settled])
            .await
            .map_err(db_error)?;
        if recorded.jobs == 0 {
            return Err(JobError::LeaseLost);
        }
        self.tx.commit().await.map_err(db_error)?;
        self.cx.committed().await;
        family::finish_after(&self.cx.pool, recorded.parents).await;
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
        if let Some(value) = self.checkpoint.take() {
            self.cx.write_checkpoint(&mut self.tx, value).await?;
        }
        self.tx.commit().await.map_err(db_error)?;
        self.cx.wake().await;
        Ok(())
    }

    /// Has [`FencedTx::commit_part`] store this checkpoint together with the job's writes: both, or
    /// neither. A job that completes needs none.
    ///
    /// # Errors
    /// [`JobError::Permanent`] when the value can't be stored.
    pub fn checkpoint<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), JobError> {
        self.checkpoint = Some(checkpoint_value(value)?);
        Ok(())
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
