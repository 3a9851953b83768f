//! Looking at jobs and acting on them: list, show, cancel, wait.

use std::time::Duration;

use causelist_core::{JobId, TenantId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgPool};
use tokio::time::Instant;
use uuid::Uuid;

use crate::family::{self, CHILD_ENDED};
use crate::progress::Progress;
use crate::wake::notify_ready;

/// Ids are texts in JSON: a reader need not know how many digits its numbers keep.
pub(crate) fn id_as_text<S: Serializer>(id: &JobId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// The same for one that may be missing.
pub(crate) fn maybe_id_as_text<S: Serializer>(id: &Option<JobId>, serializer: S) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => id_as_text(id, serializer),
        None => serializer.serialize_none(),
    }
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
    /// ready, waiting (for a limit), scheduled, running, waiting_children, done, discarded, cancelled or
    /// dead.
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
    /// The job that it is a part of.
    #[serde(serialize_with = "maybe_id_as_text")]
    pub parent: Option<JobId>,
    /// How far it has come, if it says so and is not finished. Its checkpoint is there when one job is
    /// shown.
    pub progress: Option<Json<Progress>>,
    /// Its children, while it waits for them or has some open; when one job is shown.
    pub children: Option<Json<Children>>,
}

/// How many of an unfinished job's children are where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Children {
    /// Not ended.
    pub open: i64,
    /// Ended well.
    pub done: i64,
    /// Ended without effect.
    pub discarded: i64,
    /// Stopped by somebody.
    pub cancelled: i64,
    /// Gave up.
    pub dead: i64,
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
pub const STATES: [&str; 9] = [
    "ready",
    "waiting",
    "scheduled",
    "running",
    "waiting_children",
    "done",
    "discarded",
    "cancelled",
    "dead",
];

/// `{progress}` and `{children}` differ between a list and one job.
const RECORD: &str = "
select j.id, j.kind, j.queue, j.priority, j.tenant, coalesce(causelist.job_state(j.id), 'ready') as state, j.args,
       j.created_at, j.max_attempts,
       (select count(*) from causelist.attempt a where a.job_id = j.id) as attempts,
       last.finished_at, last.error, last.result,
       (select s.run_at from causelist.scheduled s where s.id = j.id limit 1) as run_at, j.parent,
       {progress} as progress, {children} as children
from causelist.job j
left join causelist.progress p on p.id = j.id
left join lateral (
    select a.finished_at, a.error, a.result from causelist.attempt a
    where a.job_id = j.id order by a.finished_at desc, a.fence desc limit 1) last on true";

const CHILDREN: &str = "
(select jsonb_build_object('open', o.n, 'done', e.done, 'discarded', e.discarded, 'cancelled', e.cancelled,
                           'dead', e.dead)
 from (select count(*) as n from causelist.child c where c.parent = j.id) o,
      (select count(*) filter (where outcome = 'done') as done,
              count(*) filter (where outcome = 'discarded') as discarded,
              count(*) filter (where outcome = 'cancelled') as cancelled,
              count(*) filter (where outcome = 'dead') as dead, count(*) as n
       from causelist.child_end c where c.parent = j.id) e
 where o.n + e.n > 0)";

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
        Some("waiting_children") => "j.id in (select id from causelist.parent) and",
        Some("dead") => "j.id in (select id from causelist.dead) and",
        Some(_) => "exists (select from causelist.attempt a where a.job_id = j.id and a.outcome = $4) and",
        None => "",
    };
    let record = RECORD
        .replace("{progress}", "to_jsonb(p) - 'checkpoint'")
        .replace("{children}", "null::jsonb");
    let sql = format!(
        "{record}
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
    let record = RECORD
        .replace("{progress}", "to_jsonb(p)")
        .replace("{children}", CHILDREN);
    let record: Option<JobRecord> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{record} where j.id = $1")))
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
    /// It is running, or has children that are: their workers were asked to stop them.
    Requested,
    /// It had finished: nothing to cancel.
    Finished,
    /// There is no such job.
    Unknown,
}

/// Cancels a job: at once if it waits, through its worker if it runs. Its unfinished children are
/// cancelled with it; it is finished when they are.
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
    let mut db = pool.acquire().await?;
    request_cancel(&mut db, id).await?;
    family::cancel_children(&mut db, id).await?;
    Ok(CancelEffect::Requested)
}

async fn request_cancel(db: &mut PgConnection, id: JobId) -> sqlx::Result<()> {
    sqlx::query("insert into causelist.cancel_request (id) values ($1) on conflict do nothing")
        .bind(id)
        .execute(db)
        .await?;
    Ok(())
}

/// Jobs that were stopped where they waited.
#[derive(Debug, Default)]
pub(crate) struct Stopped {
    pub(crate) jobs: Vec<JobId>,
    /// Parents to be finished after the commit.
    pub(crate) parents: Vec<JobId>,
    /// Queues in which slots came free.
    pub(crate) freed: Vec<String>,
}

/// Ends those of the jobs that wait, in one statement. Such as have children wait for them.
pub(crate) async fn stop_waiting(db: &mut PgConnection, ids: &[JobId]) -> sqlx::Result<Stopped> {
    let sql = format!(
        "with r as (delete from causelist.ready where id = any ($1) returning id, attempt, marks, queue, gated),
              w as (delete from causelist.waiting where id = any ($1) returning id, attempt, marks),
              s as (delete from causelist.scheduled where id = any ($1) returning id, attempt, marks),
              gone as (
                  select id, attempt, marks from r union all select * from w union all select * from s),
              let_go as (delete from causelist.slot s using r where r.gated and s.job = r.id),
              parked as (
                  insert into causelist.parent (id, attempt, fence, outcome, worker, claimed_at, error, keyed, parent)
                  select g.id, (g.attempt + 1)::smallint, 0, 'cancelled', '00000000-0000-0000-0000-000000000000', now(),
                         'cancelled before it started', j.keyed, j.parent
                  from gone g join causelist.job j on j.id = g.id where g.marks & 2 <> 0 returning id),
              noted as (
                  insert into causelist.attempt (job_id, attempt, fence, outcome, worker, claimed_at, error)
                  select id, (attempt + 1)::smallint, 0, 'cancelled', '00000000-0000-0000-0000-000000000000', now(),
                         'cancelled before it started' from gone where marks & 2 = 0),
              finished as materialized (
                  select g.id, j.parent, 'cancelled' as outcome, null::jsonb as result
                  from gone g join causelist.job j on j.id = g.id where g.marks & 2 = 0),
              freed as (
                  delete from causelist.job_key k using finished f where k.job_id = f.id and k.hold = 'while'),
              {CHILD_ENDED},
              forgotten as (delete from causelist.progress p using gone where gone.marks & 6 = 4 and p.id = gone.id),
              -- One from an attempt before, that ended before it was heard.
              heard as (delete from causelist.cancel_request c using gone where c.id = gone.id)
         select array(select id from gone), array(select id from parked union select parent from ended),
                array(select distinct queue from r where gated)"
    );
    let (jobs, parents, freed) = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(ids).fetch_one(db).await?;
    Ok(Stopped { jobs, parents, freed })
}

/// None: the job was in none of the places, since it moved between the looks at them.
async fn try_cancel(pool: &PgPool, id: JobId) -> sqlx::Result<Option<CancelEffect>> {
    let mut db = pool.acquire().await?;
    let stopped = stop_waiting(&mut db, &[id]).await?;
    if !stopped.jobs.is_empty() {
        family::finish(&mut db, stopped.parents).await?;
        let effect = ended_now(&mut db, id).await?;
        // Its slots are another job's now.
        for queue in stopped.freed {
            notify_ready(pool, &queue).await;
        }
        return Ok(Some(effect));
    }
    let state: Option<String> = sqlx::query_scalar("select causelist.job_state($1)")
        .bind(id)
        .fetch_one(&mut *db)
        .await?;
    Ok(match state.as_deref() {
        Some("running") => {
            request_cancel(&mut db, id).await?;
            family::cancel_children(&mut db, id).await?;
            Some(CancelEffect::Requested)
        }
        Some("waiting_children") => {
            let parents = family::stop_parents(&mut db, &[id]).await?;
            family::finish(&mut db, parents).await?;
            Some(ended_now(&mut db, id).await?)
        }
        Some("ready" | "waiting" | "scheduled") => None,
        Some(_) => Some(CancelEffect::Finished),
        None => Some(CancelEffect::Unknown),
    })
}

/// A job with children is cancelled when they have stopped.
async fn ended_now(db: &mut PgConnection, id: JobId) -> sqlx::Result<CancelEffect> {
    let waits: bool = sqlx::query_scalar("select exists (select from causelist.parent where id = $1)")
        .bind(id)
        .fetch_one(db)
        .await?;
    Ok(if waits {
        CancelEffect::Requested
    } else {
        CancelEffect::Cancelled
    })
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
        if !matches!(
            state.as_deref(),
            Some("ready" | "waiting" | "scheduled" | "running" | "waiting_children")
        ) {
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
