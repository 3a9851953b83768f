//! Parents that wait for their children.

use std::time::Duration;

use causelist_core::{JobError, JobId, KindSpec, RetryPolicy};
use causelist_queue::testing::{self, Hand};
use causelist_queue::{
    CancelEffect, DeadFilter, Hold, Job, JobCx, JobFilter, NewJob, Registry, cancel, db_error, enqueue, enqueue_many,
    list, retry_dead, show,
};
use chrono::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::fixture::{assert_idle, count, db, finished, gate, options, put, state, until, worker_with};

const LEASE: Duration = Duration::from_secs(600);

/// Enqueues its children, and ends as it says.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Tree {
    value: i64,
    children: Vec<Tree>,
    /// die, discard, wait, fail_once; empty: well.
    end: String,
}

impl Tree {
    fn leaf(value: i64) -> Self {
        Self {
            value,
            ..Self::default()
        }
    }

    fn ends(end: &str) -> Self {
        Self {
            end: end.into(),
            ..Self::default()
        }
    }

    fn of(value: i64, children: Vec<Tree>) -> Self {
        Self {
            value,
            children,
            ..Self::default()
        }
    }
}

impl Job for Tree {
    type Report = Value;

    fn spec() -> KindSpec {
        KindSpec {
            retry: RetryPolicy {
                max_attempts: 3,
                base: Duration::from_millis(10),
                cap: Duration::from_millis(20),
            },
            ..KindSpec::new("tree", "Tree", "Enqueues its children")
        }
    }

    async fn run(&self, cx: &JobCx) -> Result<Value, JobError> {
        sqlx::query("insert into begun values ($1, $2)")
            .bind(cx.job_id())
            .bind(i32::from(cx.attempt()))
            .execute(cx.pool())
            .await
            .map_err(db_error)?;
        match self.end.as_str() {
            "die" => return Err(JobError::Permanent("as asked".into())),
            "discard" => return Err(JobError::Discard("as asked".into())),
            "wait" => {
                tokio::select! {
                    () = gate(cx.pool()) => {}
                    () = cx.cancelled().cancelled() => return Err(JobError::Cancelled),
                }
            }
            _ => {}
        }
        let report = json!({ "value": self.value, "name": "a text" });
        if self.children.is_empty() {
            return Ok(report);
        }
        let mut jobs = Vec::new();
        for child in &self.children {
            let job = NewJob::of(child).map_err(|e| JobError::Permanent(e.to_string()))?;
            jobs.push(cx.child(job));
        }
        let mut tx = cx.begin().await?;
        if cx.attempt() == 1 {
            enqueue_many(&mut tx, &jobs)
                .await
                .map_err(|e| JobError::Retry(e.to_string()))?;
        }
        if self.end == "fail_once" && cx.attempt() == 1 {
            tx.commit_part().await?;
            return Err(JobError::Retry("once".into()));
        }
        tx.complete(&report).await?;
        Ok(report)
    }
}

/// Reports its value, and does nothing.
#[derive(Debug, Serialize, Deserialize)]
struct Leaf {
    value: i64,
}

impl Job for Leaf {
    type Report = Value;
    fn spec() -> KindSpec {
        KindSpec::new("leaf", "Leaf", "Reports its value")
    }
    async fn run(&self, _: &JobCx) -> Result<Value, JobError> {
        Ok(json!({ "value": self.value }))
    }
}

/// Has as many of them.
#[derive(Debug, Serialize, Deserialize)]
struct Wide {
    leaves: i64,
}

impl Job for Wide {
    type Report = Value;
    fn spec() -> KindSpec {
        KindSpec::new("wide", "Wide", "Has many children")
    }
    async fn run(&self, cx: &JobCx) -> Result<Value, JobError> {
        let mut jobs = Vec::new();
        for value in 1..=self.leaves {
            let job = NewJob::of(&Leaf { value }).map_err(|e| JobError::Permanent(e.to_string()))?;
            jobs.push(cx.child(job));
        }
        let mut tx = cx.begin().await?;
        enqueue_many(&mut tx, &jobs)
            .await
            .map_err(|e| JobError::Retry(e.to_string()))?;
        let report = json!({ "leaves": self.leaves });
        tx.complete(&report).await?;
        Ok(report)
    }
}

fn registry() -> Registry {
    Registry::default().job::<Tree>().job::<Leaf>().job::<Wide>()
}

fn tree(tree: &Tree) -> NewJob {
    NewJob::of(tree).expect("is JSON")
}

async fn open_gate(pool: &PgPool) {
    sqlx::query("insert into gate values (true)")
        .execute(pool)
        .await
        .expect("runs");
}

fn sums(total: i64, done: i64, value: i64) -> Value {
    json!({ "total": total, "done": done, "discarded": 0, "cancelled": 0, "dead": 0, "sum": { "value": value } })
}

#[tokio::test]
async fn a_parent_finishes_with_the_sum_of_its_children() {
    let db = db().await;
    let worker = worker_with(db.pool(), registry(), options());
    let children = vec![
        Tree::leaf(1),
        Tree::leaf(2),
        Tree::leaf(30),
        Tree::ends("die"),
        Tree::ends("discard"),
    ];
    let id = put(db.pool(), tree(&Tree::of(7, children))).await;
    let (job, attempts) = finished(db.pool(), id).await;
    assert_eq!((job.state.as_str(), attempts.len()), ("done", 1));
    assert_eq!(
        job.result,
        Some(json!({
            "value": 7, "name": "a text",
            "children": { "total": 5, "done": 3, "discarded": 1, "cancelled": 0, "dead": 1, "sum": { "value": 33 } }
        }))
    );
    worker.stop().await;
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn a_child_that_waits_for_its_own_has_not_ended() {
    let db = db().await;
    let worker = worker_with(db.pool(), registry(), options());
    let inner = Tree::of(
        5,
        vec![
            Tree::leaf(10),
            Tree {
                end: "wait".into(),
                ..Tree::leaf(20)
            },
        ],
    );
    let id = put(db.pool(), tree(&Tree::of(1, vec![inner, Tree::leaf(2)]))).await;
    until("both wait for their children", || async {
        count(db.pool(), "select count(*) from causelist.parent").await == 2
            && count(db.pool(), "select count(*) from causelist.child").await == 2
    })
    .await;
    assert_eq!(state(db.pool(), id).await, "waiting_children");
    open_gate(db.pool()).await;
    let (job, _) = finished(db.pool(), id).await;
    assert_eq!(job.result.expect("a result")["children"], sums(2, 2, 7));
    let inner: Value =
        sqlx::query_scalar("select result -> 'children' from causelist.attempt where result @> '{\"value\": 5}'")
            .fetch_one(db.pool())
            .await
            .expect("a result");
    assert_eq!(inner, sums(2, 2, 30));
    worker.stop().await;
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn while_it_waits_it_is_shown_holds_its_key_and_no_slot() {
    let db = db().await;
    let mut one = options();
    one.concurrency = 1;
    let worker = worker_with(db.pool(), registry(), one);
    let children = vec![Tree::leaf(1), Tree::leaf(2)];
    let new = tree(&Tree::of(0, children)).key("k");
    // The last one comes much later: the only slot is free meanwhile.
    let id = put(db.pool(), new.clone()).await;
    until("it waits or has ended", || async {
        !["ready", "running"].contains(&state(db.pool(), id).await.as_str())
    })
    .await;
    finished(db.pool(), id).await;
    let again = put(db.pool(), new.clone()).await;
    assert_ne!(again, id, "the key was freed when it was finished");
    finished(db.pool(), again).await;

    let waits = Tree::of(0, vec![Tree::ends("wait")]);
    let id = put(db.pool(), tree(&waits).key("w")).await;
    until("it waits", || async {
        state(db.pool(), id).await == "waiting_children"
    })
    .await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    let twin = enqueue(&mut conn, tree(&waits).key("w")).await.expect("is enqueued");
    assert_eq!((twin.id, twin.duplicate), (id, true));
    let filter = JobFilter {
        state: Some("waiting_children".into()),
        limit: 10,
        ..JobFilter::default()
    };
    let listed = list(&mut conn, &filter).await.expect("lists");
    assert_eq!(listed.iter().map(|j| j.id).collect::<Vec<_>>(), [id]);
    let (job, attempts) = show(&mut conn, id).await.expect("answers").expect("is there");
    assert_eq!((job.state.as_str(), attempts.len()), ("waiting_children", 0));
    assert_eq!(job.children.expect("children").open, 1);
    let child: JobId = sqlx::query_scalar("select id from causelist.child")
        .fetch_one(db.pool())
        .await
        .expect("a child");
    let (child, _) = show(&mut conn, child).await.expect("answers").expect("is there");
    assert_eq!(child.parent, Some(id));
    let held = count(
        db.pool(),
        "select count(*) from causelist.claim c, causelist.parent p where p.id = any (c.ids)",
    )
    .await;
    assert_eq!(held, 0);
    open_gate(db.pool()).await;
    assert_eq!(finished(db.pool(), id).await.0.state, "done");
    worker.stop().await;
    assert_idle(db.pool()).await;
    assert_eq!(count(db.pool(), "select count(*) from causelist.job_key").await, 0);
}

#[tokio::test]
async fn a_parent_that_fails_after_it_had_children_waits_for_them_in_the_end() {
    let db = db().await;
    let worker = worker_with(db.pool(), registry(), options());
    let parent = Tree {
        end: "fail_once".into(),
        ..Tree::of(1, vec![Tree::leaf(2), Tree::leaf(3)])
    };
    let id = put(db.pool(), tree(&parent)).await;
    let (job, attempts) = finished(db.pool(), id).await;
    let outcomes: Vec<&str> = attempts.iter().map(|a| a.outcome.as_str()).collect();
    assert_eq!(outcomes, ["retry", "done"]);
    assert_eq!(job.result.expect("a result")["children"], sums(2, 2, 5));
    worker.stop().await;
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn a_parent_that_has_ended_or_is_not_there_is_refused() {
    let db = db().await;
    let worker = worker_with(db.pool(), registry(), options());
    let done = put(db.pool(), tree(&Tree::leaf(1))).await;
    let dead = put(db.pool(), tree(&Tree::ends("die"))).await;
    finished(db.pool(), done).await;
    finished(db.pool(), dead).await;
    worker.stop().await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    for (parent, why) in [
        (done, "has ended (done): leave the parent out"),
        (dead, "is dead: retry it first"),
        (77, "does not exist"),
    ] {
        let jobs = [tree(&Tree::leaf(1)), tree(&Tree::leaf(2)).parent(parent)];
        let error = enqueue_many(&mut conn, &jobs)
            .await
            .expect_err("is refused")
            .to_string();
        assert!(
            error.starts_with(&format!("parent \"{parent}\": ")) && error.contains(why),
            "{error}"
        );
    }
    assert_eq!(count(db.pool(), "select count(*) from causelist.job").await, 2);
    assert_idle(db.pool()).await;
}

/// Whoever has them: a job is given a child wherever it is, and waits for it.
#[tokio::test]
async fn anybody_may_give_an_unfinished_job_a_child() {
    let db = db().await;
    let (pool, hand) = (db.pool(), Hand::new(db.pool()));
    for place in ["ready", "scheduled", "running", "waiting_children"] {
        let later = DateTime::from_timestamp(4_000_000_000, 0);
        let new = NewJob::raw("raw", json!({})).queue("practice");
        let parent = put(pool, new.run_at(later.filter(|_| place == "scheduled"))).await;
        let give = || put(pool, NewJob::raw("raw", json!({})).queue("delivery").parent(parent));
        let mut children = 0;
        if place == "ready" || place == "scheduled" {
            give().await;
            children += 1;
            sqlx::query("update causelist.scheduled set run_at = now()")
                .execute(pool)
                .await
                .expect("runs");
            testing::promote(pool).await.expect("promotes");
        }
        let taken = hand.claim("practice", 9, LEASE).await.expect("claims");
        assert_eq!(taken.len(), 1, "{place}");
        if place == "running" {
            give().await;
            give().await;
            children += 2;
        }
        if place == "waiting_children" {
            give().await;
            children += 1;
        }
        let recorded = hand
            .settle_whole(taken[0].fence(), &[&taken[0]])
            .await
            .expect("settles");
        assert_eq!(recorded, 1, "{place}");
        if place == "waiting_children" {
            assert_eq!(state(pool, parent).await, place);
            give().await;
            children += 1;
        }
        assert_eq!(state(pool, parent).await, "waiting_children", "{place}");
        let parts = hand.claim("delivery", 9, LEASE).await.expect("claims");
        assert_eq!(parts.len(), children, "{place}");
        for part in &parts {
            assert_eq!(state(pool, parent).await, "waiting_children", "{place}");
            let end = Ok(json!({ "n": 1.5 }));
            assert_eq!(hand.settle(part.fence(), &[(part, end)]).await.expect("settles"), 1);
        }
        let (job, _) = finished(pool, parent).await;
        let told = &job.result.expect("a result")["children"];
        assert_eq!(told["sum"], json!({ "n": 1.5 * children as f64 }), "{place}");
    }
    assert_idle(pool).await;
}

#[tokio::test]
async fn the_last_two_children_at_once_finish_the_parent_once() {
    let db = db().await;
    let hand = Hand::new(db.pool());
    for _ in 0..30 {
        let parent = put(db.pool(), NewJob::raw("raw", json!({})).queue("practice")).await;
        for _ in 0..2 {
            put(db.pool(), NewJob::raw("raw", json!({})).parent(parent)).await;
        }
        let own = hand.claim("practice", 1, LEASE).await.expect("claims");
        hand.settle(own[0].fence(), &[(&own[0], Ok(json!({})))])
            .await
            .expect("settles");
        let one = hand.claim("default", 1, LEASE).await.expect("claims");
        let two = hand.claim("default", 1, LEASE).await.expect("claims");
        let ends = [(&one[0], Ok(json!({ "n": 1 })))];
        let other = [(&two[0], Ok(json!({ "n": 2 })))];
        let (a, b) = tokio::join!(hand.settle(one[0].fence(), &ends), hand.settle(two[0].fence(), &other));
        assert_eq!((a.expect("settles"), b.expect("settles")), (1, 1));
        let (job, attempts) = show(&mut db.pool().acquire().await.expect("a connection"), parent)
            .await
            .expect("answers")
            .expect("is there");
        assert_eq!((job.state.as_str(), attempts.len()), ("done", 1));
        assert_eq!(job.result.expect("a result")["children"]["sum"], json!({ "n": 3 }));
    }
    assert_idle(db.pool()).await;
}

/// Either the parent waits for the child, or the child is refused.
#[tokio::test]
async fn a_child_that_comes_while_its_parent_is_settled_is_waited_for_or_refused() {
    let db = db().await;
    let hand = Hand::new(db.pool());
    let (mut waited, mut refused) = (0, 0);
    for round in 0..60 {
        let parent = put(db.pool(), NewJob::raw("raw", json!({})).queue("practice")).await;
        let own = hand.claim("practice", 1, LEASE).await.expect("claims");
        let mut tx = db.pool().begin().await.expect("a transaction");
        let child = NewJob::raw("raw", json!({})).parent(parent);
        let give = async {
            let made = enqueue(&mut tx, child).await;
            tx.commit().await.expect("commits");
            made
        };
        let own_end = [&own[0]];
        let settle = async {
            // So that either may be first.
            tokio::time::sleep(Duration::from_micros(200 * (round % 10))).await;
            hand.settle_whole(own[0].fence(), &own_end).await
        };
        let (made, settled) = tokio::join!(give, settle);
        assert_eq!(settled.expect("settles"), 1);
        if made.is_err() {
            assert_eq!(state(db.pool(), parent).await, "done");
            refused += 1;
            continue;
        }
        waited += 1;
        assert_eq!(state(db.pool(), parent).await, "waiting_children");
        let part = hand.claim("default", 1, LEASE).await.expect("claims");
        hand.settle(part[0].fence(), &[(&part[0], Ok(json!({})))])
            .await
            .expect("settles");
        assert_eq!(state(db.pool(), parent).await, "done");
    }
    println!("{waited} were waited for, {refused} refused");
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn what_a_crash_leaves_between_child_and_parent_is_finished_later() {
    let db = db().await;
    let hand = Hand::new(db.pool());
    let parent = put(db.pool(), NewJob::raw("raw", json!({})).queue("practice")).await;
    let child = put(db.pool(), NewJob::raw("raw", json!({})).parent(parent)).await;
    let own = hand.claim("practice", 1, LEASE).await.expect("claims");
    hand.settle(own[0].fence(), &[(&own[0], Ok(json!({})))])
        .await
        .expect("settles");
    // What the settle of the child does, and no more.
    sqlx::raw_sql(
        "with gone as (delete from causelist.child returning parent, id)
         insert into causelist.child_end (parent, id, outcome, numbers) select parent, id, 'done', '{\"n\": 4}' from gone",
    )
    .execute(db.pool())
    .await
    .expect("runs");
    assert_eq!(state(db.pool(), parent).await, "waiting_children");
    testing::rescue(db.pool()).await.expect("rescues");
    let (job, _) = finished(db.pool(), parent).await;
    assert_eq!(job.result.expect("a result")["children"]["sum"], json!({ "n": 4 }));
    cancel(db.pool(), child).await.expect("answers");
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn a_crash_of_the_parent_loses_none_of_its_children() {
    let db = db().await;
    let hand = Hand::new(db.pool());
    let parent = put(db.pool(), NewJob::raw("raw", json!({})).queue("practice")).await;
    let own = hand.claim("practice", 1, LEASE).await.expect("claims");
    let cx = hand.cx(&own[0]);
    let mut tx = cx.begin().await.expect("begins");
    enqueue(&mut tx, cx.child(NewJob::raw("raw", json!({}))))
        .await
        .expect("is enqueued");
    tx.commit_part().await.expect("commits");
    sqlx::query("update causelist.claim set expires_at = now() - interval '1 second'")
        .execute(db.pool())
        .await
        .expect("runs");
    testing::rescue(db.pool()).await.expect("rescues");
    // Stale by now: it may neither commit a child nor complete.
    let mut tx = cx.begin().await.expect("begins");
    let stale = enqueue(&mut tx, cx.child(NewJob::raw("raw", json!({})))).await;
    assert!(
        stale
            .expect_err("is refused")
            .to_string()
            .contains("its lease was lost")
    );
    drop(tx);
    testing::promote(db.pool()).await.expect("promotes");
    let again = hand.claim("practice", 1, LEASE).await.expect("claims");
    hand.settle(again[0].fence(), &[(&again[0], Ok(json!({ "own": 1 })))])
        .await
        .expect("settles");
    assert_eq!(state(db.pool(), parent).await, "waiting_children");
    let part = hand.claim("default", 9, LEASE).await.expect("claims");
    assert_eq!(part.len(), 1);
    hand.settle(part[0].fence(), &[(&part[0], Ok(json!([1])))])
        .await
        .expect("settles");
    let (job, _) = finished(db.pool(), parent).await;
    let told = json!({ "total": 1, "done": 1, "discarded": 0, "cancelled": 0, "dead": 0, "sum": {} });
    assert_eq!(job.result, Some(json!({ "own": 1, "children": told })));
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn cancelling_a_parent_cancels_its_unfinished_children() {
    let db = db().await;
    let worker = worker_with(db.pool(), registry(), options());
    let inner = Tree::of(0, vec![Tree::ends("wait"), Tree::leaf(1)]);
    let id = put(
        db.pool(),
        tree(&Tree::of(0, vec![inner, Tree::ends("wait"), Tree::leaf(1)])),
    )
    .await;
    until("two wait for children, two for the gate", || async {
        count(db.pool(), "select count(*) from causelist.parent").await == 2
            && count(db.pool(), "select count(*) from causelist.attempt").await == 2
            && count(db.pool(), "select count(*) from begun").await == 6
    })
    .await;
    // One more that waits, among the running ones.
    let later = DateTime::from_timestamp(4_000_000_000, 0);
    let waiting = put(db.pool(), tree(&Tree::leaf(1)).parent(id).run_at(later)).await;
    assert_eq!(cancel(db.pool(), id).await.expect("answers"), CancelEffect::Requested);
    assert_eq!(state(db.pool(), waiting).await, "cancelled");
    let mut conn = db.pool().acquire().await.expect("a connection");
    let (job, attempts) = finished(db.pool(), id).await;
    assert_eq!((job.state.as_str(), attempts.len()), ("cancelled", 1));
    let told = &job.result.expect("a result")["children"];
    assert_eq!((&told["done"], &told["cancelled"]), (&json!(1), &json!(3)));
    let refused = enqueue(&mut conn, tree(&Tree::leaf(1)).parent(id)).await;
    assert!(
        refused
            .expect_err("is refused")
            .to_string()
            .contains("has ended (cancelled)")
    );
    // One whose children all wait is finished at once.
    let parent = put(db.pool(), tree(&Tree::leaf(1)).run_at(later)).await;
    let child = put(db.pool(), tree(&Tree::leaf(1)).parent(parent).run_at(later)).await;
    assert_eq!(
        cancel(db.pool(), parent).await.expect("answers"),
        CancelEffect::Cancelled
    );
    assert_eq!(state(db.pool(), child).await, "cancelled");
    worker.stop().await;
    assert_idle(db.pool()).await;
    // One for a job that has ended is forgotten within a day.
    let heard = "select count(*) from causelist.cancel_request
                 where causelist.job_state(id) not in ('done', 'discarded', 'cancelled', 'dead')";
    assert_eq!(count(db.pool(), heard).await, 0);
}

#[tokio::test]
async fn a_dead_childs_retry_does_not_change_a_finished_parent() {
    let db = db().await;
    let worker = worker_with(db.pool(), registry(), options());
    let id = put(db.pool(), tree(&Tree::of(0, vec![Tree::ends("die")]))).await;
    let before = finished(db.pool(), id).await.0.result;
    let mut conn = db.pool().acquire().await.expect("a connection");
    let back = retry_dead(&mut conn, &DeadFilter::default(), 9).await.expect("retries");
    assert_eq!(back.jobs.len(), 1);
    until("it has died again", || async {
        count(
            db.pool(),
            "select count(*) from causelist.attempt where outcome = 'dead'",
        )
        .await
            == 2
    })
    .await;
    let (job, attempts) = finished(db.pool(), id).await;
    assert_eq!((job.result, attempts.len()), (before, 1));
    worker.stop().await;
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn a_duplicate_is_nobodys_new_child() {
    let db = db().await;
    let hand = Hand::new(db.pool());
    let held = put(db.pool(), NewJob::raw("part", json!({})).key_held("k", Hold::Ever)).await;
    let parent = put(db.pool(), NewJob::raw("raw", json!({})).queue("practice")).await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    let twin = NewJob::raw("part", json!({})).key_held("k", Hold::Ever).parent(parent);
    assert_eq!(enqueue(&mut conn, twin).await.expect("is enqueued").id, held);
    let own = hand.claim("practice", 1, LEASE).await.expect("claims");
    hand.settle(own[0].fence(), &[(&own[0], Ok(json!({ "own": 1 })))])
        .await
        .expect("settles");
    let (job, _) = finished(db.pool(), parent).await;
    assert_eq!(job.result, Some(json!({ "own": 1 })));
    assert_eq!(count(db.pool(), "select count(*) from causelist.parent").await, 0);
}

#[tokio::test]
async fn ten_thousand_children_finish_their_parent_once() {
    let db = db().await;
    let mut wide = options();
    wide.concurrency = 16;
    wide.batch = 200;
    wide.lease = Duration::from_secs(30);
    let pools = [db.another_pool(10).await, db.another_pool(10).await];
    let workers = [
        worker_with(&pools[0], registry(), wide.clone()),
        worker_with(&pools[1], registry(), wide),
    ];
    let begun = std::time::Instant::now();
    let id = put(db.pool(), NewJob::of(&Wide { leaves: 10_000 }).expect("is JSON")).await;
    // Longer than other tests wait: a busy machine needs half a minute.
    let waited = causelist_queue::wait_until_finished(db.pool(), id, Duration::from_secs(300)).await;
    let (job, attempts) = waited.expect("answers").expect("the parent finishes");
    println!("10000 children took {:?}", begun.elapsed());
    assert_eq!(attempts.len(), 1);
    assert_eq!(
        job.result.expect("a result")["children"],
        sums(10_000, 10_000, 50_005_000)
    );
    let [one, two] = workers;
    one.stop().await;
    two.stop().await;
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn a_job_with_children_runs_without_a_worker_too() {
    let db = db().await;
    let report = testing::run_job(
        db.pool(),
        Tree::of(3, vec![Tree::leaf(1)]),
        None,
        causelist_queue::States::default(),
    )
    .await
    .expect("runs");
    assert_eq!(report["value"], 3);
    assert_eq!(count(db.pool(), "select count(*) from causelist.child").await, 1);
}
