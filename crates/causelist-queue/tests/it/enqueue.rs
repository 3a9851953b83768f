//! Enqueue: one, many, keyed, later, inside a caller's transaction; refusals write nothing.

use causelist_queue::{EnqueueError, Hold, NewJob, enqueue, enqueue_many};
use serde_json::json;
use uuid::Uuid;

use crate::fixture::{Act, act_job, count, db, finished, options, put, state, worker};

#[tokio::test]
async fn is_part_of_the_callers_transaction() {
    let db = db().await;
    let mut tx = db.pool().begin().await.expect("a transaction");
    let gone = enqueue(&mut tx, act_job(&Act::Count)).await.expect("is enqueued").id;
    tx.rollback().await.expect("rolls back");
    let mut tx = db.pool().begin().await.expect("a transaction");
    let kept = enqueue(&mut tx, act_job(&Act::Count)).await.expect("is enqueued").id;
    tx.commit().await.expect("commits");
    let worker = worker(db.pool(), options());
    let (record, attempts) = finished(db.pool(), kept).await;
    assert_eq!(
        (record.state.as_str(), record.result),
        ("done", Some(json!({ "begun": 1 })))
    );
    assert_eq!(attempts.len(), 1);
    let unknown: Option<String> = sqlx::query_scalar("select causelist.job_state($1)")
        .bind(gone)
        .fetch_one(db.pool())
        .await
        .expect("answers");
    assert_eq!(unknown, None);
    worker.stop().await;
}

#[tokio::test]
async fn ten_thousand_in_one_call_run_once_each() {
    let db = db().await;
    let jobs: Vec<NewJob> = (0..10_000).map(|_| act_job(&Act::Count)).collect();
    let mut conn = db.pool().acquire().await.expect("a connection");
    let made = enqueue_many(&mut conn, &jobs).await.expect("are enqueued");
    drop(conn);
    let mut ids: Vec<i64> = made.iter().map(|m| m.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 10_000, "ids are unique");
    let mut busy = options();
    busy.concurrency = 50;
    busy.batch = 50;
    let workers = [worker(db.pool(), busy.clone()), worker(db.pool(), busy)];
    crate::fixture::until("all are done", || async {
        count(
            db.pool(),
            "select count(*) from causelist.attempt where outcome = 'done'",
        )
        .await
            == 10_000
    })
    .await;
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(count(db.pool(), "select count(*) from begun").await, 10_000);
    assert_eq!(count(db.pool(), "select count(distinct job) from begun").await, 10_000);
    crate::fixture::assert_idle(db.pool()).await;
}

#[tokio::test]
async fn priority_then_time_decide_the_order() {
    let db = db().await;
    let past = |s: i64| chrono::DateTime::UNIX_EPOCH + chrono::Duration::seconds(1_000_000_000 + s);
    let late = put(db.pool(), act_job(&Act::Count).run_at(past(20))).await;
    let early = put(db.pool(), act_job(&Act::Count).run_at(past(10))).await;
    let urgent = put(db.pool(), act_job(&Act::Count).priority(-5)).await;
    let mut one = options();
    one.concurrency = 1;
    let worker = worker(db.pool(), one);
    for id in [late, early, urgent] {
        finished(db.pool(), id).await;
    }
    worker.stop().await;
    let order: Vec<i64> = sqlx::query_scalar("select job_id from causelist.attempt order by fence")
        .fetch_all(db.pool())
        .await
        .expect("rows");
    assert_eq!(order, [urgent, early, late]);
}

#[tokio::test]
async fn a_later_job_waits_until_it_is_due() {
    let db = db().await;
    let far = put(
        db.pool(),
        act_job(&Act::Count).run_at(chrono::DateTime::UNIX_EPOCH + chrono::Duration::days(36_500)),
    )
    .await;
    let soon: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("select now() + interval '300 ms'")
        .fetch_one(db.pool())
        .await
        .expect("a time");
    let near = put(db.pool(), act_job(&Act::Count).run_at(soon)).await;
    assert_eq!(state(db.pool(), near).await, "scheduled");
    let worker = worker(db.pool(), options());
    let (_, attempts) = finished(db.pool(), near).await;
    assert!(attempts[0].claimed_at >= soon);
    assert_eq!(state(db.pool(), far).await, "scheduled");
    worker.stop().await;
}

#[tokio::test]
async fn a_key_stands_for_its_job_as_long_as_it_is_held() {
    let db = db().await;
    let tenant = Uuid::new_v4();
    let other = Uuid::new_v4();
    let mut conn = db.pool().acquire().await.expect("a connection");
    let mut add = async |job: NewJob| enqueue(&mut conn, job).await.expect("is taken");
    let first = add(act_job(&Act::Count).tenant(tenant).key("k")).await;
    assert!(!first.duplicate);
    let again = add(act_job(&Act::Count).tenant(tenant).key("k")).await;
    assert_eq!((again.id, again.duplicate), (first.id, true));
    assert!(
        !add(act_job(&Act::Count).tenant(other).key("k")).await.duplicate,
        "another tenant's key"
    );
    assert!(!add(act_job(&Act::Count).key("k")).await.duplicate, "no tenant's key");
    let for_ever = add(act_job(&Act::Count).key_held("e", Hold::Ever)).await;
    let past = chrono::DateTime::UNIX_EPOCH;
    let expired = add(act_job(&Act::Count).key_held("u", Hold::Until(past))).await;
    let taken_over = add(act_job(&Act::Count).key_held("u", Hold::Until(past + chrono::Duration::days(36_500)))).await;
    assert!(!taken_over.duplicate && taken_over.id != expired.id);
    assert!(add(act_job(&Act::Count).key_held("u", Hold::Ever)).await.duplicate);
    let worker = worker(db.pool(), options());
    finished(db.pool(), first.id).await;
    finished(db.pool(), for_ever.id).await;
    worker.stop().await;
    assert!(
        !add(act_job(&Act::Count).tenant(tenant).key("k")).await.duplicate,
        "freed by its end"
    );
    assert!(
        add(act_job(&Act::Count).key_held("e", Hold::Ever)).await.duplicate,
        "held for ever"
    );
}

#[tokio::test]
async fn two_hundred_callers_with_one_key_get_one_job() {
    let db = db().await;
    let pool = db.another_pool(40).await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let pool = pool.clone();
        callers.spawn(async move {
            let mut conn = pool.acquire().await.expect("a connection");
            enqueue(&mut conn, act_job(&Act::Count).key("same"))
                .await
                .expect("is taken")
        });
    }
    let answers = callers.join_all().await;
    assert_eq!(answers.iter().filter(|a| !a.duplicate).count(), 1);
    assert!(answers.iter().all(|a| a.id == answers[0].id));
    assert_eq!(count(db.pool(), "select count(*) from causelist.job").await, 1);
}

#[tokio::test]
async fn a_duplicate_in_a_batch_blocks_nothing() {
    let db = db().await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    let jobs = [
        act_job(&Act::Count).key("a"),
        act_job(&Act::Count),
        act_job(&Act::Count).key("a"),
        act_job(&Act::Count).key("b"),
    ];
    let made = enqueue_many(&mut conn, &jobs).await.expect("are taken");
    assert_eq!(
        made.iter().map(|m| m.duplicate).collect::<Vec<_>>(),
        [false, false, true, false]
    );
    assert_eq!(made[0].id, made[2].id);
    assert_eq!(count(db.pool(), "select count(*) from causelist.job").await, 3);
}

#[tokio::test]
async fn what_is_refused_writes_nothing() {
    let db = db().await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    let jobs = [act_job(&Act::Count).key("x"), NewJob::raw("Bad Kind", json!({}))];
    let error = enqueue_many(&mut conn, &jobs).await.expect_err("is refused");
    assert!(error.to_string().contains("Bad Kind"), "{error}");
    let error = enqueue(&mut conn, act_job(&Act::Count).queue("nowhere"))
        .await
        .expect_err("is refused");
    assert!(matches!(error, EnqueueError::UnknownQueue(_)), "{error}");
    let error = enqueue(&mut conn, NewJob::raw("act", json!({ "a": "\0" })))
        .await
        .expect_err("is refused");
    assert!(matches!(error, EnqueueError::Nul), "{error}");
    for table in [
        "select count(*) from causelist.job",
        "select count(*) from causelist.job_key",
    ] {
        assert_eq!(count(db.pool(), table).await, 0);
    }
}

#[tokio::test]
async fn an_installation_that_slept_for_weeks_finds_partitions_when_it_wakes() {
    let db = db().await;
    sqlx::raw_sql(
        "do $$ declare t text; begin
             for t in select inhrelid::regclass::text from pg_inherits
                      where inhparent in ('causelist.job'::regclass, 'causelist.attempt'::regclass) loop
                 execute 'drop table ' || t;
             end loop;
         end $$",
    )
    .execute(db.pool())
    .await
    .expect("runs");
    assert!(
        !causelist_queue::stats::has_partitions_ahead(db.pool())
            .await
            .expect("answers")
    );
    causelist_queue::migrate(db.pool()).await.expect("migrates");
    assert!(
        causelist_queue::stats::has_partitions_ahead(db.pool())
            .await
            .expect("answers")
    );
    put(db.pool(), act_job(&Act::Count)).await;
}

#[tokio::test]
async fn jobs_are_listed_by_where_they_are() {
    let db = db().await;
    let far = chrono::DateTime::UNIX_EPOCH + chrono::Duration::days(36_500);
    let done = put(db.pool(), act_job(&Act::Count)).await;
    let dead = put(
        db.pool(),
        act_job(&Act::End {
            error: "permanent".into(),
        }),
    )
    .await;
    let running = put(db.pool(), act_job(&Act::Wait)).await;
    let worker = worker(db.pool(), options());
    for id in [done, dead] {
        finished(db.pool(), id).await;
    }
    crate::fixture::until("it runs", || async { state(db.pool(), running).await == "running" }).await;
    let scheduled = put(db.pool(), act_job(&Act::Count).run_at(far)).await;
    let ready = put(db.pool(), act_job(&Act::Count).queue("delivery")).await;
    for (state, id) in [
        ("done", done),
        ("dead", dead),
        ("running", running),
        ("scheduled", scheduled),
        ("ready", ready),
    ] {
        let filter = causelist_queue::JobFilter {
            state: Some(state.into()),
            limit: 10,
            ..Default::default()
        };
        let mut conn = db.pool().acquire().await.expect("a connection");
        let listed = causelist_queue::list(&mut conn, &filter).await.expect("a list");
        assert_eq!(listed.iter().map(|j| j.id).collect::<Vec<_>>(), [id], "{state}");
    }
    sqlx::query("insert into gate values (true)")
        .execute(db.pool())
        .await
        .expect("runs");
    worker.stop().await;
}

/// Enough for a COPY.
fn many(edit: impl Fn(usize, NewJob) -> NewJob) -> Vec<NewJob> {
    (0..300)
        .map(|i| edit(i, NewJob::raw("raw", json!({ "i": i, "text": "a\\b\t\"ü\"" }))))
        .collect()
}

#[tokio::test]
async fn many_jobs_are_loaded_as_they_were_asked_for() {
    let db = db().await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    let tenant = Uuid::from_u128(7);
    let later: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("select date_trunc('milliseconds', now()) + interval '1 hour'")
            .fetch_one(&mut *conn)
            .await
            .expect("a time");
    let past = chrono::DateTime::UNIX_EPOCH + chrono::Duration::days(10_000);
    let jobs = many(|i, job| match i {
        0 => job
            .tenant(tenant)
            .trace("00-1-2-01".to_owned())
            .priority(-3)
            .max_attempts(9),
        1 => job.run_at(later),
        2 => job.run_at(past).queue("practice"),
        _ => job,
    });
    let made = enqueue_many(&mut conn, &jobs).await.expect("are enqueued");
    assert_eq!(made.len(), 300);
    // Each answer is its own job's.
    for (i, made) in made.iter().enumerate() {
        let got: i64 = sqlx::query_scalar(
            "select (args->>'i')::int8 from causelist.job where id = $1 and args->>'text' = E'a\\\\b\\t\"ü\"'",
        )
        .bind(made.id)
        .fetch_one(&mut *conn)
        .await
        .expect("the job with its arguments");
        assert_eq!(got, i as i64);
    }
    let first: (Option<Uuid>, Option<String>, i16, i16, bool) =
        sqlx::query_as("select tenant, trace, priority, max_attempts, keyed from causelist.job where id = $1")
            .bind(made[0].id)
            .fetch_one(&mut *conn)
            .await
            .expect("a row");
    assert_eq!(first, (Some(tenant), Some("00-1-2-01".to_owned()), -3, 9, false));
    assert_eq!(state(db.pool(), made[1].id).await, "scheduled");
    let due: bool = sqlx::query_scalar("select run_at = $2 from causelist.scheduled where id = $1")
        .bind(made[1].id)
        .bind(later)
        .fetch_one(&mut *conn)
        .await
        .expect("a row");
    assert!(due);
    let place: (String, i64) = sqlx::query_as("select queue, rank from causelist.ready where id = $1")
        .bind(made[2].id)
        .fetch_one(&mut *conn)
        .await
        .expect("a row");
    assert_eq!(place, ("practice".to_owned(), past.timestamp_micros()));
    assert_eq!(count(db.pool(), "select count(*) from causelist.ready").await, 299);
}

#[tokio::test]
async fn many_jobs_are_loaded_all_or_none_and_with_the_callers_transaction() {
    let db = db().await;
    let mut tx = db.pool().begin().await.expect("a transaction");
    let wrong = enqueue_many(
        &mut tx,
        &many(|i, job| if i == 299 { job.queue("nowhere") } else { job }),
    )
    .await;
    assert!(wrong.expect_err("is refused").to_string().contains("nowhere"));
    let made = enqueue_many(&mut tx, &many(|_, job| job)).await.expect("are enqueued");
    assert_eq!(made.len(), 300);
    tx.rollback().await.expect("rolls back");
    assert_eq!(count(db.pool(), "select count(*) from causelist.job").await, 0);
    // Keys and limits go their own way, whatever the number.
    let mut conn = db.pool().acquire().await.expect("a connection");
    let keyed = many(|i, job| job.key(&format!("k{}", i % 100)));
    let made = enqueue_many(&mut conn, &keyed).await.expect("are enqueued");
    assert_eq!(made.iter().filter(|m| m.duplicate).count(), 200);
    let rule = causelist_queue::limits::Rule {
        kind: Some("raw".into()),
        scope: causelist_queue::limits::Scope::Fleet,
        max_running: Some(1),
        rate: None,
    };
    causelist_queue::limits::set(db.pool(), &rule).await.expect("is set");
    enqueue_many(&mut conn, &many(|_, job| job))
        .await
        .expect("are enqueued");
    assert_eq!(count(db.pool(), "select count(*) from causelist.waiting").await, 300);
}
