//! Dead letters: what gave up, by cause; taken back or purged, one by one or by filter.
//!
//! A purged job's state is `discarded`: the purge is recorded as an attempt with that outcome, which
//! says who purged it, and the job with its history stays until retention drops its week.

use causelist_core::{JobId, TenantId};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::PgArguments;
use sqlx::query::{QueryAs, QueryScalar};
use sqlx::{AssertSqlSafe, FromRow, PgConnection, Postgres};

use crate::family::has_children;
use crate::jobs::{id_as_text, maybe_id_as_text};
use crate::ready::{fair, gates, put_ready};

/// Why a job is among the dead letters: the values of `reason`.
pub const DEAD_REASONS: [&str; 4] = ["attempts", "permanent", "crashed", "uncertain"];

/// Which dead letters; what is not given does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// Only these jobs; empty: any.
    pub ids: Vec<JobId>,
    /// Only this kind.
    pub kind: Option<String>,
    /// Only this tenant's.
    pub tenant: Option<TenantId>,
    /// Only with this reason, one of [`DEAD_REASONS`].
    pub reason: Option<String>,
    /// Only those whose error contains this, in any letter case.
    pub error: Option<String>,
    /// Only those that died before this instant.
    pub before: Option<DateTime<Utc>>,
    /// Only those that died at this instant or later.
    pub after: Option<DateTime<Utc>>,
}

impl DeadFilter {
    /// This job alone.
    #[must_use]
    pub fn job(id: JobId) -> Self {
        Self {
            ids: vec![id],
            ..Self::default()
        }
    }
}

/// The filter's condition over `d`; its values are $1 to $7.
const MATCHING: &str = "
    (cardinality($1::bigint[]) = 0 or d.id = any ($1)) and ($2::text is null or d.kind = $2)
    and ($3::uuid is null or d.tenant = $3) and ($4::text is null or d.reason = $4)
    and ($5::text is null or strpos(lower(d.error), lower($5)) > 0)
    and ($6::timestamptz is null or d.died_at < $6) and ($7::timestamptz is null or d.died_at >= $7)";

/// Binds a filter as [`MATCHING`] has it.
macro_rules! bind {
    ($query:expr, $filter:expr) => {
        $query
            .bind(&$filter.ids)
            .bind(&$filter.kind)
            .bind($filter.tenant)
            .bind(&$filter.reason)
            .bind(&$filter.error)
            .bind($filter.before)
            .bind($filter.after)
    };
}

/// How many dead letters match.
///
/// # Errors
/// When the database can't be reached.
pub async fn count_dead(db: &mut PgConnection, filter: &DeadFilter) -> sqlx::Result<i64> {
    let sql = format!("select count(*) from causelist.dead d where {MATCHING}");
    let query: QueryScalar<'_, Postgres, i64, PgArguments> = sqlx::query_scalar(AssertSqlSafe(sql));
    bind!(query, filter).fetch_one(db).await
}

/// Dead letters that died of the same.
#[derive(Debug, Clone, Serialize, FromRow)]
#[serde(rename_all = "camelCase")]
pub struct DeadCause {
    /// Their kind.
    pub kind: String,
    /// Why they are dead: one of [`DEAD_REASONS`].
    pub reason: String,
    /// The first line of their error, with `#` for ids and numbers.
    pub error: String,
    /// How many they are.
    pub jobs: i64,
    /// When the first one died.
    pub first: DateTime<Utc>,
    /// When the last one died.
    pub last: DateTime<Utc>,
    /// One of them, the newest.
    #[serde(serialize_with = "id_as_text")]
    pub example: JobId,
}

/// The causes of the dead letters that match, the commonest first.
///
/// # Errors
/// When the database can't be reached.
pub async fn dead_causes(db: &mut PgConnection, filter: &DeadFilter, limit: i64) -> sqlx::Result<Vec<DeadCause>> {
    let sql = format!(
        "select kind, reason, cause as error, count(*) as jobs, min(died_at) as first, max(died_at) as last,
                max(id) as example
         from (select d.*, regexp_replace(left(split_part(coalesce(d.error, ''), E'\\n', 1), 200),
                   '[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}|[0-9]+', '#', 'gi') as cause
               from causelist.dead d where {MATCHING}) d
         group by kind, reason, cause order by jobs desc, kind, reason, cause limit $8"
    );
    let query: QueryAs<'_, Postgres, DeadCause, PgArguments> = sqlx::query_as(AssertSqlSafe(sql));
    bind!(query, filter).bind(limit).fetch_all(db).await
}

/// A dead letter that stays, since another job holds its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyTaken {
    /// The dead letter.
    #[serde(serialize_with = "id_as_text")]
    pub id: JobId,
    /// The job that holds its key; unknown when it came at the same moment.
    #[serde(serialize_with = "maybe_id_as_text")]
    pub holder: Option<JobId>,
}

/// What a retry of dead letters did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retried {
    /// The jobs that are ready again.
    pub jobs: Vec<JobId>,
    /// Those that stay dead.
    pub refused: Vec<KeyTaken>,
    /// The queues of the jobs, each once: call [`crate::notify_ready`] for them after the commit.
    pub queues: Vec<String>,
}

/// Takes dead letters back into their queues, the oldest first and at most `limit`, with all their
/// attempts before them; they go on from their last checkpoint. A job that was enqueued with a key holds it again from now on; if another
/// job holds that key now, the dead letter stays.
///
/// # Errors
/// When the database can't be reached.
pub async fn retry_dead(db: &mut PgConnection, filter: &DeadFilter, limit: i64) -> sqlx::Result<Retried> {
    // Of several dead letters with one key the oldest gets it.
    let sql = format!(
        "with picked as materialized (
             select d.id, d.kind,
                    case when d.reason = 'crashed' then 1 else 0 end + case when {HAS_CHILDREN} then 2 else 0 end
                    + case when exists (select from causelist.progress n where n.id = d.id) then 4 else 0 end as marks,
                    coalesce(d.tenant, '00000000-0000-0000-0000-000000000000') as tenant, d.key, d.died_at
             from causelist.dead d where {MATCHING} order by d.died_at, d.id limit $8 for update),
         first as materialized (
             select distinct on (tenant, kind, key) tenant, kind, key, id from picked where key is not null
             order by tenant, kind, key, died_at, id),
         held as (
             insert into causelist.job_key as k (tenant, kind, key, job_id, hold)
             select tenant, kind, key, id, 'while' from first order by 1, 2, 3
             on conflict (tenant, kind, key) do update
                 set job_id = excluded.job_id, hold = excluded.hold, expires_at = excluded.expires_at
                 where k.expires_at <= clock_timestamp()
             returning job_id),
         told as materialized (
             select p.*, j.queue, j.priority, p.key is null or held.job_id is not null as goes
             from picked p join causelist.job j on j.id = p.id left join held on held.job_id = p.id),
         gone as (delete from causelist.dead d using told where told.goes and d.id = told.id),
         new as materialized (
             select n.id, n.queue, n.priority, n.tenant, (date_part('epoch', clock_timestamp()) * 1e6)::bigint as rank,
                    0 as attempt, true as due, n.marks::smallint as marks, {}, {}
             from told n where n.goes),
         {}
         select t.id, t.queue, t.goes, coalesce(k.job_id, f.id)
         from told t
         left join causelist.job_key k on not t.goes and k.tenant = t.tenant and k.kind = t.kind and k.key = t.key
         left join first f on not t.goes and f.tenant = t.tenant and f.kind = t.kind and f.key = t.key and f.id <> t.id
         order by t.died_at, t.id",
        gates!("n"),
        fair!("n"),
        put_ready!(),
        HAS_CHILDREN = has_children("d.id"),
    );
    let query: QueryAs<'_, Postgres, (JobId, String, bool, Option<JobId>), PgArguments> =
        sqlx::query_as(AssertSqlSafe(sql));
    let mut out = Retried::default();
    for (id, queue, goes, holder) in bind!(query, filter).bind(limit).fetch_all(db).await? {
        if !goes {
            out.refused.push(KeyTaken { id, holder });
            continue;
        }
        out.jobs.push(id);
        if !out.queues.contains(&queue) {
            out.queues.push(queue);
        }
    }
    Ok(out)
}

/// Gives up dead letters for good, the oldest first and at most `limit`; says which. `by`: who does
/// it, for the record. A key that stands for ever goes on doing so; children go on by themselves.
///
/// # Errors
/// When the database can't be reached.
pub async fn purge_dead(db: &mut PgConnection, filter: &DeadFilter, limit: i64, by: &str) -> sqlx::Result<Vec<JobId>> {
    // A fence of its own puts the record after all attempts.
    let sql = format!(
        "with picked as materialized (
             select d.id from causelist.dead d where {MATCHING} order by d.died_at, d.id limit $8 for update),
         gone as (
             delete from causelist.dead d using picked where d.id = picked.id returning d.id, d.attempt),
         noted as (
             insert into causelist.attempt (job_id, attempt, fence, outcome, worker, claimed_at, error)
             select id, attempt, nextval(pg_get_serial_sequence('causelist.claim', 'id')), 'discarded',
                    '00000000-0000-0000-0000-000000000000', now(), 'purged from the dead letters by ' || $9 from gone),
         childless as (delete from causelist.child c using gone where c.parent = gone.id),
         forgotten as (delete from causelist.child_end c using gone where c.parent = gone.id),
         unnoted as (delete from causelist.progress p using gone where p.id = gone.id)
         select id from gone order by id"
    );
    let query: QueryScalar<'_, Postgres, JobId, PgArguments> = sqlx::query_scalar(AssertSqlSafe(sql));
    bind!(query, filter).bind(limit).bind(by).fetch_all(db).await
}
