//! Workers that die, leases that end, a database that goes away.

use std::time::Duration;

use causelist_queue::NewJob;

use crate::fixture::{Act, act_job, assert_idle, count, db, finished, options, put, until, worker};

async fn open_gate(pool: &sqlx::PgPool) {
    sqlx::query("insert into gate values (true)")
        .execute(pool)
        .await
        .expect("runs");
}

/// Ends every lease now, as time would.
async fn end_leases(pool: &sqlx::PgPool) -> u64 {
    sqlx::query("update causelist.claim set expires_at = clock_timestamp() - interval '1 second'")
        .execute(pool)
        .await
        .expect("runs")
        .rows_affected()
}

#[tokio::test]
async fn the_jobs_of_a_dead_worker_are_taken_up_within_two_leases() {
    let db = db().await;
    // A worker of its own process would be killed; here its tasks end without a word, connections
    // and all. The outer tests do the same with SIGKILL.
    let url = db.url().to_owned();
    let doomed = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async move {
            let pool = causelist_testkit::connect(&url, 10).await;
            let running = worker(&pool, options());
            until("it has begun", || async {
                count(&pool, "select count(*) from begun").await == 2
            })
            .await;
            drop(running);
        });
        // Waits until every task has been dropped where it stood: none may see the gate open.
        drop(runtime);
    });
    let ids = [
        put(db.pool(), act_job(&Act::Wait)).await,
        put(db.pool(), act_job(&Act::WaitThenWrite)).await,
    ];
    doomed.join().expect("ends");
    open_gate(db.pool()).await;
    let worker = worker(db.pool(), options());
    for id in ids {
        let (record, attempts) = finished(db.pool(), id).await;
        assert_eq!(record.state, "done");
        assert_eq!(
            attempts.iter().map(|a| a.outcome.as_str()).collect::<Vec<_>>(),
            ["crashed", "done"]
        );
        let gap = attempts[1].claimed_at - attempts[0].claimed_at;
        assert!(
            gap < chrono::Duration::from_std(options().lease * 2).expect("fits"),
            "taken up after {gap}"
        );
    }
    assert_eq!(count(db.pool(), "select count(*) from effect").await, 1);
    worker.stop().await;
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn a_restart_under_the_same_name_takes_up_what_the_dead_one_held() {
    let db = db().await;
    let id = put(db.pool(), act_job(&Act::Wait)).await;
    let doomed = worker(db.pool(), options());
    until("it has begun", || async {
        count(db.pool(), "select count(*) from begun").await == 1
    })
    .await;
    until("it has said that it is there", || async {
        count(db.pool(), "select count(*) from causelist.worker").await == 1
    })
    .await;
    doomed.task.abort();
    // The same name; the dead one's row is still there, and nobody has released its claim.
    let restarted = worker(db.pool(), options());
    until("it has begun again", || async {
        count(db.pool(), "select count(*) from begun").await == 2
    })
    .await;
    open_gate(db.pool()).await;
    let (record, attempts) = finished(db.pool(), id).await;
    assert_eq!(record.state, "done");
    assert_eq!(
        attempts.iter().map(|a| a.outcome.as_str()).collect::<Vec<_>>(),
        ["crashed", "done"]
    );
    let gap = attempts[1].claimed_at - attempts[0].claimed_at;
    assert!(
        gap < chrono::Duration::from_std(options().lease * 3).expect("fits"),
        "taken up after {gap}"
    );
    let names = count(db.pool(), "select count(distinct name) from causelist.worker").await;
    let starts = count(db.pool(), "select count(*) from causelist.worker").await;
    assert_eq!((names, starts), (1, 2));
    restarted.stop().await;
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn who_lost_the_lease_writes_nothing() {
    let db = db().await;
    let mut slow = options();
    // Renewals so far apart that the test's expiry comes first.
    slow.lease = Duration::from_secs(600);
    let stale = worker(db.pool(), slow);
    let id = put(db.pool(), act_job(&Act::WaitThenWrite)).await;
    until("the first attempt runs", || async {
        count(db.pool(), "select count(*) from begun").await == 1
    })
    .await;
    assert_eq!(end_leases(db.pool()).await, 1);
    let fresh = worker(db.pool(), options());
    until("the second attempt runs", || async {
        count(db.pool(), "select count(*) from begun").await == 2
    })
    .await;
    // Both attempts now go for the same effect.
    open_gate(db.pool()).await;
    let (record, attempts) = finished(db.pool(), id).await;
    assert_eq!(record.state, "done");
    assert_eq!(
        attempts.iter().map(|a| a.outcome.as_str()).collect::<Vec<_>>(),
        ["crashed", "done"]
    );
    stale.stop().await;
    fresh.stop().await;
    let effects: Vec<i32> = sqlx::query_scalar("select attempt from effect")
        .fetch_all(db.pool())
        .await
        .expect("rows");
    assert_eq!(effects, [2], "only the holder's effect is there");
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn a_stale_settle_changes_nothing() {
    let db = db().await;
    let mut slow = options();
    slow.lease = Duration::from_secs(600);
    let stale = worker(db.pool(), slow);
    // Settled by the driver, not by the job itself.
    let id = put(db.pool(), act_job(&Act::Wait)).await;
    until("the first attempt runs", || async {
        count(db.pool(), "select count(*) from begun").await == 1
    })
    .await;
    end_leases(db.pool()).await;
    let fresh = worker(db.pool(), options());
    until("the second attempt runs", || async {
        count(db.pool(), "select count(*) from begun").await == 2
    })
    .await;
    open_gate(db.pool()).await;
    finished(db.pool(), id).await;
    stale.stop().await;
    fresh.stop().await;
    let outcomes: Vec<String> = sqlx::query_scalar("select outcome from causelist.attempt order by fence")
        .fetch_all(db.pool())
        .await
        .expect("rows");
    assert_eq!(
        outcomes,
        ["crashed", "done"],
        "the stale worker's own settle left no row"
    );
}

#[tokio::test]
async fn a_job_that_kills_its_worker_ends_among_the_dead() {
    let db = db().await;
    let id = put(db.pool(), act_job(&Act::Hang).max_attempts(3)).await;
    for crash in 1..=3 {
        let running = worker(db.pool(), options());
        until("it runs", || async {
            count(db.pool(), "select count(*) from begun").await >= crash
        })
        .await;
        // Its claims stay behind, with nobody to renew them.
        running.task.abort();
        let mut rescuer = options();
        rescuer.queues = vec!["delivery".into()];
        until("its lease is over", || async { end_leases(db.pool()).await > 0 }).await;
        let rescuer = worker(db.pool(), rescuer);
        until("it is taken away", || async {
            count(db.pool(), "select count(*) from causelist.claim").await == 0
        })
        .await;
        rescuer.stop().await;
        sqlx::query("update causelist.scheduled set run_at = now()")
            .execute(db.pool())
            .await
            .expect("runs");
    }
    let (record, attempts) = finished(db.pool(), id).await;
    assert_eq!((record.state.as_str(), attempts.len()), ("dead", 3));
    let reason: String = sqlx::query_scalar("select reason from causelist.dead")
        .fetch_one(db.pool())
        .await
        .expect("a row");
    assert_eq!(reason, "crashed");
}

#[tokio::test]
async fn slow_jobs_of_a_batch_run_once_and_the_quick_ones_settle_before_them() {
    let db = db().await;
    let mut one = options();
    one.lease = Duration::from_millis(600);
    let workers = [worker(db.pool(), one.clone()), worker(db.pool(), one)];
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(put(db.pool(), act_job(&Act::Wait)).await);
        ids.push(put(db.pool(), act_job(&Act::Count)).await);
    }
    until("the quick ones are settled", || async {
        count(
            db.pool(),
            "select count(*) from causelist.attempt where outcome = 'done'",
        )
        .await
            == 5
    })
    .await;
    // Longer than several leases: renewal keeps the slow ones where they are.
    until("several renewals", || async {
        count(
            db.pool(),
            "select count(*) from causelist.claim where expires_at > claimed_at + interval '2 seconds'",
        )
        .await
            > 0
    })
    .await;
    open_gate(db.pool()).await;
    for id in ids {
        let (record, attempts) = finished(db.pool(), id).await;
        assert_eq!((record.state.as_str(), attempts.len()), ("done", 1));
    }
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(count(db.pool(), "select count(*) from begun").await, 10);
}

#[tokio::test]
async fn a_database_that_goes_away_is_waited_for() {
    let db = db().await;
    let pool = db.another_pool(10).await;
    let worker = worker(&pool, options());
    let before = put(db.pool(), act_job(&Act::Count)).await;
    finished(db.pool(), before).await;
    let waiting = put(db.pool(), act_job(&Act::Wait)).await;
    until("it runs", || async {
        count(db.pool(), "select count(*) from begun").await == 2
    })
    .await;
    for _ in 0..3 {
        // Every connection but our own breaks, the listener's too.
        sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
            .execute(db.pool())
            .await
            .expect("runs");
    }
    open_gate(db.pool()).await;
    let after = put(db.pool(), NewJob::of(&Act::Count).expect("is JSON")).await;
    finished(db.pool(), after).await;
    finished(db.pool(), waiting).await;
    worker.stop().await;
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn settling_all_that_is_known_of_a_claim_keeps_the_jobs_that_are_not() {
    let db = db().await;
    for _ in 0..3 {
        put(db.pool(), NewJob::raw("raw", serde_json::json!({}))).await;
    }
    let hand = causelist_queue::testing::Hand::new(db.pool());
    let jobs = hand
        .claim("default", 3, Duration::from_secs(600))
        .await
        .expect("claims");
    let fence = jobs[0].fence();
    // As a worker does that could not give the other two back.
    let recorded = hand.settle_whole(fence, &[&jobs[0]]).await.expect("settles");
    assert_eq!(recorded, 1);
    let held: Vec<i64> = sqlx::query_scalar("select unnest(ids) from causelist.claim")
        .fetch_all(db.pool())
        .await
        .expect("rows");
    assert_eq!(held, [jobs[1].id(), jobs[2].id()]);
}
