//! Idempotency keys, between SQL and Rust and between many callers.

use causelist_queue::{Hold, NewJob, enqueue, enqueue_many};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{call, call_many};
use crate::fixture::{Act, act_job, assert_idle, count, db, finished, options, put, state, until, worker};

#[tokio::test]
async fn fifty_sessions_with_one_key_get_one_job() {
    let db = db().await;
    let pool = db.another_pool(50).await;
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..50 {
        let pool = pool.clone();
        callers.spawn(async move {
            let mut conn = pool.acquire().await.expect("a connection");
            match n % 3 {
                0 => call(&mut conn, "'act', key => 'same'").await.expect("is taken"),
                1 => call_many(&mut conn, &json!([{ "kind": "act", "key": "same" }]))
                    .await
                    .expect("is taken")
                    .remove(0),
                _ => {
                    let made = enqueue(&mut conn, NewJob::raw("act", json!({})).key("same"))
                        .await
                        .expect("is taken");
                    (made.id, made.duplicate, Some("ready".to_owned()))
                }
            }
        });
    }
    let answers = callers.join_all().await;
    assert_eq!(answers.iter().filter(|a| !a.1).count(), 1);
    assert!(answers.iter().all(|a| a.0 == answers[0].0));
    assert!(answers.iter().all(|a| a.2.as_deref() == Some("ready")), "{answers:?}");
    assert_eq!(count(db.pool(), "select count(*) from causelist.job").await, 1);
}

#[tokio::test]
async fn overlapping_keys_in_any_order_never_deadlock() {
    let db = db().await;
    let pool = db.another_pool(8).await;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..8 {
        let pool = pool.clone();
        callers.spawn(async move {
            for round in 0..10 {
                let mut keys: Vec<String> = (0..40).map(|k| format!("{round}-{k}")).collect();
                if caller % 2 == 1 {
                    keys.reverse();
                }
                let mut conn = pool.acquire().await.expect("a connection");
                if caller % 4 < 2 {
                    let jobs: Vec<Value> = keys.iter().map(|k| json!({ "kind": "act", "key": k })).collect();
                    call_many(&mut conn, &json!(jobs)).await.expect("are taken");
                } else {
                    let jobs: Vec<NewJob> = keys.iter().map(|k| NewJob::raw("act", json!({})).key(k)).collect();
                    enqueue_many(&mut conn, &jobs).await.expect("are taken");
                }
            }
        });
    }
    callers.join_all().await;
    assert_eq!(count(db.pool(), "select count(*) from causelist.job").await, 400);
}

#[tokio::test]
async fn sql_and_rust_share_the_keys() {
    let db = db().await;
    let tenant = Uuid::new_v4();
    let mut conn = db.pool().acquire().await.expect("a connection");
    let by_rust = enqueue(&mut conn, act_job(&Act::Count).tenant(tenant).key("r"))
        .await
        .expect("is taken");
    let again = call(&mut conn, &format!("'act', key => 'r', tenant => '{tenant}'"))
        .await
        .expect("is taken");
    assert_eq!(again, (by_rust.id, true, Some("ready".to_owned())));
    let no_tenant = call(&mut conn, "'act', key => 'r'").await.expect("is taken");
    assert!(!no_tenant.1, "no tenant's key");

    let by_sql = call(&mut conn, r#"'act', '{"do": "count"}', key => 's'"#)
        .await
        .expect("is taken");
    let again = enqueue(&mut conn, act_job(&Act::Count).key("s"))
        .await
        .expect("is taken");
    assert_eq!((again.id, again.duplicate), (by_sql.0, true));

    let past = chrono::DateTime::UNIX_EPOCH;
    let expired = enqueue(&mut conn, act_job(&Act::Count).key_held("u", Hold::Until(past)))
        .await
        .expect("is taken");
    let taken_over = call(&mut conn, r#"'act', '{"do": "count"}', key => 'u', hold => 'ever'"#)
        .await
        .expect("is taken");
    assert!(!taken_over.1 && taken_over.0 != expired.id);
    let until = "'act', key => 'v', hold => 'until', expires_at => ";
    let first = call(&mut conn, &format!("{until}'epoch'")).await.expect("is taken");
    let second = call(&mut conn, &format!("{until}'2999-01-01'"))
        .await
        .expect("is taken");
    let third = call(&mut conn, &format!("{until}'2999-01-01'"))
        .await
        .expect("is taken");
    assert!(!first.1 && !second.1 && third.1 && second.0 == third.0);

    let worker = worker(db.pool(), options());
    for id in [by_sql.0, taken_over.0] {
        finished(db.pool(), id).await;
    }
    worker.stop().await;
    assert!(
        !call(&mut conn, "'act', key => 's'").await.expect("is taken").1,
        "freed by its end"
    );
    assert_eq!(
        call(&mut conn, "'act', key => 'u'").await.expect("is taken"),
        (taken_over.0, true, Some("done".to_owned())),
        "held for ever"
    );
}

#[tokio::test]
async fn a_duplicate_keeps_nobody_waiting() {
    let db = db().await;
    let id = put(db.pool(), act_job(&Act::Count).key("k")).await;
    let mut tx = db.pool().begin().await.expect("a transaction");
    let answer = call(&mut tx, "'act', key => 'k'").await.expect("is taken");
    assert_eq!((answer.0, answer.1), (id, true));
    // While the duplicate's transaction is open, the holder is settled and its key freed.
    let worker = worker(db.pool(), options());
    until("the key is free", || async {
        count(db.pool(), "select count(*) from causelist.job_key").await == 0
    })
    .await;
    assert_eq!(state(db.pool(), id).await, "done");
    tx.commit().await.expect("commits");
    worker.stop().await;
}

#[tokio::test]
async fn holders_that_come_and_go_confuse_nobody() {
    let db = db().await;
    let pool = db.another_pool(12).await;
    let worker = worker(&pool, options());
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let pool = pool.clone();
        callers.spawn(async move {
            let mut made = 0;
            for _ in 0..50 {
                let mut conn = pool.acquire().await.expect("a connection");
                let answer = call(&mut conn, r#"'act', '{"do": "count"}', key => 'k'"#)
                    .await
                    .expect("is taken");
                made += i64::from(!answer.1);
            }
            made
        });
    }
    let made: i64 = callers.join_all().await.into_iter().sum();
    assert_eq!(count(&pool, "select count(*) from causelist.job").await, made);
    until("all are done", || async {
        count(&pool, "select count(*) from causelist.attempt where outcome = 'done'").await == made
    })
    .await;
    worker.stop().await;
    assert_idle(db.pool()).await;
}
