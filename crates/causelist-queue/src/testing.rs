//! For tests: one job through a real enqueue, claim, run and settle, without a worker; and a [`Hand`]
//! that takes each step of a worker on its own.

use std::sync::atomic::{AtomicBool, AtomicI16};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use causelist_core::{Clock, JobError, JobId, SystemClock, TenantId};
use serde_json::Value;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::bundle::Held;
use crate::claim::{self, Claimed, Start, claim};
use crate::cx::{JobCx, States};
use crate::enqueue::{NewJob, enqueue};
use crate::family::Own;
use crate::job::{Job, PlannedJob};
use crate::quarantine::Quarantine;
use crate::registry::Registry;
use crate::run::{Ended, Runtime};
use crate::settle::{Outcome, Settled, settle, settle_whole};
use crate::{admit, upkeep};

/// Runs a planned job (really, or as a dry run, as its arguments say) and gives its result.
///
/// # Errors
/// How the job ended, if not well.
pub async fn run_planned<J: PlannedJob>(
    pool: &PgPool,
    job: J,
    tenant: Option<TenantId>,
    states: States,
) -> Result<Value, JobError> {
    let new = NewJob::planned(&job).map_err(|e| JobError::Permanent(e.to_string()))?;
    run_one(pool, Registry::default().planned::<J>(), new.tenant(tenant), states).await
}

/// Runs a simple job and gives its report.
///
/// # Errors
/// How the job ended, if not well.
pub async fn run_job<J: Job>(
    pool: &PgPool,
    job: J,
    tenant: Option<TenantId>,
    states: States,
) -> Result<Value, JobError> {
    let new = NewJob::of(&job).map_err(|e| JobError::Permanent(e.to_string()))?;
    run_one(pool, Registry::default().job::<J>(), new.tenant(tenant), states).await
}

async fn run_one(pool: &PgPool, registry: Registry, new: NewJob, states: States) -> Result<Value, JobError> {
    let fault = |e: &dyn std::fmt::Display| JobError::Retry(format!("test set-up: {e}"));
    let mut db = pool.acquire().await.map_err(|e| fault(&e))?;
    // A queue of its own, so that the claim takes this job and no other.
    let queue = format!("test-{}", Uuid::new_v4().simple());
    sqlx::query("insert into causelist.queue (name) values ($1)")
        .bind(&queue)
        .execute(&mut *db)
        .await
        .map_err(|e| fault(&e))?;
    enqueue(&mut db, new.queue(&queue)).await.map_err(|e| fault(&e))?;
    let claimed = claim(
        &mut db,
        Uuid::new_v4(),
        &queue.as_str().into(),
        Start::FIRST,
        1,
        Duration::from_secs(600),
    )
    .await
    .map_err(|e| fault(&e))?;
    let job = claimed
        .into_iter()
        .next()
        .ok_or_else(|| fault(&"the job was not claimed"))?;
    let runtime = Runtime {
        pool: pool.clone(),
        registry,
        states,
        clock: Arc::new(SystemClock),
        halt: CancellationToken::new(),
        quarantine: Quarantine::default(),
    };
    let held = Held {
        job,
        stop: CancellationToken::new(),
        lost: CancellationToken::new(),
    };
    let ended = runtime.execute(&held).await;
    let job = &held.job;
    match ended {
        Ended::Lost => Err(JobError::LeaseLost),
        // A parent has its own report only, until somebody runs its children.
        Ended::Completed => sqlx::query_scalar(
            "select result from causelist.attempt where job_id = $1
             union all select result from causelist.parent where id = $1",
        )
        .bind(job.id)
        .fetch_one(&mut *db)
        .await
        .map_err(|e| fault(&e)),
        Ended::Settle(settled) => {
            let outcome = settled.outcome.clone();
            settle(&mut db, job.fence, &[settled]).await.map_err(|e| fault(&e))?;
            match outcome {
                Outcome::Done(value) => Ok(value),
                Outcome::Retry(delay, text) => Err(JobError::RetryAfter(delay, text)),
                Outcome::Snooze(delay, text) => Err(JobError::Snooze(delay, text)),
                Outcome::Discarded(text) => Err(JobError::Discard(text)),
                Outcome::Dead(_, text) => Err(JobError::Permanent(text)),
                Outcome::Cancelled => Err(JobError::Cancelled),
            }
        }
    }
}

/// What a worker does, one step at a time, in whatever order a test wants.
#[derive(Debug)]
pub struct Hand {
    pool: PgPool,
    id: Uuid,
}

/// A job in a [`Hand`]. It stays one when the lease is lost, so that a test can try to use it.
#[derive(Debug)]
pub struct Taken(Claimed);

impl Taken {
    /// The job.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.0.id
    }

    /// The number of this attempt.
    #[must_use]
    pub fn attempt(&self) -> i16 {
        self.0.attempt
    }

    /// Whose it is.
    #[must_use]
    pub fn tenant(&self) -> Option<TenantId> {
        self.0.tenant
    }

    /// Its place in the order.
    #[must_use]
    pub fn rank(&self) -> i64 {
        self.0.rank
    }

    /// The fence under which it was claimed.
    #[must_use]
    pub fn fence(&self) -> i64 {
        self.0.fence
    }
}

impl Hand {
    /// The delay of every retry that names none: long enough for a test to notice.
    pub const BACKOFF: Duration = Duration::from_secs(3600);

    /// A worker of its own.
    #[must_use]
    pub fn new(pool: &PgPool) -> Self {
        Self {
            pool: pool.clone(),
            id: Uuid::new_v4(),
        }
    }

    /// Claims up to `limit` jobs of a queue.
    ///
    /// # Errors
    /// What the database says.
    pub async fn claim(&self, queue: &str, limit: usize, lease: Duration) -> sqlx::Result<Vec<Taken>> {
        let jobs = claim(
            &mut *self.pool.acquire().await?,
            self.id,
            &queue.into(),
            Start::FIRST,
            limit,
            lease,
        )
        .await?;
        Ok(jobs.into_iter().map(Taken).collect())
    }

    /// Settles jobs of one claim as their ends say; gives how many were recorded. What their contexts
    /// ([`Hand::cx`]) learned is not looked at.
    ///
    /// # Errors
    /// What the database says.
    pub async fn settle(&self, fence: i64, ends: &[(&Taken, Result<Value, JobError>)]) -> sqlx::Result<u64> {
        let batch: Vec<Settled> = ends
            .iter()
            .filter_map(|(Taken(job), end)| {
                let outcome = match end {
                    Ok(value) => Outcome::Done(value.clone()),
                    Err(error) => Outcome::of_error(error.clone(), job.attempt, job.max_attempts, Self::BACKOFF)?,
                };
                Some(Settled {
                    id: job.id,
                    attempt: job.attempt,
                    keyed: job.keyed,
                    parent: job.parent,
                    marks: job.marks,
                    started_at: SystemClock.now(),
                    outcome,
                })
            })
            .collect();
        settle(&mut *self.pool.acquire().await?, fence, &batch).await
    }

    /// Settles a claim of which every job left is done, and none has a key; gives how many were
    /// recorded.
    ///
    /// # Errors
    /// What the database says.
    pub async fn settle_whole(&self, fence: i64, jobs: &[&Taken]) -> sqlx::Result<u64> {
        let batch: Vec<Settled> = jobs
            .iter()
            .map(|Taken(job)| Settled {
                id: job.id,
                attempt: job.attempt,
                keyed: job.keyed,
                parent: job.parent,
                marks: job.marks,
                started_at: SystemClock.now(),
                outcome: Outcome::Done(serde_json::json!({})),
            })
            .collect();
        settle_whole(&mut *self.pool.acquire().await?, &[(fence, &batch)]).await
    }

    /// Gives jobs of one claim back as never started; whether the claim still held any of them.
    ///
    /// # Errors
    /// What the database says.
    pub async fn release(&self, fence: i64, jobs: &[&Taken]) -> sqlx::Result<bool> {
        let jobs: Vec<&Claimed> = jobs.iter().map(|t| &t.0).collect();
        Ok(claim::release(&mut *self.pool.acquire().await?, fence, &jobs).await? > 0)
    }

    /// Says that a suspect is about to run, as a worker does.
    ///
    /// # Errors
    /// What the database says, or that the lease was lost.
    pub async fn begin(&self, Taken(job): &Taken) -> Result<(), JobError> {
        Quarantine::default().begin(&self.pool, job).await.map(drop)
    }

    /// Renews claims; gives those that still hold, and which of the jobs somebody wants stopped.
    ///
    /// # Errors
    /// What the database says.
    pub async fn renew(&self, fences: &[i64], ids: &[JobId], lease: Duration) -> sqlx::Result<(Vec<i64>, Vec<JobId>)> {
        let renewed = claim::renew(&mut *self.pool.acquire().await?, fences, ids, lease).await?;
        Ok((renewed.held, renewed.cancel))
    }

    /// The context with which a worker would run the job.
    #[must_use]
    pub fn cx(&self, Taken(job): &Taken) -> JobCx {
        JobCx {
            id: job.id,
            tenant: job.tenant,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            keyed: job.keyed,
            fence: job.fence,
            trace: job.trace.clone(),
            now: job.created_at,
            started_at: SystemClock.now(),
            timeout: Duration::from_secs(60),
            pool: self.pool.clone(),
            states: States::default(),
            cancel: CancellationToken::new(),
            completed: AtomicBool::new(false),
            parent: job.parent,
            marks: AtomicI16::new(job.marks),
            children: Own::default(),
            progress: OnceLock::new(),
        }
    }
}

/// Moves what has come due to where it can be claimed; gives the queues.
///
/// # Errors
/// What the database says.
pub async fn promote(pool: &PgPool) -> sqlx::Result<Vec<String>> {
    upkeep::promote(pool).await
}

/// Lets waiting jobs of the queues pass their gates, one batch; gives how many did.
///
/// # Errors
/// What the database says.
pub async fn admit(pool: &PgPool, queues: &[&str]) -> sqlx::Result<i32> {
    let queues: Vec<String> = queues.iter().map(|&q| q.to_owned()).collect();
    Ok(admit::admit(pool, &queues).await?.jobs)
}

/// Takes the jobs of expired claims away; gives how many run again and how many are dead.
///
/// # Errors
/// What the database says.
pub async fn rescue(pool: &PgPool) -> sqlx::Result<(i64, i64)> {
    let rescued = upkeep::rescue(pool).await?;
    Ok((rescued.again, rescued.dead))
}
