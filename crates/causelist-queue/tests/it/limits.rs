//! Limits: never exceeded, freed by whatever ends a job, in nobody else's way.

mod rules;

use std::time::Duration;

use causelist_core::{JobError, TenantId};
use causelist_queue::limits::{self, Rate, Rule, Scope};
use causelist_queue::testing::{self, Hand, Taken};
use causelist_queue::{CancelEffect, DeadFilter, NewJob, cancel, enqueue_many, retry_dead};
use causelist_testkit::TestDb;
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use crate::fixture::{Act, act_job, assert_idle, count, db, finished, options, put, state, until, worker};

const LEASE: Duration = Duration::from_secs(3600);

/// At most `most` of kind act.
async fn at_most(pool: &PgPool, scope: Scope, most: u32) {
    let rule = Rule {
        kind: Some("act".into()),
        scope,
        max_running: Some(most),
        rate: None,
    };
    limits::set(pool, &rule).await.expect("is set");
}

async fn put_some(db: &TestDb, tenant: Option<TenantId>, n: usize) -> Vec<i64> {
    let jobs: Vec<NewJob> = (0..n).map(|_| act_job(&Act::Count).tenant(tenant)).collect();
    let mut conn = db.pool().acquire().await.expect("a connection");
    let made = enqueue_many(&mut conn, &jobs).await.expect("are taken");
    made.into_iter().map(|m| m.id).collect()
}

async fn admit(db: &TestDb) -> i32 {
    testing::admit(db.pool(), &["default"]).await.expect("admits")
}

async fn slots(db: &TestDb) -> i64 {
    count(db.pool(), "select count(*) from causelist.slot").await
}

/// Ids of the jobs that are ready, in order.
async fn ready(db: &TestDb) -> Vec<i64> {
    sqlx::query_scalar("select id from causelist.ready order by queue, priority, rank, id")
        .fetch_all(db.pool())
        .await
        .expect("rows")
}

async fn claim(db: &TestDb, limit: usize) -> (Hand, Vec<Taken>) {
    let hand = Hand::new(db.pool());
    let jobs = hand.claim("default", limit, LEASE).await.expect("claims");
    (hand, jobs)
}

async fn settle(hand: &Hand, job: &Taken, end: Result<serde_json::Value, JobError>) {
    let recorded = hand.settle(job.fence(), &[(job, end)]).await.expect("settles");
    assert_eq!(recorded, 1);
}

/// The most jobs of kind act that ran at one moment, by their own records.
async fn most_at_once(pool: &PgPool) -> i64 {
    count(
        pool,
        "with a as (select a.* from causelist.attempt a join causelist.job j on j.id = a.job_id where j.kind = 'act')
         select max((select count(*) from a b where b.started_at <= a.started_at and b.finished_at > a.started_at))
         from a",
    )
    .await
}

#[tokio::test]
async fn three_workers_keep_one_limit() {
    let db = db().await;
    at_most(db.pool(), Scope::Fleet, 3).await;
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(put(db.pool(), act_job(&Act::Wait)).await);
    }
    let other = put(db.pool(), NewJob::raw("brief", json!({})).max_attempts(1)).await;
    let workers = [(); 3].map(|()| worker(db.pool(), options()));
    until("three run", || async {
        count(
            db.pool(),
            "select count(*) from begun where job <> (select max(id) from causelist.job)",
        )
        .await
            == 3
    })
    .await;
    // A kind without a limit is in nobody's line.
    finished(db.pool(), other).await;
    assert_eq!(slots(&db).await, 3);
    assert_eq!(count(db.pool(), "select count(*) from causelist.waiting").await, 37);
    sqlx::query("insert into gate values (true)")
        .execute(db.pool())
        .await
        .expect("runs");
    for id in ids {
        let (record, attempts) = finished(db.pool(), id).await;
        assert_eq!((record.state.as_str(), attempts.len()), ("done", 1));
    }
    assert_eq!(most_at_once(db.pool()).await, 3);
    for worker in workers {
        worker.stop().await;
    }
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn each_tenant_has_its_own_room() {
    let db = db().await;
    at_most(db.pool(), Scope::Each, 2).await;
    let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
    let of_a = put_some(&db, Some(a), 5).await;
    let of_b = put_some(&db, Some(b), 1).await;
    let of_nobody = put_some(&db, None, 3).await;
    assert_eq!(ready(&db).await, [] as [i64; 0]);
    assert_eq!(admit(&db).await, 5);
    assert_eq!(
        ready(&db).await,
        [of_a[0], of_a[1], of_b[0], of_nobody[0], of_nobody[1]]
    );
    assert_eq!(admit(&db).await, 0);
    let (hand, jobs) = claim(&db, 10).await;
    assert_eq!(admit(&db).await, 0, "running jobs count");
    settle(&hand, &jobs[2], Ok(json!({}))).await;
    assert_eq!(admit(&db).await, 0, "one tenant's end makes no room for another");
    settle(&hand, &jobs[1], Ok(json!({}))).await;
    assert_eq!(admit(&db).await, 1);
    assert_eq!(ready(&db).await, [of_a[2]]);
}

#[tokio::test]
async fn a_job_needs_room_at_every_gate_and_a_full_one_hides_no_other() {
    let db = db().await;
    at_most(db.pool(), Scope::Fleet, 3).await;
    at_most(db.pool(), Scope::Each, 2).await;
    let (a, b, c) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    at_most(db.pool(), Scope::One(c), 1).await;
    let of_a = put_some(&db, Some(a), 4).await;
    let of_c = put_some(&db, Some(c), 2).await;
    let of_b = put_some(&db, Some(b), 4).await;
    assert_eq!(admit(&db).await, 3);
    assert_eq!(ready(&db).await, [of_a[0], of_a[1], of_c[0]]);
    let (hand, jobs) = claim(&db, 10).await;
    assert_eq!(slots(&db).await, 2 * 2 + 3);
    // The oldest come first where their own gates let them.
    settle(&hand, &jobs[0], Ok(json!({}))).await;
    assert_eq!(admit(&db).await, 1);
    assert_eq!(ready(&db).await, [of_a[2]]);
    let (hand, more) = claim(&db, 10).await;
    settle(&hand, &more[0], Err(JobError::Snooze(LEASE, "later".into()))).await;
    assert_eq!(admit(&db).await, 1);
    assert_eq!(ready(&db).await, [of_a[3]]);
    let (_, _) = claim(&db, 10).await;
    // Tenant a has two, tenant c its one: of the next two only those of b can go.
    let first = Hand::new(db.pool());
    settle(&first, &jobs[1], Ok(json!({}))).await;
    assert_eq!(admit(&db).await, 1);
    assert_eq!(ready(&db).await, [of_b[0]]);
}

#[tokio::test]
async fn whatever_ends_a_job_frees_its_slots() {
    let db = db().await;
    at_most(db.pool(), Scope::Fleet, 1).await;
    at_most(db.pool(), Scope::Each, 1).await;
    let text = || "as asked".to_owned();
    let ends = [
        Ok(json!({})),
        Err(JobError::Retry(text())),
        Err(JobError::RetryAfter(LEASE, text())),
        Err(JobError::Snooze(LEASE, text())),
        Err(JobError::Permanent(text())),
        Err(JobError::Discard(text())),
        Err(JobError::Uncertain(text())),
        Err(JobError::Cancelled),
    ];
    for end in ends {
        put_some(&db, None, 1).await;
        assert_eq!((admit(&db).await, slots(&db).await), (1, 2), "before {end:?}");
        let (hand, jobs) = claim(&db, 1).await;
        settle(&hand, &jobs[0], end.clone()).await;
        assert_eq!(slots(&db).await, 0, "after {end:?}");
    }
    // Completed in its own transaction; and one that rolls back keeps what it has.
    put_some(&db, None, 1).await;
    assert_eq!(admit(&db).await, 1);
    let (hand, jobs) = claim(&db, 1).await;
    drop(hand.cx(&jobs[0]).begin().await.expect("begins"));
    hand.cx(&jobs[0])
        .begin()
        .await
        .expect("begins")
        .commit_part()
        .await
        .expect("goes on");
    assert_eq!(slots(&db).await, 2);
    let tx = hand.cx(&jobs[0]);
    tx.begin()
        .await
        .expect("begins")
        .complete(&json!({}))
        .await
        .expect("completes");
    assert_eq!(slots(&db).await, 0);
    // Cancelled before it ran.
    let ids = put_some(&db, None, 2).await;
    assert_eq!(admit(&db).await, 1);
    assert_eq!(state(db.pool(), ids[1]).await, "waiting");
    for id in ids {
        assert_eq!(cancel(db.pool(), id).await.expect("cancels"), CancelEffect::Cancelled);
        assert_eq!(state(db.pool(), id).await, "cancelled");
    }
    assert_eq!(slots(&db).await, 0);
    assert_eq!(count(db.pool(), "select count(*) from causelist.waiting").await, 0);
}

#[tokio::test]
async fn a_crash_frees_slots_and_the_job_waits_again() {
    let db = db().await;
    at_most(db.pool(), Scope::Fleet, 1).await;
    let ids = put_some(&db, None, 2).await;
    assert_eq!(admit(&db).await, 1);
    let (_, _) = claim(&db, 1).await;
    sqlx::query("update causelist.claim set expires_at = clock_timestamp() - interval '1 second'")
        .execute(db.pool())
        .await
        .expect("runs");
    assert_eq!(testing::rescue(db.pool()).await.expect("rescues"), (1, 0));
    assert_eq!(slots(&db).await, 0);
    assert_eq!(testing::promote(db.pool()).await.expect("promotes"), ["default"]);
    assert_eq!(state(db.pool(), ids[0]).await, "waiting");
    assert_eq!(admit(&db).await, 1);
    assert_eq!(ready(&db).await, [ids[1]], "its new rank is the end of its lease");
}

#[tokio::test]
async fn a_worker_that_dies_gives_way_to_what_waits() {
    let db = db().await;
    at_most(db.pool(), Scope::Fleet, 1).await;
    let first = put(db.pool(), act_job(&Act::Wait)).await;
    let second = put(db.pool(), act_job(&Act::Count)).await;
    let doomed = worker(db.pool(), options());
    until("it runs", || async {
        count(db.pool(), "select count(*) from begun").await == 1
    })
    .await;
    doomed.task.abort();
    sqlx::query("insert into gate values (true)")
        .execute(db.pool())
        .await
        .expect("runs");
    let fresh = worker(db.pool(), options());
    for id in [first, second] {
        assert_eq!(finished(db.pool(), id).await.0.state, "done");
    }
    fresh.stop().await;
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn what_is_released_keeps_its_slots() {
    let db = db().await;
    at_most(db.pool(), Scope::Fleet, 2).await;
    let ids = put_some(&db, None, 4).await;
    assert_eq!(admit(&db).await, 2);
    let (hand, jobs) = claim(&db, 2).await;
    let fence = jobs[0].fence();
    assert!(
        hand.release(fence, &jobs.iter().collect::<Vec<_>>())
            .await
            .expect("releases")
    );
    assert_eq!(ready(&db).await, ids[..2]);
    assert_eq!((admit(&db).await, slots(&db).await), (0, 2));
    let (hand, jobs) = claim(&db, 2).await;
    settle(&hand, &jobs[0], Ok(json!({}))).await;
    assert_eq!(slots(&db).await, 1);
}

#[tokio::test]
async fn admitters_at_the_same_time_let_no_more_pass() {
    let db = db().await;
    at_most(db.pool(), Scope::Fleet, 5).await;
    at_most(db.pool(), Scope::Each, 2).await;
    let pool = db.another_pool(8).await;
    for round in 0..30 {
        for tenant in 0..4 {
            put_some(&db, Some(Uuid::from_u128(tenant)), 5).await;
        }
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let pool = pool.clone();
            all.spawn(async move { testing::admit(&pool, &["default"]).await.expect("admits") });
        }
        let passed: i32 = all.join_all().await.iter().sum();
        assert_eq!(passed, 5, "round {round}");
        assert_eq!(slots(&db).await, 10, "round {round}");
        let of_one = "select coalesce(max(n), 0) from (select count(*) n from causelist.slot
                      where gate like '%:%' group by gate) s";
        assert!(count(db.pool(), of_one).await <= 2, "round {round}");
        let (hand, jobs) = claim(&db, 10).await;
        let ends: Vec<_> = jobs.iter().map(|j| (j, Ok(json!({})))).collect();
        hand.settle(jobs[0].fence(), &ends).await.expect("settles");
    }
}

#[tokio::test]
async fn a_rate_lets_pass_what_the_time_allows() {
    let db = db().await;
    let rule = Rule {
        kind: Some("act".into()),
        scope: Scope::Fleet,
        max_running: None,
        // One every ten minutes: the test takes no such time.
        rate: Some(Rate {
            jobs: 6,
            per: Duration::from_secs(3600),
            burst: Some(2),
        }),
    };
    limits::set(db.pool(), &rule).await.expect("is set");
    put_some(&db, None, 20).await;
    assert_eq!(admit(&db).await, 2);
    assert_eq!(admit(&db).await, 0);
    for (minutes, pass) in [(10, 1), (0, 0), (5, 0), (5, 1), (300, 2), (0, 0)] {
        sqlx::query("update causelist.gate_pace set tat = tat - make_interval(mins => $1)")
            .bind(minutes)
            .execute(db.pool())
            .await
            .expect("runs");
        assert_eq!(admit(&db).await, pass, "{minutes} minutes later");
    }
    assert_eq!(slots(&db).await, 0, "a rate alone counts nobody");
    // Far ahead by the slowest rate there is, and then the fastest.
    for (jobs, days, pass) in [(1, 7, 3), (1_000_000, 0, 3)] {
        let rate = Some(Rate {
            jobs,
            per: Duration::from_secs((days * 86_400).max(1)),
            burst: Some(3),
        });
        limits::set(db.pool(), &Rule { rate, ..rule.clone() })
            .await
            .expect("is set");
        assert_eq!(admit(&db).await, pass, "a changed rate holds at once");
    }
}

#[tokio::test]
async fn a_rate_holds_under_workers() {
    let db = db().await;
    let rule = Rule {
        kind: Some("act".into()),
        scope: Scope::Each,
        max_running: None,
        rate: Some(Rate {
            jobs: 10,
            per: Duration::from_secs(1),
            burst: Some(1),
        }),
    };
    limits::set(db.pool(), &rule).await.expect("is set");
    let ids = put_some(&db, Some(Uuid::new_v4()), 15).await;
    let workers = [worker(db.pool(), options()), worker(db.pool(), options())];
    for id in &ids {
        finished(db.pool(), *id).await;
    }
    // The n-th begins no sooner than n - 1 tenths of a second after the first came.
    let early = count(
        db.pool(),
        "select count(*) from (
             select a.started_at - min(j.created_at) over () as after, row_number() over (order by a.started_at) as n
             from causelist.attempt a join causelist.job j on j.id = a.job_id) s
         where s.after < (s.n - 1) * interval '99 ms'",
    )
    .await;
    assert_eq!(early, 0);
    for worker in workers {
        worker.stop().await;
    }
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn jobs_that_nobody_would_run_take_no_slots() {
    let db = db().await;
    at_most(db.pool(), Scope::Fleet, 1).await;
    let paused = put(db.pool(), act_job(&Act::Count).queue("practice").priority(-5)).await;
    let unserved = put(db.pool(), act_job(&Act::Count).queue("delivery").priority(-5)).await;
    let here = put(db.pool(), act_job(&Act::Count)).await;
    causelist_queue::queues::pause(db.pool(), "practice")
        .await
        .expect("pauses");
    let served = ["default", "practice"];
    assert_eq!(testing::admit(db.pool(), &served).await.expect("admits"), 1);
    assert_eq!(ready(&db).await, [here]);
    for id in [paused, unserved] {
        assert_eq!(state(db.pool(), id).await, "waiting");
    }
}

#[tokio::test]
async fn dead_letters_and_scheduled_jobs_come_back_through_the_gate() {
    let db = db().await;
    at_most(db.pool(), Scope::Fleet, 1).await;
    let ids = put_some(&db, Some(Uuid::new_v4()), 1).await;
    assert_eq!(admit(&db).await, 1);
    let (hand, jobs) = claim(&db, 1).await;
    settle(&hand, &jobs[0], Err(JobError::Permanent("no use".into()))).await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    let done = retry_dead(&mut conn, &DeadFilter::job(ids[0]), 1)
        .await
        .expect("retries");
    assert_eq!((done.jobs, done.queues), (ids.clone(), vec!["default".to_owned()]));
    assert_eq!(state(db.pool(), ids[0]).await, "waiting");
    // By SQL, with a key and without; and one that comes due later.
    let made: Vec<(i64, String)> = sqlx::query_as(
        r#"select id, state from causelist.enqueue_many('[{"kind": "act"}, {"kind": "brief"}, {"kind": "act", "key": "k"},
             {"kind": "act", "run_at": "2999-01-01T00:00:00Z"}]')"#,
    )
    .fetch_all(&mut *conn)
    .await
    .expect("are taken");
    let states: Vec<&str> = made.iter().map(|(_, state)| state.as_str()).collect();
    assert_eq!(states, ["waiting", "ready", "waiting", "scheduled"]);
    let again: (i64, bool, String) = sqlx::query_as("select * from causelist.enqueue('act', key => 'k')")
        .fetch_one(&mut *conn)
        .await
        .expect("is answered");
    assert_eq!(again, (made[2].0, true, "waiting".to_owned()));
    let keyed = put(db.pool(), act_job(&Act::Count).key("l")).await;
    sqlx::query("update causelist.scheduled set run_at = clock_timestamp() - interval '1 minute'")
        .execute(&mut *conn)
        .await
        .expect("runs");
    testing::promote(db.pool()).await.expect("promotes");
    for id in [made[0].0, made[2].0, made[3].0, keyed] {
        assert_eq!(state(db.pool(), id).await, "waiting");
    }
    // The last to come was due first.
    assert_eq!(admit(&db).await, 1);
    assert_eq!(state(db.pool(), made[3].0).await, "ready");
}
