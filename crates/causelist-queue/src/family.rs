//! Parents and children. A parent whose own run is over and that has children waits for them in
//! `causelist.parent`, in no worker's hands; when the last one has ended it is finished, with the sum of
//! theirs beside its own report.
//!
//! There is no row that all children of a parent change: each deletes its own row of `causelist.child`
//! when it ends, and whoever did so looks, after that commit, whether any is left. Of two last children
//! at the same time, the one that commits later sees none. What a crash leaves between the two is found
//! at the next poll ([`left`]).
//!
//! A parent is marked before it gets a child, so that no settle finishes it unawares: in `ready`, `waiting`
//! and `scheduled` by its `marks`, in a claim by `claim.parents`. These are updates of the very row that a
//! claim or settle takes away: one of the two waits for the other and sees what it did. A job that
//! enqueues children of its own needs none of this; it knows.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use causelist_core::JobId;
use futures::future::BoxFuture;
use sqlx::{Connection, PgConnection, PgPool};

use crate::enqueue::{Enqueued, NewJob, write};
use crate::error::EnqueueError;

/// The bits of `marks`: what is known of a job beside its place.
pub(crate) mod marks {
    /// It was in a claim whose worker died.
    pub(crate) const SUSPECT: i16 = 1;
    /// It has children.
    pub(crate) const PARENT: i16 = 2;
    /// It has a row in `progress`.
    pub(crate) const NOTED: i16 = 4;
}

/// CTEs that take jobs out of their families: of `finished (id, parent, outcome, result)`, each that is a
/// child. `ended` has those.
pub(crate) const CHILD_ENDED: &str = "
ended as (
    delete from causelist.child c using finished f where c.parent = f.parent and c.id = f.id
    returning c.parent, c.id),
told as (
    insert into causelist.child_end (parent, id, outcome, numbers)
    select e.parent, e.id, case f.outcome when 'uncertain' then 'dead' else f.outcome end,
           case when jsonb_typeof(f.result) = 'object' then (
               select jsonb_object_agg(n.key, n.value) from (
                   select key, value from jsonb_each(f.result) where jsonb_typeof(value) = 'number' limit 100) n) end
    from ended e join finished f on f.id = e.id)";

/// Whether a job has had children, as a condition.
pub(crate) fn has_children(id: &str) -> String {
    format!(
        "(exists (select from causelist.child c where c.parent = {id})
          or exists (select from causelist.child_end c where c.parent = {id}))"
    )
}

/// What a run knows of the children that it enqueued itself.
#[derive(Debug, Default)]
pub(crate) struct Own(Mutex<BTreeSet<String>>);

impl Own {
    pub(crate) fn add(&self, queue: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(queue.to_owned());
    }

    /// The queues that have something new since it was asked last.
    pub(crate) fn take_queues(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Enqueues jobs some of which have a parent: all or none, and nothing when a parent has ended.
pub(crate) async fn enqueue(db: &mut PgConnection, jobs: &[NewJob]) -> Result<Vec<Enqueued>, EnqueueError> {
    let mut tx = db.begin().await?;
    // In the order of their ids, so that two callers can't wait for each other.
    let parents: BTreeSet<(JobId, Option<i64>)> = jobs.iter().filter_map(|j| Some((j.parent?, j.fence))).collect();
    for (parent, fence) in parents {
        hold(&mut tx, parent, fence).await?;
    }
    let made = write(&mut tx, jobs).await?;
    // The job that stands for a duplicate is nobody's new child.
    let children: Vec<(JobId, JobId)> = jobs
        .iter()
        .zip(&made)
        .filter(|(_, got)| !got.duplicate)
        .filter_map(|(job, got)| Some((job.parent?, got.id)))
        .collect();
    sqlx::query("insert into causelist.child (parent, id) select * from unnest($1::bigint[], $2::bigint[])")
        .bind(children.iter().map(|(parent, _)| *parent).collect::<Vec<_>>())
        .bind(children.iter().map(|(_, id)| *id).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(made)
}

/// Marks a parent, and keeps it from ending until the transaction does. Its own run needs no mark, and
/// holds no lock that others of its worker would wait for: its commit looks at the fence.
async fn hold(db: &mut PgConnection, parent: JobId, fence: Option<i64>) -> Result<(), EnqueueError> {
    let refused = |problem: String| EnqueueError::field("parent", &parent.to_string(), problem);
    if let Some(fence) = fence {
        let held: bool =
            sqlx::query_scalar("select exists (select from causelist.claim where id = $1 and $2 = any (ids))")
                .bind(fence)
                .bind(parent)
                .fetch_one(&mut *db)
                .await?;
        return if held {
            Ok(())
        } else {
            Err(refused("its lease was lost: another worker has it".into()))
        };
    }
    // It may move while it is looked for: come due, be claimed, be given back. Then again.
    for _ in 0..10 {
        let found: bool = sqlx::query_scalar(
            "with r as (update causelist.ready set marks = marks | 2 where id = $1 returning 1),
                  w as (update causelist.waiting set marks = marks | 2 where id = $1 returning 1),
                  s as (update causelist.scheduled set marks = marks | 2 where id = $1 returning 1),
                  c as (update causelist.claim set parents = array_append(parents, $1)
                        where ids @> array[$1] and not coalesce(parents @> array[$1], false) returning 1),
                  -- Marked already: a lock that a renewal does not wait for.
                  k as (select 1 from causelist.claim where ids @> array[$1] and parents @> array[$1] for key share),
                  p as (select 1 from causelist.parent where id = $1 and outcome = 'done' for key share)
             select exists (select from r) or exists (select from w) or exists (select from s) or exists (select from c)
                 or exists (select from k) or exists (select from p)",
        )
        .bind(parent)
        .fetch_one(&mut *db)
        .await?;
        if found {
            return Ok(());
        }
        let state: Option<String> = sqlx::query_scalar("select causelist.job_state($1)")
            .bind(parent)
            .fetch_one(&mut *db)
            .await?;
        match state.as_deref() {
            Some("ready" | "waiting" | "scheduled" | "running") => {}
            Some("waiting_children") => {
                let ending: bool = sqlx::query_scalar(
                    "select exists (select from causelist.parent where id = $1 and outcome <> 'done')",
                )
                .bind(parent)
                .fetch_one(&mut *db)
                .await?;
                if ending {
                    return Err(refused("was cancelled or discarded: it takes no more children".into()));
                }
            }
            Some("dead") => return Err(refused("is dead: retry it first".into())),
            Some(state) => return Err(refused(format!("has ended ({state}): leave the parent out"))),
            None => return Err(refused("does not exist, or its history was dropped".into())),
        }
    }
    Err(refused("moved ten times while it was looked for: try again".into()))
}

/// Finishes those of the given parents that wait for no child any more, and theirs in turn; asks the
/// children of cancelled ones to stop.
pub(crate) fn finish(db: &mut PgConnection, parents: Vec<JobId>) -> BoxFuture<'_, sqlx::Result<()>> {
    // Boxed, since cancelling children may finish parents among them.
    Box::pin(async move {
        let mut parents = parents;
        while !parents.is_empty() {
            let cancelled: Vec<JobId> =
                sqlx::query_scalar("select id from causelist.parent where id = any ($1) and outcome = 'cancelled'")
                    .bind(&parents)
                    .fetch_all(&mut *db)
                    .await?;
            for parent in cancelled {
                cancel_children(db, parent).await?;
            }
            let over: Vec<JobId> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
                "select p.id from causelist.parent p where p.id = any ($1) and {NONE_OPEN}"
            )))
            .bind(&parents)
            .fetch_all(&mut *db)
            .await?;
            if over.is_empty() {
                return Ok(());
            }
            parents = finish_these(db, &over).await?;
        }
        Ok(())
    })
}

/// The same where nothing can be done about a failure: the next poll finds what is left.
pub(crate) async fn finish_or_leave(db: &mut PgConnection, parents: Vec<JobId>) {
    if let Err(error) = finish(db, parents).await {
        tracing::warn!(%error, "could not finish parents; trying again at the next poll");
    }
}

/// The same after a commit on another connection.
pub(crate) async fn finish_after(pool: &PgPool, parents: Vec<JobId>) {
    if parents.is_empty() {
        return;
    }
    match pool.acquire().await {
        Ok(mut db) => finish_or_leave(&mut db, parents).await,
        Err(error) => tracing::warn!(%error, "could not finish parents; trying again at the next poll"),
    }
}

/// No child is open, as a condition on `p`. From the end: the last children are the last to go, while
/// the front of the index is full of those that went.
const NONE_OPEN: &str = "(select c.id from causelist.child c where c.parent = p.id order by c.id desc limit 1) is null";

/// Gives the parents of those that were finished.
async fn finish_these(db: &mut PgConnection, parents: &[JobId]) -> sqlx::Result<Vec<JobId>> {
    let mut tx = db.begin().await?;
    // A statement of its own, so that the next one sees what was committed before the locks were had:
    // who gives a waiting parent another child has locked its row before.
    let locked: Vec<JobId> =
        sqlx::query_scalar("select id from causelist.parent where id = any ($1) order by id for update skip locked")
            .bind(parents)
            .fetch_all(&mut *tx)
            .await?;
    let sql = format!(
        "with p as materialized (
             select p.* from causelist.parent p where p.id = any ($1) and {NONE_OPEN}),
         gone as (
             delete from causelist.child_end e using p where e.parent = p.id
             returning e.parent, e.outcome, e.numbers),
         sums as (
             select parent, jsonb_object_agg(key, sum) as sum from (
                 select g.parent, n.key, sum(n.value::text::numeric),
                        row_number() over (partition by g.parent order by n.key) as place
                 from gone g, jsonb_each(g.numbers) n group by g.parent, n.key) n
             where place <= 100 group by parent),
         counts as (
             select parent, count(*) as total, count(*) filter (where outcome = 'done') as done,
                    count(*) filter (where outcome = 'discarded') as discarded,
                    count(*) filter (where outcome = 'cancelled') as cancelled,
                    count(*) filter (where outcome = 'dead') as dead
             from gone group by parent),
         finished as materialized (
             select p.*, case
                 when c.total is null then p.result
                 else case when p.result is null then '{{}}'
                           when jsonb_typeof(p.result) = 'object' then p.result
                           else jsonb_build_object('report', p.result) end
                      || jsonb_build_object('children', jsonb_build_object(
                             'total', c.total, 'done', c.done, 'discarded', c.discarded,
                             'cancelled', c.cancelled, 'dead', c.dead, 'sum', coalesce(s.sum, '{{}}')))
                 end as whole
             from p left join counts c on c.parent = p.id left join sums s on s.parent = p.id),
         noted as (
             insert into causelist.attempt
                 (job_id, attempt, fence, outcome, worker, claimed_at, started_at, error, result)
             select id, attempt, fence, outcome, worker, claimed_at, started_at, error, whole from finished),
         left_place as (delete from causelist.parent w using p where w.id = p.id),
         freed as (
             delete from causelist.job_key k using p where p.keyed and k.job_id = p.id and k.hold = 'while'),
         forgotten as (delete from causelist.progress g using p where g.id = p.id),
         stopped as (delete from causelist.cancel_request r using p where r.id = p.id),
         {CHILD_ENDED}
         select distinct parent from ended"
    );
    let above = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(locked)
        .fetch_all(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(above)
}

/// Parents whose last child ended, or that were cancelled, and whose finisher died before it could act.
pub(crate) async fn left(db: &mut PgConnection) -> sqlx::Result<Vec<JobId>> {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "select p.id from causelist.parent p where p.outcome = 'cancelled' or {NONE_OPEN} order by p.id limit 100"
    )))
    .fetch_all(db)
    .await
}

/// Stops a parent's open children: at once where they wait, through their worker where they run.
pub(crate) async fn cancel_children(db: &mut PgConnection, parent: JobId) -> sqlx::Result<()> {
    const BATCH: i64 = 1000;
    let mut after: JobId = i64::MIN;
    loop {
        let open: Vec<JobId> =
            sqlx::query_scalar("select id from causelist.child where parent = $1 and id > $2 order by id limit $3")
                .bind(parent)
                .bind(after)
                .bind(BATCH)
                .fetch_all(&mut *db)
                .await?;
        let Some(last) = open.last() else { return Ok(()) };
        after = *last;
        let stopped = crate::jobs::stop_waiting(db, &open).await?;
        let rest: Vec<JobId> = open.into_iter().filter(|id| !stopped.jobs.contains(id)).collect();
        let mut parents = stopped.parents;
        parents.retain(|id| *id != parent);
        parents.extend(stop_parents(db, &rest).await?);
        sqlx::query(
            "insert into causelist.cancel_request (id)
             select c.id from causelist.child c
             where c.parent = $1 and c.id = any ($2) and not exists (select from causelist.parent p where p.id = c.id)
             on conflict do nothing",
        )
        .bind(parent)
        .bind(&rest)
        .execute(&mut *db)
        .await?;
        // Among them such that have children themselves.
        for id in &rest {
            Box::pin(cancel_children(db, *id)).await?;
        }
        finish(db, parents).await?;
    }
}

/// Has parents that wait for their children end as cancelled; gives which.
pub(crate) async fn stop_parents(db: &mut PgConnection, ids: &[JobId]) -> sqlx::Result<Vec<JobId>> {
    sqlx::query_scalar(
        "update causelist.parent set outcome = 'cancelled', error = 'cancelled while it waited for its children'
         where id = any ($1) and outcome = 'done' returning id",
    )
    .bind(ids)
    .fetch_all(db)
    .await
}

/// Forgets what nobody reads any more: how the children of a parent ended that did not wait for them, since
/// its lease was lost while its run gave it children outside of the fence; and the progress of a job that
/// has ended, written by a statement that outlived its attempt.
pub(crate) async fn sweep(pool: &PgPool) -> sqlx::Result<()> {
    sqlx::query(
        "delete from causelist.child_end where parent in (
             select e.parent from (select distinct parent from causelist.child_end) e
             where coalesce(causelist.job_state(e.parent), 'done') in ('done', 'discarded', 'cancelled'))",
    )
    .execute(pool)
    .await?;
    sqlx::query(
        "delete from causelist.progress where at < now() - interval '1 hour'
         and coalesce(causelist.job_state(id), 'done') in ('done', 'discarded', 'cancelled')",
    )
    .execute(pool)
    .await?;
    Ok(())
}
