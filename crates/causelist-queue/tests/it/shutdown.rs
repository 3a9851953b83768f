//! A shutdown loses nothing and counts nothing.

use std::time::Duration;

use crate::fixture::{Act, act_job, assert_idle, count, db, finished, options, put, state, until, worker};

#[tokio::test]
async fn running_jobs_end_and_unstarted_ones_go_back_uncounted() {
    let db = db().await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(put(db.pool(), act_job(&Act::Wait)).await);
    }
    let worker = worker(db.pool(), options());
    until("four run", || async {
        count(db.pool(), "select count(*) from begun").await == 4
    })
    .await;
    worker.ask_to_stop();
    until(
        "the worker says that it stops, or has nothing left to give back",
        || async { count(db.pool(), "select count(*) from causelist.ready").await == 16 },
    )
    .await;
    sqlx::query("insert into gate values (true)")
        .execute(db.pool())
        .await
        .expect("runs");
    worker.stop().await;
    assert_eq!(
        count(
            db.pool(),
            "select count(*) from causelist.attempt where outcome = 'done'"
        )
        .await,
        4
    );
    assert_eq!(
        count(
            db.pool(),
            "select count(*) from causelist.attempt where outcome <> 'done'"
        )
        .await,
        0
    );
    assert_eq!(
        count(db.pool(), "select count(*) from causelist.ready where attempt <> 0").await,
        0
    );
    assert_eq!(count(db.pool(), "select count(*) from causelist.worker").await, 0);
    let second = crate::fixture::worker(db.pool(), options());
    for id in ids {
        let (_, attempts) = finished(db.pool(), id).await;
        assert_eq!(attempts.len(), 1);
    }
    second.stop().await;
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn a_job_that_outlives_the_grace_runs_again_elsewhere_uncounted() {
    let db = db().await;
    let mut hasty = options();
    hasty.grace = Duration::from_millis(200);
    let id = put(db.pool(), act_job(&Act::Wait).max_attempts(1)).await;
    let first = worker(db.pool(), hasty);
    until("it runs", || async {
        count(db.pool(), "select count(*) from begun").await == 1
    })
    .await;
    first.stop().await;
    assert_eq!(state(db.pool(), id).await, "scheduled");
    sqlx::query("insert into gate values (true)")
        .execute(db.pool())
        .await
        .expect("runs");
    let second = worker(db.pool(), options());
    let (record, _) = finished(db.pool(), id).await;
    assert_eq!(record.state, "done", "its only attempt was not used up by the shutdown");
    second.stop().await;
}
