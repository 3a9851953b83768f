//! Queues: made, paused, resumed; refusals name the value.

use causelist_queue::queues::{create, pause, resume};
use causelist_queue::stats;

use crate::fixture::{Act, act_job, count, db, finished, options, put, state, until, worker};

#[tokio::test]
async fn a_paused_queue_rests_while_what_runs_goes_on() {
    let db = db().await;
    let mut quiet = options();
    // Only a wake-up is in time.
    quiet.poll = std::time::Duration::from_secs(30);
    let worker = worker(db.pool(), quiet);
    let running = put(db.pool(), act_job(&Act::Wait)).await;
    causelist_queue::notify_ready(db.pool(), "default").await;
    until("it runs", || async {
        count(db.pool(), "select count(*) from begun").await == 1
    })
    .await;
    assert!(pause(db.pool(), "default").await.expect("is paused"));
    assert!(!pause(db.pool(), "default").await.expect("was paused already"));
    let waiting = put(db.pool(), act_job(&Act::Count)).await;
    sqlx::query("insert into gate values (true)")
        .execute(db.pool())
        .await
        .expect("runs");
    finished(db.pool(), running).await;
    assert_eq!(state(db.pool(), waiting).await, "ready");
    let shown = stats::queues(db.pool()).await.expect("queues");
    let of = |name: &str| shown.iter().find(|q| q.name == name).expect("is listed").clone();
    assert!(of("default").paused && !of("delivery").paused);
    assert_eq!(of("default").ready, 1);
    assert!(resume(db.pool(), "default").await.expect("goes on"));
    assert!(!resume(db.pool(), "default").await.expect("was not paused"));
    finished(db.pool(), waiting).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_new_queue_takes_jobs() {
    let db = db().await;
    create(db.pool(), "reports-2").await.expect("is made");
    let mut there = options();
    there.queues = vec!["reports-2".into()];
    let worker = worker(db.pool(), there);
    let id = put(db.pool(), act_job(&Act::Count).queue("reports-2")).await;
    assert_eq!(finished(db.pool(), id).await.0.state, "done");
    worker.stop().await;
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_by_name() {
    let db = db().await;
    let before = count(db.pool(), "select count(*) from causelist.queue").await;
    for name in ["", "Big Queue", "9lives", "a\0b", "é", &"x".repeat(64), "a\nb"] {
        let said = create(db.pool(), name).await.expect_err("is refused").to_string();
        assert!(said.contains("must be 1 to 63"), "{name:?}: {said}");
    }
    let said = create(db.pool(), "default").await.expect_err("is refused").to_string();
    assert_eq!(said, "queue \"default\" exists already");
    for said in [
        pause(db.pool(), "nowhere").await.expect_err("is refused").to_string(),
        resume(db.pool(), "nowhere").await.expect_err("is refused").to_string(),
    ] {
        assert!(
            said.contains("\"nowhere\"") && said.contains("causelist queues list"),
            "{said}"
        );
    }
    assert_eq!(count(db.pool(), "select count(*) from causelist.queue").await, before);
}
