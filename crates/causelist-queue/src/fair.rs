//! Fair queues: tenants take turns. The rank of a job is a virtual time, one step per job of its tenant,
//! that begins at the queue's clock or after the tenant's last job (`causelist.fair_rank`): a flood
//! queues up behind itself. The claim is the same as ever.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgPool;

use crate::claim::Claimed;
use crate::queues::QueueError;

/// How often a process publishes how far a queue has come.
const SPACING: Duration = Duration::from_millis(100);

/// A queue's name and a priority in it.
type Lane = (Arc<str>, i16);

/// When each was last published by this process.
static LAST: LazyLock<Mutex<HashMap<Lane, Instant>>> = LazyLock::new(Mutex::default);

/// Makes a queue fair, or an ordinary one again. False: it was so already.
///
/// What is ready keeps its place, ahead of what comes after the change.
///
/// # Errors
/// When there is no such queue.
pub async fn set_fair(pool: &PgPool, name: &str, fair: bool) -> Result<bool, QueueError> {
    let was: Option<bool> = sqlx::query_scalar(
        "with was as (select name, fair from causelist.queue where name = $1 for update),
              set as (
                  update causelist.queue q
                  set fair = $2, fair_from = (date_part('epoch', clock_timestamp()) * 1e6)::bigint
                  from was where q.name = was.name and was.fair <> $2)
         select fair from was",
    )
    .bind(name)
    .bind(fair)
    .fetch_optional(pool)
    .await?;
    was.map(|was| was != fair)
        .ok_or_else(|| QueueError::Unknown(name.chars().take(64).collect()))
}

/// Says how far a fair queue has come at a priority: the rank of what was last claimed. It never goes
/// back, and never waits: whoever publishes at the same moment does as well.
///
/// # Errors
/// When the database can't be reached.
pub async fn publish(pool: &PgPool, queue: &str, priority: i16, rank: i64) -> sqlx::Result<()> {
    sqlx::query(
        "with there as (
             select rank from causelist.fair_clock where queue = $1 and priority = $2),
         free as materialized (
             select queue, priority from causelist.fair_clock
             where queue = $1 and priority = $2 and rank < $3 for update skip locked),
         moved as (
             update causelist.fair_clock c set rank = $3 from free
             where c.queue = free.queue and c.priority = free.priority)
         insert into causelist.fair_clock (queue, priority, rank)
         select $1, $2, $3 where not exists (select from there) on conflict do nothing",
    )
    .bind(queue)
    .bind(priority)
    .bind(rank)
    .execute(pool)
    .await?;
    Ok(())
}

/// Publishes what a claim has shown, beside the claiming; at most every 100 ms.
pub(crate) fn follow(pool: &PgPool, jobs: &[Claimed]) {
    let mut reached: BTreeMap<i16, &Claimed> = BTreeMap::new();
    for job in jobs.iter().filter(|j| j.since.is_some()) {
        let last = reached.entry(job.priority).or_insert(job);
        if job.rank > last.rank {
            *last = job;
        }
    }
    for (priority, job) in reached {
        let key = (Arc::clone(&job.queue), priority);
        {
            let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
            if last.get(&key).is_some_and(|at| at.elapsed() < SPACING) {
                continue;
            }
            last.insert(key, Instant::now());
        }
        let (pool, queue, rank) = (pool.clone(), Arc::clone(&job.queue), job.rank);
        tokio::spawn(async move {
            if let Err(error) = publish(&pool, &queue, priority, rank).await {
                tracing::debug!(%error, %queue, "could not publish the queue's clock; the next claim will");
            }
        });
    }
}
