//! Fair queues: tenants take turns; nobody else notices.

use std::time::Duration;

use causelist_core::{JobError, TenantId};
use causelist_queue::fair::{publish, set_fair};
use causelist_queue::limits::{self, Rule, Scope};
use causelist_queue::testing::{self, Hand, Taken};
use causelist_queue::{DeadFilter, NewJob, enqueue_many, retry_dead, stats};
use causelist_testkit::TestDb;
use serde_json::json;
use uuid::Uuid;

use crate::fixture::{Act, act_job, assert_idle, count, db, finished, options, put, until, worker};

const LEASE: Duration = Duration::from_secs(3600);

async fn fair_db() -> TestDb {
    let db = db().await;
    assert!(set_fair(db.pool(), "default", true).await.expect("is made fair"));
    db
}

async fn put_some(db: &TestDb, tenant: Option<TenantId>, n: usize) -> Vec<i64> {
    let jobs: Vec<NewJob> = (0..n).map(|_| NewJob::raw("act", json!({})).tenant(tenant)).collect();
    let mut conn = db.pool().acquire().await.expect("a connection");
    let made = enqueue_many(&mut conn, &jobs).await.expect("are taken");
    made.into_iter().map(|m| m.id).collect()
}

async fn claim(db: &TestDb, limit: usize) -> (Hand, Vec<Taken>) {
    let hand = Hand::new(db.pool());
    let jobs = hand.claim("default", limit, LEASE).await.expect("claims");
    if let Some(last) = jobs.last() {
        // What a worker does.
        publish(db.pool(), "default", 0, last.rank()).await.expect("publishes");
    }
    (hand, jobs)
}

fn ids(jobs: &[Taken]) -> Vec<i64> {
    jobs.iter().map(Taken::id).collect()
}

#[tokio::test]
async fn a_flood_queues_up_behind_itself() {
    let db = fair_db().await;
    let flood = put_some(&db, Some(Uuid::new_v4()), 50_000).await;
    let (_, first) = claim(&db, 1000).await;
    assert_eq!(ids(&first), flood[..1000], "a tenant's own jobs keep their order");
    let mut others = Vec::new();
    for _ in 0..99 {
        others.extend(put_some(&db, Some(Uuid::new_v4()), 1).await);
    }
    let (_, next) = claim(&db, 200).await;
    let next = ids(&next);
    assert!(
        others.iter().all(|id| next.contains(id)),
        "all 99 are among the next 200"
    );
    // Their second jobs as well.
    let (_, _) = claim(&db, 1000).await;
    let late = put_some(&db, None, 3).await;
    let (_, next) = claim(&db, 10).await;
    assert!(
        late.iter().all(|id| ids(&next).contains(id)),
        "jobs of no tenant are one tenant's"
    );
}

#[tokio::test]
async fn tenants_of_one_call_take_turns() {
    let db = fair_db().await;
    let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
    let whose = [Some(a), Some(a), Some(a), Some(b), None, Some(b)];
    let jobs: Vec<NewJob> = whose.iter().map(|t| act_job(&Act::Count).tenant(*t)).collect();
    let mut conn = db.pool().acquire().await.expect("a connection");
    let made = enqueue_many(&mut conn, &jobs).await.expect("are taken");
    // The same by SQL: their turns come after.
    let by_sql: Vec<i64> = sqlx::query_scalar(
        "select id from causelist.enqueue_many(jsonb_build_array(
             jsonb_build_object('kind', 'act', 'tenant', $1::text), jsonb_build_object('kind', 'act', 'tenant', $1::text),
             jsonb_build_object('kind', 'act', 'tenant', $2::text)))",
    )
    .bind(a.to_string())
    .bind(Uuid::new_v4().to_string())
    .fetch_all(&mut *conn)
    .await
    .expect("are taken");
    let id = |n: usize| made[n].id;
    let (_, jobs) = claim(&db, 20).await;
    assert_eq!(
        ids(&jobs),
        [
            id(0),
            id(3),
            id(4),
            by_sql[2],
            id(1),
            id(5),
            id(2),
            by_sql[0],
            by_sql[1]
        ]
    );
}

#[tokio::test]
async fn what_was_ready_before_the_change_comes_first() {
    let db = db().await;
    let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
    let before = put_some(&db, Some(a), 3).await;
    assert!(set_fair(db.pool(), "default", true).await.expect("is made fair"));
    assert!(!set_fair(db.pool(), "default", true).await.expect("was so"));
    let of_a = put_some(&db, Some(a), 3).await;
    let of_b = put_some(&db, Some(b), 1).await;
    assert!(set_fair(db.pool(), "default", false).await.expect("is ordinary"));
    let after = put_some(&db, Some(b), 1).await;
    let (_, jobs) = claim(&db, 20).await;
    let expected = [&before[..], &[of_a[0], of_b[0], of_a[1], of_a[2]], &after].concat();
    assert_eq!(ids(&jobs), expected);
    // Again: the clock begins after all of that.
    assert!(set_fair(db.pool(), "default", true).await.expect("is made fair"));
    let ordinary = count(
        db.pool(),
        "select fair_from from causelist.queue where name = 'default'",
    )
    .await;
    put_some(&db, Some(a), 1).await;
    let (_, jobs) = claim(&db, 1).await;
    assert!(jobs[0].rank() >= ordinary);
    let said = set_fair(db.pool(), "nowhere", true)
        .await
        .expect_err("is refused")
        .to_string();
    assert!(said.contains("\"nowhere\""), "{said}");
}

#[tokio::test]
async fn an_ordinary_queue_pays_nothing() {
    let db = fair_db().await;
    let job = act_job(&Act::Count).queue("practice").tenant(Uuid::new_v4());
    put(db.pool(), job).await;
    let turns =
        "select count(*) from causelist.ready where tenant is not null or since is not null or gated is not null";
    assert_eq!(count(db.pool(), turns).await, 0);
    put_some(&db, None, 1).await;
    assert_eq!(count(db.pool(), turns).await, 1);
}

#[tokio::test]
async fn whatever_comes_back_takes_a_turn() {
    let db = fair_db().await;
    let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
    let of_a = put_some(&db, Some(a), 6).await;
    let (hand, jobs) = claim(&db, 3).await;
    let fence = jobs[0].fence();
    // One is given back at its old place, one dies and is retried, one comes due.
    assert!(hand.release(fence, &[&jobs[0]]).await.expect("releases"));
    let ends = [
        (&jobs[1], Err(JobError::Permanent("no use".into()))),
        (&jobs[2], Err(JobError::Snooze(LEASE, "later".into()))),
    ];
    assert_eq!(hand.settle(fence, &ends).await.expect("settles"), 2);
    let mut conn = db.pool().acquire().await.expect("a connection");
    retry_dead(&mut conn, &DeadFilter::job(of_a[1]), 1)
        .await
        .expect("retries");
    sqlx::query("update causelist.scheduled set run_at = clock_timestamp() - interval '1 hour'")
        .execute(&mut *conn)
        .await
        .expect("runs");
    testing::promote(db.pool()).await.expect("promotes");
    let of_b = put_some(&db, Some(b), 1).await;
    let (_, jobs) = claim(&db, 20).await;
    // Released, then what was left of a and the one of b at the clock, then what came back.
    assert_eq!(
        ids(&jobs),
        [of_a[0], of_b[0], of_a[3], of_a[4], of_a[5], of_a[1], of_a[2]]
    );
}

#[tokio::test]
async fn the_clock_never_goes_back_and_nobody_waits_for_it() {
    let db = fair_db().await;
    let clock = "select rank from causelist.fair_clock where queue = 'default' and priority = 0";
    for (rank, shown) in [(10, 10), (30, 30), (20, 30), (31, 31)] {
        publish(db.pool(), "default", 0, rank).await.expect("publishes");
        assert_eq!(count(db.pool(), clock).await, shown);
    }
    let mut holder = db.pool().begin().await.expect("a transaction");
    sqlx::query("update causelist.fair_clock set rank = 40")
        .execute(&mut *holder)
        .await
        .expect("runs");
    publish(db.pool(), "default", 0, 50).await.expect("passes over it");
    holder.commit().await.expect("commits");
    assert_eq!(count(db.pool(), clock).await, 40);
}

#[tokio::test]
async fn workers_publish_the_clock_and_waits_are_real() {
    let db = fair_db().await;
    put_some(&db, Some(Uuid::new_v4()), 3).await;
    let shown = stats::queues(db.pool()).await.expect("queues");
    let queue = shown.iter().find(|q| q.name == "default").expect("is listed");
    assert!(queue.fair);
    assert!(queue.oldest_ready_seconds < 3600.0, "{}", queue.oldest_ready_seconds);
    let worker = worker(db.pool(), options());
    let id = put(db.pool(), act_job(&Act::Count)).await;
    finished(db.pool(), id).await;
    until("the clock is published", || async {
        count(db.pool(), "select count(*) from causelist.fair_clock where rank > 0").await == 1
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn a_limited_job_takes_its_turn_when_it_passes_its_gate() {
    let db = fair_db().await;
    let rule = Rule {
        kind: Some("act".into()),
        scope: Scope::Each,
        max_running: Some(2),
        rate: None,
    };
    limits::set(db.pool(), &rule).await.expect("is set");
    let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
    let of_a = put_some(&db, Some(a), 3).await;
    let of_b = put_some(&db, Some(b), 3).await;
    assert_eq!(testing::admit(db.pool(), &["default"]).await.expect("admits"), 4);
    let (hand, jobs) = claim(&db, 20).await;
    assert_eq!(ids(&jobs), [of_a[0], of_b[0], of_a[1], of_b[1]]);
    let ends: Vec<_> = jobs.iter().map(|j| (j, Ok(json!({})))).collect();
    hand.settle(jobs[0].fence(), &ends).await.expect("settles");
    assert_eq!(testing::admit(db.pool(), &["default"]).await.expect("admits"), 2);
    let (hand, jobs) = claim(&db, 20).await;
    assert_eq!(ids(&jobs), [of_a[2], of_b[2]]);
    let ends: Vec<_> = jobs.iter().map(|j| (j, Ok(json!({})))).collect();
    hand.settle(jobs[0].fence(), &ends).await.expect("settles");
    assert_idle(db.pool()).await;
}
