//! Moments that random operations seldom meet.

use causelist_queue::{CancelEffect, NewJob, cancel, enqueue_many};

use crate::fixture::{Act, act_job, count, db, put, state, until};

#[tokio::test]
async fn a_job_that_falls_due_while_it_is_enqueued_is_in_one_place() {
    let db = db().await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    let now: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("select clock_timestamp()")
        .fetch_one(&mut *conn)
        .await
        .expect("a time");
    // Some of these instants pass while the statement runs.
    let jobs: Vec<NewJob> = (0..6000)
        .map(|n| {
            let job = act_job(&Act::Count).run_at(now + chrono::Duration::microseconds(n * 100));
            if n % 2 == 0 { job } else { job.key(&n.to_string()) }
        })
        .collect();
    enqueue_many(&mut conn, &jobs).await.expect("are taken");
    let places: Vec<i64> = sqlx::query_scalar(
        "select (select count(*) from causelist.ready r where r.id = j.id)
              + (select count(*) from causelist.scheduled s where s.id = j.id) from causelist.job j",
    )
    .fetch_all(&mut *conn)
    .await
    .expect("rows");
    assert_eq!(places.len(), 6000);
    let wrong = places.iter().filter(|n| **n != 1).count();
    assert_eq!(wrong, 0, "jobs in no place, or in two");
}

#[tokio::test]
async fn a_cancel_finds_a_job_that_comes_due_at_the_same_moment() {
    let db = db().await;
    let later = chrono::DateTime::UNIX_EPOCH + chrono::Duration::days(36_500);
    let id = put(db.pool(), act_job(&Act::Count).run_at(later)).await;
    // As the promotion does it, and not yet committed.
    let mut promotion = db.pool().begin().await.expect("a transaction");
    sqlx::query(
        "with due as (delete from causelist.scheduled returning id, queue, priority, attempt)
         insert into causelist.ready (queue, priority, rank, id, attempt) select queue, priority, 0, id, attempt from due",
    )
    .execute(&mut *promotion)
    .await
    .expect("runs");
    let pool = db.pool().clone();
    let cancelling = tokio::spawn(async move { cancel(&pool, id).await });
    until("the cancel waits for the promotion", || async {
        count(
            db.pool(),
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
        .await
            == 1
    })
    .await;
    promotion.commit().await.expect("commits");
    let effect = cancelling.await.expect("ends").expect("answers");
    assert_eq!(effect, CancelEffect::Cancelled);
    assert_eq!(state(db.pool(), id).await, "cancelled");
}
