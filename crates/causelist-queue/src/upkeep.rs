//! What every worker does for the fleet, besides its own jobs: promote what has come due, rescue
//! the jobs of workers that died, say that it is alive, keep partitions ahead.

use std::time::Duration;

use causelist_core::JobId;
use sqlx::PgPool;

use crate::family::{self, CHILD_ENDED, has_children};
use crate::ready::{fair, put_ready};

/// How many scheduled jobs become ready in one statement.
const PROMOTE_BATCH: i64 = 1000;

/// A job's kind and tenant are looked up only where somebody asks for them.
const PROMOTE: &str = concat!(
    "
with picked as materialized (
    select ctid from causelist.scheduled where run_at <= clock_timestamp()
    order by run_at, id limit $1 for update skip locked),
due as (
    delete from causelist.scheduled where ctid = any (array(select ctid from picked))
    returning run_at, id, queue, priority, attempt, marks),
told as materialized (
    select n.*, (date_part('epoch', n.run_at) * 1e6)::bigint as rank, true as due,
           case when exists (select from causelist.job_limit)
                then (select causelist.gates_of(j.kind, j.tenant) from causelist.job j where j.id = n.id) end as gates, ",
    fair!("n"),
    "
    from due n),
new as materialized (
    select n.*, case when n.fair then (select j.tenant from causelist.job j where j.id = n.id) end as tenant
    from told n),
",
    put_ready!(),
    "
select queue, count(*) from due group by queue"
);

/// Moves scheduled jobs that have come due to where they can be claimed; gives their queues.
pub(crate) async fn promote(pool: &PgPool) -> sqlx::Result<Vec<String>> {
    let mut queues: Vec<String> = Vec::new();
    loop {
        let moved: Vec<(String, i64)> = sqlx::query_as(PROMOTE).bind(PROMOTE_BATCH).fetch_all(pool).await?;
        let count: i64 = moved.iter().map(|(_, n)| n).sum();
        for (queue, _) in moved {
            if !queues.contains(&queue) {
                queues.push(queue);
            }
        }
        if count < PROMOTE_BATCH {
            return Ok(queues);
        }
    }
}

/// What a rescue found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rescued {
    /// Claims whose lease had ended.
    pub(crate) claims: i64,
    /// Jobs of theirs that will run again.
    pub(crate) again: i64,
    /// Jobs that used up their attempts by crashing: dead letters.
    pub(crate) dead: i64,
}

const CRASHED: &str = "'the worker died or lost the database; its lease ended'";

/// Takes the jobs of expired claims away from whoever held them. A crash counts as an attempt, so
/// that a job that kills its worker ends among the dead letters; the first crash is followed by an
/// immediate rerun, each further one waits longer. Where it is known which job ran (see
/// [`crate::quarantine`]), it counts for that one only. The first crash of a job makes it no suspect: most
/// crashes are the machine's, and its jobs are to run again side by side. The second does, or the one
/// before its last attempt.
///
/// Then finishes parents that a crash left when their last child had ended.
pub(crate) async fn rescue(pool: &PgPool) -> sqlx::Result<Rescued> {
    let sql = format!(
        "with expired as materialized (
             select id from causelist.claim where expires_at < clock_timestamp()
             order by id limit 100 for update skip locked),
         gone as (
             delete from causelist.claim c using expired where c.id = expired.id
             returning c.id, c.worker, c.claimed_at, c.ids, c.attempts, c.parents, c.trying),
         each as materialized (
             select gone.id as fence, gone.worker, gone.claimed_at, u.id, u.attempt,
                    j.kind, j.tenant, j.queue, j.priority, j.keyed, j.parent,
                    coalesce(gone.trying = u.id, true) as counts,
                    coalesce(gone.trying = u.id, true) and u.attempt >= j.max_attempts as last,
                    gone.trying is not null or j.max_attempts <= u.attempt + 1 or exists (
                        select from causelist.attempt a where a.job_id = u.id and a.outcome = 'crashed') as suspect,
                    exists (select from causelist.cancel_request r where r.id = u.id) as cancelled,
                    coalesce(u.id = any (gone.parents), false) or {HAS_CHILDREN} as family,
                    exists (select from causelist.progress p where p.id = u.id) as noted
             from gone, unnest(gone.ids, gone.attempts) u(id, attempt) join causelist.job j on j.id = u.id),
         parked as (
             insert into causelist.parent (id, attempt, fence, outcome, worker, claimed_at, error, keyed, parent)
             select id, attempt, fence, 'cancelled', worker, claimed_at, {CRASHED}, keyed, parent
             from each where cancelled and family returning id),
         noted as (
             insert into causelist.attempt (job_id, attempt, fence, outcome, worker, claimed_at, error)
             select id, attempt, fence, case when cancelled then 'cancelled' else 'crashed' end, worker, claimed_at,
                    {CRASHED} from each where counts and not cancelled or cancelled and not family),
         again as (
             insert into causelist.scheduled (run_at, id, queue, priority, attempt, reason, marks)
             select clock_timestamp() + make_interval(secs =>
                        case when attempt <= 1 or not counts then 0
                             else random() * least(600, 2 ^ least(attempt, 20)) end),
                    id, queue, priority, case when counts then attempt else attempt - 1 end, 'crashed',
                    case when suspect then 1 else 0 end + case when family then 2 else 0 end + case when noted then 4 else 0 end
             from each where not last and not cancelled returning 1),
         finished as materialized (
             select id, parent, 'dead' as outcome, null::jsonb as result from each where last and not cancelled
             union all
             select id, parent, 'cancelled', null from each where cancelled and not family),
         freed as (
             delete from causelist.job_key k using finished
             where k.job_id = finished.id and k.hold = 'while'
             returning k.job_id, k.key),
         died as (
             insert into causelist.dead (id, kind, tenant, attempt, reason, error, key)
             select id, kind, tenant, attempt, 'crashed', 'its worker died in each of its attempts', freed.key
             from each left join freed on freed.job_id = each.id where last and not cancelled returning 1),
         let_go as (
             delete from causelist.slot s using each where s.job = each.id),
         {CHILD_ENDED},
         forgotten as (
             delete from causelist.progress p using finished f where f.outcome = 'cancelled' and p.id = f.id),
         stopped as (
             delete from causelist.cancel_request r using each where r.id = each.id and each.cancelled)
         select (select count(*) from gone), (select count(*) from again), (select count(*) from died),
                array(select id from parked union select parent from ended)",
        HAS_CHILDREN = has_children("u.id"),
    );
    let mut db = pool.acquire().await?;
    let (claims, again, dead, parents): (i64, i64, i64, Vec<JobId>) =
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_one(&mut *db).await?;
    family::finish_or_leave(&mut db, parents).await;
    let left = family::left(&mut db).await?;
    family::finish(&mut db, left).await?;
    if claims > 0 {
        metrics::counter!("causelist_leases_expired_total").increment(claims.unsigned_abs());
    }
    Ok(Rescued { claims, again, dead })
}

/// Forgets workers that have not been seen for a day, cancel requests for jobs that had ended before they
/// were heard, and what is known of rates that nobody has used lately.
pub(crate) async fn sweep(pool: &PgPool) -> sqlx::Result<()> {
    sqlx::query("delete from causelist.worker where seen_at < now() - interval '1 day'")
        .execute(pool)
        .await?;
    sqlx::query("delete from causelist.cancel_request where requested_at < now() - interval '1 day'")
        .execute(pool)
        .await?;
    sqlx::query("delete from causelist.gate_pace where tat < now() - interval '1 day'")
        .execute(pool)
        .await?;
    family::sweep(pool).await
}

/// How often partitions and old rows are looked after.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_secs(3600);
