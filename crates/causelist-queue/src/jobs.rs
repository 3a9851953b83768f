//! Looking at jobs and acting on them: list, show, cancel, wait.

use std::time::Duration;

use causelist_core::{JobId, TenantId};
use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgPool};
use tokio::time::Instant;
use uuid::Uuid;

use crate::wake::notify_ready;

/// Ids are texts in JSON: a reader need not know how many digits its numbers keep.
pub(crate) fn id_as_text<S: Serializer>(id: &JobId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// A job as people see it.
#[derive(Debug, Clone, Serialize, FromRow)]
#[serde(rename_all = "camelCase")]
pub struct JobRecord {
    /// The job's id.
    #[serde(serialize_with = "id_as_text")]
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    /// The queue it waits or waited in.
    pub queue: String,
    /// Lower runs first.
    pub priority: i16,
    /// Whose it is.
    pub tenant: Option<Uuid>,
    /// ready, waiting (for a limit), scheduled, running, done, discarded, cancelled or dead.
    pub state: String,
    /// Its arguments.
    pub args: Value,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// Attempts it may take.
    pub max_attempts: i16,
    /// Finished attempts.
    pub attempts: i64,
    /// When the last attempt ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// What the last attempt said went wrong.
    pub error: Option<String>,
    /// What it reported.
    pub result: Option<Value>,
    /// For a scheduled job: when it becomes ready.
    pub run_at: Option<DateTime<Utc>>,
}

/// One finished attempt.
#[derive(Debug, Clone, Serialize, FromRow)]
#[serde(rename_all = "camelCase")]
pub struct AttemptRecord {
    /// 1 is the first.
    pub attempt: i16,
    /// done, retry, snooze, discarded, dead, cancelled, uncertain or crashed.
    pub outcome: String,
    /// The worker's id.
    pub worker: Uuid,
    /// When it was claimed.
    pub claimed_at: DateTime<Utc>,
    /// When it began to run; unknown after a crash.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// What went wrong.
    pub error: Option<String>,
    /// What it reported.
    pub result: Option<Value>,
}

/// Which jobs to list; newest first.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only this kind.
    pub kind: Option<String>,
    /// Only this tenant's.
    pub tenant: Option<TenantId>,
    /// Only in this state.
    pub state: Option<String>,
    /// Only jobs enqueued before this one (the last id of the page before).
    pub before: Option<JobId>,
    /// At most this many.
    pub limit: i64,
}

/// The states that a filter may name.
pub const STATES: [&str; 8] = [
    "ready",
    "waiting",
    "scheduled",
    "running",
    "done",
    "discarded",
    "cancelled",
    "dead",
];

const RECORD: &str = "
select j.id, j.kind, j.queue, j.priority, j.tenant, coalesce(causelist.job_state(j.id), 'ready') as state, j.args,
       j.created_at, j.max_attempts,
       (select count(*) from causelist.attempt a where a.job_id = j.id) as attempts,
       last.finished_at, last.error, last.result,
       (select s.run_at from causelist.scheduled s where s.id = j.id limit 1) as run_at
from causelist.job j
left join lateral (
    select a.finished_at, a.error, a.result from causelist.attempt a
    where a.job_id = j.id order by a.finished_at desc, a.fence desc limit 1) last on true";

/// Lists jobs.
///
/// # Errors
/// When the database can't be reached.
pub async fn list(db: &mut PgConnection, filter: &JobFilter) -> sqlx::Result<Vec<JobRecord>> {
    // Unfinished jobs are few beside the history, and their places know them.
    let place = match filter.state.as_deref() {
        Some("ready") => "j.id in (select id from causelist.ready) and",
        Some("waiting") => "j.id in (select id from causelist.waiting) and",
        Some("scheduled") => "j.id in (select id from causelist.scheduled) and",
        Some("running") => "j.id in (select unnest(ids) from causelist.claim) and",
        Some("dead") => "j.id in (select id from causelist.dead) and",
        Some(_) => "exists (select from causelist.attempt a where a.job_id = j.id and a.outcome = $4) and",
        None => "",
    };
    let sql = format!(
        "{RECORD}
         where ($1::text is null or j.kind = $1) and ($2::uuid is null or j.tenant = $2)
           and ($3::bigint is null or j.id < $3)
           and ($4::text is null or ({place} causelist.job_state(j.id) = $4))
         order by j.id desc limit $5"
    );
    sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(&filter.kind)
        .bind(filter.tenant)
        .bind(filter.before)
        .bind(&filter.state)
        .bind(filter.limit.clamp(1, 1000))
        .fetch_all(db)
        .await
}

/// One job with its attempts; none when there is no such job.
///
/// # Errors
/// When the database can't be reached.
pub async fn show(db: &mut PgConnection, id: JobId) -> sqlx::Result<Option<(JobRecord, Vec<AttemptRecord>)>> {
    let record: Option<JobRecord> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{RECORD} where j.id = $1")))
        .bind(id)
        .fetch_optional(&mut *db)
        .await?;
    let Some(record) = record else { return Ok(None) };
    let attempts = sqlx::query_as(
        "select attempt, outcome, worker, claimed_at, started_at, finished_at, error, result
         from causelist.attempt where job_id = $1 order by finished_at, fence",
    )
    .bind(id)
    .fetch_all(db)
    .await?;
    Ok(Some((record, attempts)))
}

/// What a cancel did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CancelEffect {
    /// It had not started and never will.
    Cancelled,
    /// It is running; its worker was asked to stop it.
    Requested,
    /// It had finished: nothing to cancel.
    Finished,
    /// There is no such job.
    Unknown,
}

/// Cancels a job: at once if it waits, through its worker if it runs.
///
/// # Errors
/// When the database can't be reached.
pub async fn cancel(pool: &PgPool, id: JobId) -> sqlx::Result<CancelEffect> {
    // A job may move while it is looked for: come due, be claimed, be given back. Then again.
    for _ in 0..10 {
        if let Some(effect) = try_cancel(pool, id).await? {
            return Ok(effect);
        }
    }
    request_cancel(&mut *pool.acquire().await?, id).await?;
    Ok(CancelEffect::Requested)
}

async fn request_cancel(db: &mut PgConnection, id: JobId) -> sqlx::Result<()> {
    sqlx::query("insert into causelist.cancel_request (id) values ($1) on conflict do nothing")
        .bind(id)
        .execute(db)
        .await?;
    Ok(())
}

/// None: the job was in none of the places, since it moved between the looks at them.
async fn try_cancel(pool: &PgPool, id: JobId) -> sqlx::Result<Option<CancelEffect>> {
    let mut tx = pool.begin().await?;
    let (stopped, freed): (i64, Option<String>) = sqlx::query_as(
        "with r as (delete from causelist.ready where id = $1 returning id, attempt, queue, gated),
              w as (delete from causelist.waiting where id = $1 returning id, attempt),
              s as (delete from causelist.scheduled where id = $1 returning id, attempt),
              gone as (select id, attempt from r union all select * from w union all select * from s),
              let_go as (delete from causelist.slot s using r where r.gated and s.job = r.id),
              noted as (
                  insert into causelist.attempt (job_id, attempt, fence, outcome, worker, claimed_at, error)
                  select id, (attempt + 1)::smallint, 0, 'cancelled', '00000000-0000-0000-0000-000000000000', now(),
                         'cancelled before it started' from gone),
              freed as (delete from causelist.job_key k using gone where k.job_id = gone.id and k.hold = 'while'),
              -- One from an attempt before, that ended before it was heard.
              heard as (delete from causelist.cancel_request c using gone where c.id = gone.id)
         select (select count(*) from gone), (select queue from r where gated)",
    )
    .bind(id)
    .fetch_one(&mut *tx)
    .await?;
    if stopped > 0 {
        tx.commit().await?;
        // Its slots are another job's now.
        if let Some(queue) = freed {
            notify_ready(pool, &queue).await;
        }
        return Ok(Some(CancelEffect::Cancelled));
    }
    let state: Option<String> = sqlx::query_scalar("select causelist.job_state($1)")
        .bind(id)
        .fetch_one(&mut *tx)
        .await?;
    let effect = match state.as_deref() {
        Some("running") => {
            request_cancel(&mut tx, id).await?;
            CancelEffect::Requested
        }
        Some("ready" | "waiting" | "scheduled") => return Ok(None),
        Some(_) => CancelEffect::Finished,
        None => CancelEffect::Unknown,
    };
    tx.commit().await?;
    Ok(Some(effect))
}

/// Waits until a job has finished for good; none when it has not by then.
///
/// # Errors
/// When the database can't be reached.
pub async fn wait_until_finished(
    pool: &PgPool,
    id: JobId,
    limit: Duration,
) -> sqlx::Result<Option<(JobRecord, Vec<AttemptRecord>)>> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(10);
    loop {
        let state: Option<String> = sqlx::query_scalar("select causelist.job_state($1)")
            .bind(id)
            .fetch_one(pool)
            .await?;
        if !matches!(state.as_deref(), Some("ready" | "waiting" | "scheduled" | "running")) {
            let mut db = pool.acquire().await?;
            return show(&mut db, id).await;
        }
        if Instant::now() + pause > deadline {
            return Ok(None);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}
