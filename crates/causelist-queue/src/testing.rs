//! For tests of jobs: one job through a real enqueue, claim, run and settle, without a worker.

use std::sync::Arc;
use std::time::Duration;

use causelist_core::{JobError, SystemClock, TenantId};
use serde_json::Value;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::claim::claim;
use crate::cx::States;
use crate::enqueue::{NewJob, enqueue};
use crate::job::{Job, PlannedJob};
use crate::registry::Registry;
use crate::run::{Ended, Runtime};
use crate::settle::{Outcome, settle};

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
    let claimed = claim(pool, Uuid::new_v4(), &queue, 1, Duration::from_secs(600))
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
    };
    match runtime
        .execute(&job, CancellationToken::new(), CancellationToken::new())
        .await
    {
        Ended::Lost => Err(JobError::LeaseLost),
        Ended::Completed => sqlx::query_scalar("select result from causelist.attempt where job_id = $1")
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
