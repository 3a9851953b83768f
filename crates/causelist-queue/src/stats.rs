//! Figures of the whole fleet, for gauges and overviews.

use serde::Serialize;
use sqlx::{FromRow, PgPool};

/// One queue, now.
#[derive(Debug, Clone, Serialize, FromRow)]
#[serde(rename_all = "camelCase")]
pub struct QueueStats {
    /// The queue.
    pub name: String,
    /// Nothing is claimed from it.
    pub paused: bool,
    /// Its tenants take turns.
    pub fair: bool,
    /// Jobs that may be claimed.
    pub ready: i64,
    /// Jobs that wait for a limit to let them.
    pub waiting: i64,
    /// Jobs that become ready later.
    pub scheduled: i64,
    /// Jobs claimed and not settled.
    pub running: i64,
    /// How long the oldest ready job could have run, in seconds.
    pub oldest_ready_seconds: f64,
}

/// All queues.
///
/// # Errors
/// When the database can't be reached.
pub async fn queues(pool: &PgPool) -> sqlx::Result<Vec<QueueStats>> {
    sqlx::query_as(
        "select q.name, q.paused, q.fair,
                coalesce(r.n, 0) as ready, coalesce(w.n, 0) as waiting, coalesce(s.n, 0) as scheduled, coalesce(c.n, 0)::bigint as running,
                greatest(0, coalesce(date_part('epoch', clock_timestamp()) - r.oldest / 1e6, 0))::float8
                    as oldest_ready_seconds
         from causelist.queue q
         left join (select queue, count(*) n, min(coalesce(since, rank)) oldest
                    from causelist.ready group by queue) r on r.queue = q.name
         left join (select queue, count(*) n from causelist.waiting group by queue) w on w.queue = q.name
         left join (select queue, count(*) n from causelist.scheduled group by queue) s on s.queue = q.name
         left join (select queue, sum(cardinality(ids)) n from causelist.claim group by queue) c on c.queue = q.name
         order by q.name",
    )
    .fetch_all(pool)
    .await
}

/// Dead letters in all.
///
/// # Errors
/// When the database can't be reached.
pub async fn dead(pool: &PgPool) -> sqlx::Result<i64> {
    sqlx::query_scalar("select count(*) from causelist.dead")
        .fetch_one(pool)
        .await
}

/// Whether jobs enqueued a week from now have a partition to go into.
///
/// # Errors
/// When the database can't be reached.
pub async fn has_partitions_ahead(pool: &PgPool) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select to_regclass('causelist.job_' || to_char((now() + interval '7 days') at time zone 'UTC',
                                                        'IYYY\"w\"IW')) is not null",
    )
    .fetch_one(pool)
    .await
}

/// Whether a live worker takes jobs from a queue.
///
/// # Errors
/// When the database can't be reached.
pub async fn is_served(pool: &PgPool, queue: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select from causelist.worker
                        where $1 = any (queues) and not stopping and seen_at > now() - interval '30 seconds')",
    )
    .bind(queue)
    .fetch_one(pool)
    .await
}

/// When each kind last succeeded, for the kinds that ever did in the history kept.
///
/// # Errors
/// When the database can't be reached.
pub async fn last_success(pool: &PgPool, kinds: &[&str]) -> sqlx::Result<Vec<(String, f64)>> {
    // Per kind a walk down job_kind_idx until the first success, over its last 1000 jobs at most: when
    // none of them went well, the last success is what was exported before.
    sqlx::query_as(
        "select k, date_part('epoch', hit.finished_at)::float8
         from unnest($1::text[]) k
         cross join lateral (
             select a.finished_at from (select id from causelist.job where kind = k order by id desc limit 1000) j
             join causelist.attempt a on a.job_id = j.id
             where a.outcome = 'done' and not coalesce(a.result ? 'dryRun', false) order by j.id desc limit 1) hit",
    )
    .bind(kinds)
    .fetch_all(pool)
    .await
}
