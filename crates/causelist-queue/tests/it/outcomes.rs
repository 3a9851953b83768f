//! How attempts end, and what follows.

use causelist_queue::{CancelEffect, DeadFilter, NewJob, cancel, retry_dead};
use serde_json::json;

use crate::fixture::{Act, Brief, act_job, assert_idle, count, db, finished, options, put, state, until, worker};

fn ends(error: &str) -> NewJob {
    act_job(&Act::End { error: error.into() })
}

#[tokio::test]
async fn a_failure_is_retried_until_it_succeeds_or_gives_up() {
    let db = db().await;
    let worker = worker(db.pool(), options());
    let good = put(db.pool(), act_job(&Act::FailUntil { attempt: 3 })).await;
    let bad = put(db.pool(), ends("broken").max_attempts(3)).await;
    let (record, attempts) = finished(db.pool(), good).await;
    assert_eq!(
        (record.state.as_str(), record.result),
        ("done", Some(json!({ "attempt": 3 })))
    );
    assert_eq!(
        attempts.iter().map(|a| a.outcome.as_str()).collect::<Vec<_>>(),
        ["retry", "retry", "done"]
    );
    let (record, attempts) = finished(db.pool(), bad).await;
    assert_eq!(
        (record.state.as_str(), record.error.as_deref()),
        ("dead", Some("broken"))
    );
    assert_eq!(attempts.len(), 3);
    let reason: String = sqlx::query_scalar("select reason from causelist.dead where id = $1")
        .bind(bad)
        .fetch_one(db.pool())
        .await
        .expect("a row");
    assert_eq!(reason, "attempts");
    worker.stop().await;
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn each_outcome_has_its_own_end() {
    let db = db().await;
    let worker = worker(db.pool(), options());
    for (error, state, attempts, reason) in [
        ("permanent", "dead", 1, Some("permanent")),
        ("uncertain", "dead", 1, Some("uncertain")),
        ("discard", "discarded", 1, None),
    ] {
        let id = put(db.pool(), ends(error)).await;
        let (record, list) = finished(db.pool(), id).await;
        assert_eq!((record.state.as_str(), list.len()), (state, attempts), "{error}");
        let got: Option<String> = sqlx::query_scalar("select reason from causelist.dead where id = $1")
            .bind(id)
            .fetch_optional(db.pool())
            .await
            .expect("answers");
        assert_eq!(got.as_deref(), reason, "{error}");
    }
    worker.stop().await;
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn a_snooze_counts_no_attempt() {
    let db = db().await;
    let worker = worker(db.pool(), options());
    // Six beginnings, three attempts allowed.
    let id = put(db.pool(), ends("snooze").max_attempts(3)).await;
    let (record, attempts) = finished(db.pool(), id).await;
    assert_eq!(record.result, Some(json!({ "begun": 6, "attempt": 1 })));
    assert_eq!(attempts.len(), 6);
    worker.stop().await;
}

#[tokio::test]
async fn retry_after_waits_as_long_as_it_says() {
    let db = db().await;
    let worker = worker(db.pool(), options());
    let id = put(db.pool(), ends("retry_after")).await;
    until("it is put off", || async { state(db.pool(), id).await == "scheduled" }).await;
    worker.stop().await;
    let seconds: f64 = sqlx::query_scalar(
        "select date_part('epoch', s.run_at - a.finished_at) from causelist.scheduled s
         join causelist.attempt a on a.job_id = s.id",
    )
    .fetch_one(db.pool())
    .await
    .expect("one attempt, one row");
    assert!((59.0..61.0).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn a_delay_beyond_all_bounds_is_cut_to_a_century() {
    let db = db().await;
    let worker = worker(db.pool(), options());
    let id = put(db.pool(), ends("retry_never")).await;
    until("it is put off", || async { state(db.pool(), id).await == "scheduled" }).await;
    worker.stop().await;
    let years = "select extract(year from age(run_at, now()))::int8 from causelist.scheduled";
    assert!((99..=100).contains(&count(db.pool(), years).await));
}

#[tokio::test]
async fn panics_and_timeouts_are_failures_like_others() {
    let db = db().await;
    let worker = worker(db.pool(), options());
    let panics = put(db.pool(), act_job(&Act::Panic)).await;
    let slow = put(db.pool(), NewJob::of(&Brief {}).expect("is JSON")).await;
    let (record, attempts) = finished(db.pool(), panics).await;
    assert_eq!((record.state.as_str(), attempts.len()), ("dead", 3));
    assert_eq!(record.error.as_deref(), Some("panicked: as asked"));
    let (record, attempts) = finished(db.pool(), slow).await;
    assert_eq!((record.state.as_str(), attempts.len()), ("dead", 3));
    assert_eq!(record.error.as_deref(), Some("took longer than its time limit of 50ms"));
    // The worker lives on.
    let id = put(db.pool(), act_job(&Act::Count)).await;
    finished(db.pool(), id).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_result_that_cannot_be_stored_is_made_storable() {
    let db = db().await;
    let worker = worker(db.pool(), options());
    let id = put(db.pool(), act_job(&Act::Nul)).await;
    let (record, _) = finished(db.pool(), id).await;
    assert_eq!(record.result, Some(json!({ "text": "a\u{fffd}b" })));
    worker.stop().await;
}

#[tokio::test]
async fn an_unknown_kind_waits_for_a_worker_that_knows_it() {
    let db = db().await;
    let worker = worker(db.pool(), options());
    let id = put(db.pool(), NewJob::raw("from-the-future", json!({}))).await;
    until("it is put off", || async { state(db.pool(), id).await == "scheduled" }).await;
    let attempt: i16 = sqlx::query_scalar("select attempt from causelist.scheduled")
        .fetch_one(db.pool())
        .await
        .expect("a row");
    assert_eq!(attempt, 0, "counts no attempt");
    worker.stop().await;
}

#[tokio::test]
async fn bad_arguments_are_dead_at_once_and_a_dead_letter_can_be_retried() {
    let db = db().await;
    let worker = worker(db.pool(), options());
    let bad = put(db.pool(), NewJob::raw("act", json!({ "do": "dance" }))).await;
    let (record, attempts) = finished(db.pool(), bad).await;
    assert_eq!((record.state.as_str(), attempts.len()), ("dead", 1));
    assert!(record.error.expect("an error").contains("dance"));
    let mut conn = db.pool().acquire().await.expect("a connection");
    let back = retry_dead(&mut conn, &DeadFilter::job(bad), 1).await.expect("answers");
    assert_eq!(back.jobs, [bad]);
    until("it is dead again", || async {
        count(db.pool(), "select count(*) from causelist.attempt").await == 2
    })
    .await;
    finished(db.pool(), bad).await;
    let none = retry_dead(&mut conn, &DeadFilter::job(1), 1).await.expect("answers");
    assert!(none.jobs.is_empty() && none.refused.is_empty(), "no such dead letter");
    worker.stop().await;
}

#[tokio::test]
async fn cancel_stops_a_job_wherever_it_is() {
    let db = db().await;
    let soon = chrono::DateTime::UNIX_EPOCH + chrono::Duration::days(36_500);
    let waiting = put(db.pool(), act_job(&Act::Count).key("k")).await;
    let later = put(db.pool(), act_job(&Act::Count).run_at(soon)).await;
    for id in [waiting, later] {
        assert_eq!(cancel(db.pool(), id).await.expect("answers"), CancelEffect::Cancelled);
        assert_eq!(state(db.pool(), id).await, "cancelled");
        assert_eq!(cancel(db.pool(), id).await.expect("answers"), CancelEffect::Finished);
    }
    assert_eq!(cancel(db.pool(), 1).await.expect("answers"), CancelEffect::Unknown);
    assert_eq!(
        count(db.pool(), "select count(*) from causelist.job_key").await,
        0,
        "its key is free"
    );

    let worker = worker(db.pool(), options());
    let polite = put(db.pool(), act_job(&Act::UntilCancelled)).await;
    let stubborn = put(db.pool(), act_job(&Act::Hang)).await;
    until("both run", || async {
        count(db.pool(), "select count(*) from begun").await == 2
    })
    .await;
    for id in [polite, stubborn] {
        assert_eq!(cancel(db.pool(), id).await.expect("answers"), CancelEffect::Requested);
        let (record, attempts) = finished(db.pool(), id).await;
        assert_eq!((record.state.as_str(), attempts.len()), ("cancelled", 1));
    }
    worker.stop().await;
    assert_idle(db.pool()).await;
    assert_eq!(
        count(db.pool(), "select count(*) from causelist.cancel_request").await,
        0
    );
}

#[tokio::test]
async fn a_paused_queue_yields_nothing() {
    let db = db().await;
    sqlx::query("update causelist.queue set paused = true where name = 'default'")
        .execute(db.pool())
        .await
        .expect("runs");
    let mut both = options();
    both.queues = vec!["default".into(), "delivery".into()];
    let worker = worker(db.pool(), both);
    let paused = put(db.pool(), act_job(&Act::Count)).await;
    // Claims go through the queues in turn: when the other one's job is done, this one was asked.
    let other = put(db.pool(), act_job(&Act::Count).queue("delivery")).await;
    finished(db.pool(), other).await;
    assert_eq!(state(db.pool(), paused).await, "ready");
    sqlx::query("update causelist.queue set paused = false")
        .execute(db.pool())
        .await
        .expect("runs");
    finished(db.pool(), paused).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_that_fails_first_is_not_retried() {
    let db = db().await;
    let mut deaf = options();
    // Renewals, by which a worker hears of cancels, so far apart that the failure comes first.
    deaf.lease = std::time::Duration::from_secs(600);
    let worker = worker(db.pool(), deaf);
    let id = put(db.pool(), act_job(&Act::WaitThenFail).key("k")).await;
    until("it runs", || async {
        count(db.pool(), "select count(*) from begun").await == 1
    })
    .await;
    assert_eq!(cancel(db.pool(), id).await.expect("answers"), CancelEffect::Requested);
    sqlx::query("insert into gate values (true)")
        .execute(db.pool())
        .await
        .expect("runs");
    let (record, attempts) = finished(db.pool(), id).await;
    assert_eq!((record.state.as_str(), attempts.len()), ("cancelled", 1));
    assert_eq!(record.error.as_deref(), Some("after the gate"));
    assert_eq!(count(db.pool(), "select count(*) from causelist.job_key").await, 0);
    assert_eq!(
        count(db.pool(), "select count(*) from causelist.cancel_request").await,
        0
    );
    worker.stop().await;
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn a_worker_holds_no_more_of_a_queue_than_it_is_told() {
    let db = db().await;
    causelist_queue::queues::create(db.pool(), "narrow")
        .await
        .expect("is made");
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(put(db.pool(), act_job(&Act::Wait).queue("narrow")).await);
    }
    let mut one_at_a_time = options();
    one_at_a_time.queues = vec!["narrow".into(), "default".into()];
    one_at_a_time.queue_concurrency = [("narrow".to_owned(), 2)].into();
    let worker = worker(db.pool(), one_at_a_time);
    // The other queue is not held up by it.
    finished(db.pool(), put(db.pool(), act_job(&Act::Count)).await).await;
    let held = "select coalesce(sum(cardinality(ids)), 0)::int8 from causelist.claim where queue = 'narrow'";
    until("two are held", || async { count(db.pool(), held).await == 2 }).await;
    for _ in 0..5 {
        finished(db.pool(), put(db.pool(), act_job(&Act::Count)).await).await;
        assert_eq!(count(db.pool(), held).await, 2);
    }
    sqlx::query("insert into gate values (true)")
        .execute(db.pool())
        .await
        .expect("runs");
    for id in ids {
        finished(db.pool(), id).await;
    }
    worker.stop().await;
}
