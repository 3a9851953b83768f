//! Claim, renew, release: what ties a batch of jobs to one worker for the length of a lease.

use std::sync::Arc;
use std::time::Duration;

use causelist_core::{JobId, TenantId};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::family::marks;
use crate::json::JsonText;

/// A job that this worker holds.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) id: JobId,
    pub(crate) kind: Arc<str>,
    pub(crate) queue: Arc<str>,
    pub(crate) priority: i16,
    pub(crate) tenant: Option<TenantId>,
    /// JSON as it is stored; read once, by the job's own type.
    pub(crate) args: Box<str>,
    /// The number of this attempt; 1 is the first.
    pub(crate) attempt: i16,
    pub(crate) max_attempts: i16,
    /// Whether its end frees something besides the claim: a key or slots.
    pub(crate) keyed: bool,
    pub(crate) trace: Option<String>,
    pub(crate) created_at: DateTime<Utc>,
    /// Its place in the order.
    pub(crate) rank: i64,
    /// Only from a fair queue, where the rank is no time: since when it could have run, in µs.
    pub(crate) since: Option<i64>,
    /// How long the job could have run already: since its enqueue, run-at or the end of its backoff.
    pub(crate) waited: Duration,
    /// The claim row's id.
    pub(crate) fence: i64,
    /// The job that it is a part of.
    pub(crate) parent: Option<JobId>,
    /// What is known of it: see [`crate::family::marks`].
    pub(crate) marks: i16,
    /// Whether any job of its claim is a suspect: see [`crate::quarantine`].
    pub(crate) among_suspects: bool,
}

impl Claimed {
    /// In a fair queue: whose turn it takes.
    fn turn_of(&self) -> Option<Uuid> {
        self.since.map(|_| self.tenant.unwrap_or_default())
    }
}

/// The form that did best (docs/adr/0002): the rows handed out are the ones really deleted.
const CLAIM: &str = "
with picked as materialized (
    select ctid from causelist.ready
    where queue = $1 and (priority, rank) >= ($5, $6) and not exists (select from causelist.queue q where q.name = $1 and q.paused)
    order by priority, rank, id limit $2 for update skip locked),
taken as (
    delete from causelist.ready where ctid = any (array(select ctid from picked))
    returning id, attempt, rank, gated, since, marks),
held as (
    insert into causelist.claim (worker, queue, expires_at, ids, attempts, parents, trying)
    select $3, $1, clock_timestamp() + make_interval(secs => $4),
           array_agg(id order by id), array_agg((attempt + 1)::smallint order by id),
           array_agg(id) filter (where marks & 2 <> 0), min(0) filter (where marks & 1 <> 0)
    from taken having count(*) > 0
    returning id, (date_part('epoch', clock_timestamp()) * 1e6)::bigint as at)
select t.id, j.kind, j.priority, j.tenant, j.args, (t.attempt + 1)::smallint, j.max_attempts,
       j.keyed or t.gated is true, j.trace, j.created_at, t.rank, held.at, held.id, t.since, j.parent, t.marks
from held, taken t join causelist.job j on j.id = t.id
where j.id = any (array(select id from taken))";

type ClaimRow = (
    i64,
    String,
    i16,
    Option<Uuid>,
    JsonText,
    i16,
    i16,
    bool,
    Option<String>,
    DateTime<Utc>,
    i64,
    i64,
    i64,
    Option<i64>,
    Option<i64>,
    i16,
);

/// A place in a queue's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) priority: i16,
    pub(crate) rank: i64,
}

impl Start {
    /// Before everything.
    pub(crate) const FIRST: Self = Self {
        priority: i16::MIN,
        rank: i64::MIN,
    };
}

/// Takes up to `limit` jobs of a queue, in order, from `start` on. A paused queue yields none.
pub(crate) async fn claim(
    db: &mut PgConnection,
    worker: Uuid,
    queue: &Arc<str>,
    start: Start,
    limit: usize,
    lease: Duration,
) -> sqlx::Result<Vec<Claimed>> {
    let rows: Vec<ClaimRow> = sqlx::query_as(CLAIM)
        .bind(&**queue)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .bind(worker)
        .bind(lease.as_secs_f64())
        .bind(start.priority)
        .bind(start.rank)
        .fetch_all(db)
        .await?;
    let among_suspects = rows.iter().any(|r| r.15 & marks::SUSPECT != 0);
    // Most claims hold one kind: its name is kept once.
    let mut kind: Arc<str> = Arc::from("");
    let mut jobs: Vec<Claimed> = rows
        .into_iter()
        .map(|r| Claimed {
            id: r.0,
            kind: {
                if *kind != *r.1 {
                    kind = Arc::from(r.1);
                }
                Arc::clone(&kind)
            },
            queue: Arc::clone(queue),
            priority: r.2,
            tenant: r.3,
            args: r.4.0,
            attempt: r.5,
            max_attempts: r.6,
            keyed: r.7,
            trace: r.8,
            created_at: r.9,
            rank: r.10,
            waited: Duration::from_micros(r.11.saturating_sub(r.13.unwrap_or(r.10)).try_into().unwrap_or(0)),
            fence: r.12,
            since: r.13,
            parent: r.14,
            marks: r.15,
            among_suspects,
        })
        .collect();
    jobs.sort_unstable_by_key(|j| (j.priority, j.rank, j.id));
    Ok(jobs)
}

/// What a renewal told.
#[derive(Debug, Default)]
pub(crate) struct Renewed {
    /// The fences that still hold; all others are lost.
    pub(crate) held: Vec<i64>,
    /// Jobs of ours that somebody wants stopped.
    pub(crate) cancel: Vec<JobId>,
}

/// Renews the given claims, in one statement, and hears of cancel requests.
pub(crate) async fn renew(
    db: &mut PgConnection,
    fences: &[i64],
    ids: &[JobId],
    lease: Duration,
) -> sqlx::Result<Renewed> {
    let rows: Vec<(bool, i64)> = sqlx::query_as(
        "with kept as (
             update causelist.claim set expires_at = clock_timestamp() + make_interval(secs => $2)
             where id = any ($1) returning id)
         select true, id from kept
         union all
         select false, id from causelist.cancel_request where id = any ($3)",
    )
    .bind(fences)
    .bind(lease.as_secs_f64())
    .bind(ids)
    .fetch_all(db)
    .await?;
    let mut out = Renewed::default();
    for (held, id) in rows {
        if held { &mut out.held } else { &mut out.cancel }.push(id);
    }
    Ok(out)
}

/// Takes the given jobs out of a claim: locks the claim row first, so that two releases (or a
/// release and a settle) of one claim follow each other; removes the row with its last job.
/// `gone` and `kept` are named for what becomes of the row. Used as the head of a statement.
pub(crate) const SHRINK: &str = "
held as materialized (
    select id, worker, claimed_at, ids, parents from causelist.claim where id = $1 and ids && $2::bigint[] for update),
gone as (
    delete from causelist.claim c using held where c.id = held.id and held.ids <@ $2::bigint[]),
kept as (
    update causelist.claim c
    set ids = array(select u.i from unnest(c.ids, c.attempts) with ordinality u(i, a, pos)
                    where u.i <> all ($2::bigint[]) order by pos),
        attempts = array(select u.a from unnest(c.ids, c.attempts) with ordinality u(i, a, pos)
                    where u.i <> all ($2::bigint[]) order by pos)
    from held where c.id = held.id and not held.ids <@ $2::bigint[])";

/// Gives unstarted jobs back, at their old place in the order and with the slots that they have; counts
/// no attempt.
pub(crate) async fn release(db: &mut PgConnection, fence: i64, jobs: &[&Claimed]) -> sqlx::Result<u64> {
    let sql = format!(
        "with {SHRINK},
         back as (
             insert into causelist.ready (queue, priority, rank, id, attempt, gated, tenant, since, marks)
             select r.queue, r.priority, r.rank, r.id, r.attempt,
                    (select true from causelist.slot s where s.job = r.id limit 1), r.tenant, r.since,
                    r.marks | case when r.id = any (held.parents) then 2 else 0 end
             from unnest($2::bigint[], $3::text[], $4::smallint[], $5::smallint[], $6::bigint[], $7::uuid[],
                         $8::bigint[], $9::smallint[])
                  r(id, queue, priority, attempt, rank, tenant, since, marks)
             join held on r.id = any (held.ids))
         select count(*) from held"
    );
    let found: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(fence)
        .bind(jobs.iter().map(|j| j.id).collect::<Vec<_>>())
        .bind(jobs.iter().map(|j| &*j.queue).collect::<Vec<_>>())
        .bind(jobs.iter().map(|j| j.priority).collect::<Vec<_>>())
        .bind(jobs.iter().map(|j| j.attempt - 1).collect::<Vec<_>>())
        .bind(jobs.iter().map(|j| j.rank).collect::<Vec<_>>())
        .bind(jobs.iter().map(|j| j.turn_of()).collect::<Vec<_>>())
        .bind(jobs.iter().map(|j| j.since).collect::<Vec<_>>())
        .bind(jobs.iter().map(|j| j.marks).collect::<Vec<_>>())
        .fetch_one(db)
        .await?;
    Ok(found.unsigned_abs())
}
