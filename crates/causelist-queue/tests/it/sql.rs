//! Enqueue in SQL: the same jobs, the same keys and the same refusals as in Rust.

mod keys;

use causelist_queue::{EnqueueError, Limits, NewJob, enqueue};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use uuid::Uuid;

use crate::fixture::{assert_idle, count, db, finished, options, worker};

/// Id, duplicate, state.
type Answer = (i64, bool, Option<String>);

/// Calls `causelist.enqueue` with these arguments, written in SQL.
async fn call(db: &mut PgConnection, arguments: &str) -> sqlx::Result<Answer> {
    sqlx::query_as(AssertSqlSafe(format!("select * from causelist.enqueue({arguments})")))
        .fetch_one(db)
        .await
}

async fn call_many(db: &mut PgConnection, jobs: &Value) -> sqlx::Result<Vec<Answer>> {
    sqlx::query_as("select * from causelist.enqueue_many($1)")
        .bind(jobs)
        .fetch_all(db)
        .await
}

/// SQLSTATE and message of a refusal.
fn refusal(error: &sqlx::Error) -> (String, String) {
    let db = error.as_database_error().expect("PostgreSQL refused");
    (db.code().unwrap_or_default().into_owned(), db.message().to_owned())
}

async fn assert_nothing_written(pool: &PgPool) {
    for table in ["job", "ready", "scheduled", "job_key"] {
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from causelist.{table}")))
            .fetch_one(pool)
            .await
            .expect("a count");
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn what_sql_enqueues_runs() {
    let db = db().await;
    let tenant = Uuid::new_v4();
    let mut conn = db.pool().acquire().await.expect("a connection");
    let plain = call(&mut conn, r#"'act', '{"do": "count"}'"#).await.expect("is taken");
    assert_eq!((plain.1, plain.2.as_deref()), (false, Some("ready")));
    let full = call(
        &mut conn,
        &format!(
            r#"'act', '{{"do": "count"}}', key => 'k', run_at => now() + interval '300 ms', queue => 'delivery',
               priority => -3, tenant => '{tenant}', max_attempts => 2, hold => 'ever', trace => '00-aa-bb-01'"#
        ),
    )
    .await
    .expect("is taken");
    assert_eq!((full.1, full.2.as_deref()), (false, Some("scheduled")));
    // As a driver sends what its caller left out.
    let nulls = call(
        &mut conn,
        r#"'act', '{"do": "count"}', null, null, null, null, null, null, null"#,
    )
    .await
    .expect("is taken");
    let many = call_many(&mut conn, &json!([{ "kind": "act", "args": { "do": "count" } }]))
        .await
        .expect("are taken");
    drop(conn);
    let mut both = options();
    both.queues = vec!["default".into(), "delivery".into()];
    let worker = worker(db.pool(), both);
    for id in [plain.0, nulls.0, many[0].0] {
        let (record, attempts) = finished(db.pool(), id).await;
        assert_eq!((record.state.as_str(), attempts.len()), ("done", 1));
        assert_eq!(
            (
                record.queue.as_str(),
                record.priority,
                record.max_attempts,
                record.tenant
            ),
            ("default", 0, 5, None)
        );
    }
    let (record, _) = finished(db.pool(), full.0).await;
    assert_eq!(record.state, "done");
    assert_eq!(
        (
            record.queue.as_str(),
            record.priority,
            record.max_attempts,
            record.tenant
        ),
        ("delivery", -3, 2, Some(tenant))
    );
    assert_eq!(
        count(
            db.pool(),
            "select count(*) from causelist.job where trace = '00-aa-bb-01' and keyed"
        )
        .await,
        1
    );
    worker.stop().await;
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn it_is_part_of_the_callers_transaction() {
    let db = db().await;
    let mut tx = db.pool().begin().await.expect("a transaction");
    call(&mut tx, "'act', key => 'k'").await.expect("is taken");
    call_many(&mut tx, &json!([{ "kind": "act" }, { "kind": "act", "key": "l" }]))
        .await
        .expect("are taken");
    tx.rollback().await.expect("rolls back");
    assert_nothing_written(db.pool()).await;
}

/// Each as Rust and as SQL says it. The SQL is also sent through `enqueue_many`, as JSON made from it.
fn refused() -> Vec<(NewJob, &'static str)> {
    let raw = |kind: &str| NewJob::raw(kind, json!({}));
    let nested = (0..64).fold(json!({}), |inner, _| json!({ "a": inner }));
    let at = |seconds| chrono::DateTime::UNIX_EPOCH + chrono::Duration::seconds(seconds);
    vec![
        (raw("Check SLA"), "'Check SLA'"),
        (raw(""), "''"),
        (raw(""), "null"),
        (raw("9lives"), "'9lives'"),
        (raw("a\nb"), r"E'a\nb'"),
        (raw("say \"it\""), "'say \"it\"'"),
        (raw(&"x".repeat(64)), "repeat('x', 64)"),
        (raw(&"é".repeat(300)), "repeat('é', 300)"),
        (raw("a").queue("No Such"), "'a', queue => 'No Such'"),
        (raw("a").queue(""), "'a', queue => ''"),
        (raw("a").queue("nowhere"), "'a', queue => 'nowhere'"),
        (raw("a").max_attempts(0), "'a', max_attempts => 0"),
        (raw("a").key(""), "'a', key => ''"),
        (raw("a").key(&"ü".repeat(256)), "'a', key => repeat('ü', 256)"),
        (raw("a").run_at(at(-1)), "'a', run_at => '1969-12-31 23:59:59+00'"),
        (NewJob::raw("a", json!([1])), "'a', '[1]'"),
        (NewJob::raw("a", json!("text")), "'a', '\"text\"'"),
        (NewJob::raw("a", json!(null)), "'a', 'null'"),
        (
            NewJob::raw("a", nested),
            r#"'a', (repeat('{"a":', 64) || '{}' || repeat('}', 64))::jsonb"#,
        ),
    ]
}

#[tokio::test]
async fn both_refuse_the_same_with_the_same_words() {
    let db = db().await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    for (job, arguments) in refused() {
        let rust = enqueue(&mut conn, job).await.expect_err("Rust refuses it").to_string();
        let sql = call(&mut conn, arguments).await.expect_err("SQL refuses it");
        assert_eq!(refusal(&sql), ("22023".to_owned(), rust), "{arguments}");
    }
    for (far, arguments) in [
        (253_402_300_800, "run_at => '10000-01-01 00:00:00+00'"),
        (-90_000_000_000, "run_at => '-infinity'"),
    ] {
        let job = NewJob::raw("a", json!({})).run_at(chrono::DateTime::from_timestamp(far, 0));
        let rust = enqueue(&mut conn, job).await.expect_err("is refused").to_string();
        let sql = call(&mut conn, &format!("'a', {arguments}"))
            .await
            .expect_err("is refused");
        let why = "must lie between 1970 and 9999";
        assert!(rust.ends_with(why) && refusal(&sql).1.ends_with(why), "{rust} {sql}");
    }
    assert_nothing_written(db.pool()).await;
}

#[tokio::test]
async fn what_both_take_at_the_edge() {
    let db = db().await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    let nested = (0..63).fold(json!({}), |inner, _| json!({ "a": inner }));
    for args in [
        nested,
        json!({ "a": 1.797_693_134_862_315_7e308 }),
        json!({ "ok": [1, "é", null] }),
    ] {
        enqueue(&mut conn, NewJob::raw("a", args.clone()))
            .await
            .expect("Rust takes it");
        let made = call_many(&mut conn, &json!([{ "kind": "a", "args": args }]))
            .await
            .expect("SQL takes it");
        assert!(!made[0].1);
    }
    for arguments in [
        "repeat('x', 63)",
        "'a', key => repeat('ü', 255)",
        "'a', run_at => 'epoch'",
        "'a', run_at => '9999-12-31 23:59:59.999999+00'",
        "'a', priority => -32768, max_attempts => 32767",
    ] {
        call(&mut conn, arguments).await.expect(arguments);
    }
}

#[tokio::test]
async fn the_size_of_arguments_is_limited_as_configured() {
    let db = db().await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    let without_digits = |text: String| text.replace(|c: char| c.is_ascii_digit(), "");
    let args = json!({ "a": "y".repeat(300_000) });
    let rust = NewJob::raw("a", args.clone())
        .check(Limits::default())
        .expect_err("Rust refuses it");
    assert!(matches!(rust, EnqueueError::TooLarge { limit: 262_144, .. }));
    let sql = call_many(&mut conn, &json!([{ "kind": "a", "args": args }]))
        .await
        .expect_err("SQL refuses it");
    let (code, text) = refusal(&sql);
    assert_eq!(code, "22023");
    assert!(text.contains("262144"), "{text}");
    assert_eq!(without_digits(text), without_digits(rust.to_string()));
    assert_nothing_written(db.pool()).await;

    for (limit, taken) in [("300100", true), ("1000", false), ("999999999", true)] {
        let mut tx = db.pool().begin().await.expect("a transaction");
        sqlx::query("select set_config('causelist.payload_limit', $1, true)")
            .bind(limit)
            .execute(&mut *tx)
            .await
            .expect("is set");
        let made = call_many(&mut tx, &json!([{ "kind": "a", "args": args }])).await;
        assert_eq!(made.is_ok(), taken, "{limit}: {made:?}");
    }
    let mut tx = db.pool().begin().await.expect("a transaction");
    sqlx::query("set local causelist.payload_limit = '1MB'")
        .execute(&mut *tx)
        .await
        .expect("is set");
    let (_, text) = refusal(&call(&mut tx, "'a'").await.expect_err("is refused"));
    assert!(text.starts_with("causelist.payload_limit \"1MB\": "), "{text}");
}

#[tokio::test]
async fn what_only_sql_can_say_wrong_is_refused_too() {
    let db = db().await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    for (arguments, message) in [
        ("'a', priority => 40000", "priority \"40000\": must lie between"),
        (
            "'a', max_attempts => 40000",
            "max_attempts \"40000\": must be at most 32767",
        ),
        (
            "'a', key => 'k', hold => 'always'",
            "hold \"always\": must be while, until or ever",
        ),
        ("'a', hold => 'ever'", "hold \"ever\": is for a key"),
        ("'a', key => 'k', hold => 'until'", "hold \"until\": needs expires_at"),
        ("'a', key => 'k', expires_at => 'epoch'", "expires_at \"1970"),
        (
            "'a', key => 'k', hold => 'until', expires_at => 'infinity'",
            "expires_at \"infinity\": must lie",
        ),
        ("'a', trace => repeat('x', 513)", "trace \"xxx"),
        ("'a', '{\"a\": 1e400}'", "the arguments hold a number beyond"),
        ("'a', '{\"a\": [-1e400]}'", "the arguments hold a number beyond"),
    ] {
        let (code, text) = refusal(&call(&mut conn, arguments).await.expect_err(arguments));
        assert_eq!(code, "22023", "{arguments}");
        assert!(text.starts_with(message), "{arguments}: {text}");
    }
    for (jobs, message) in [
        (
            json!({ "kind": "a" }),
            "jobs \"{\\\"kind\\\": \\\"a\\\"}\": must be a JSON array",
        ),
        (json!(null), "jobs \"null\": must be a JSON array"),
        (json!([{ "kind": "a" }, 5]), "job \"5\": must be an object"),
        (
            json!([{ "kind": "a" }, { "kind": "a", "runAt": "x" }]),
            "field \"runAt\": is not known; there are kind, ",
        ),
        (
            json!([{ "kind": "a" }, { "kind": "a", "tenant": "x" }]),
            "invalid input syntax for type uuid: \"x\"",
        ),
        (
            json!([{ "kind": "a" }, { "kind": "a", "priority": 1.5 }]),
            "invalid input syntax for type integer: \"1.5\"",
        ),
        (
            json!([{ "kind": "a" }, { "kind": "a", "run_at": "soon" }]),
            "invalid input syntax for type timestamp",
        ),
        (
            json!([{ "kind": "a", "key": "k" }, { "args": {} }]),
            "kind \"\": must be",
        ),
    ] {
        let error = call_many(&mut conn, &jobs).await.expect_err("is refused");
        let (code, text) = refusal(&error);
        assert_eq!(code, "22023", "{jobs}");
        assert!(text.starts_with(message), "{jobs}: {text}");
    }
    let nul = call(&mut conn, r#"'a', '{"a": "\u0000"}'"#)
        .await
        .expect_err("is refused");
    assert_eq!(refusal(&nul).0, "22P05", "PostgreSQL's own refusal");
    assert_nothing_written(db.pool()).await;
    assert_eq!(call_many(&mut conn, &json!([])).await.expect("none is fine"), []);
}

#[tokio::test]
async fn many_are_taken_all_or_none_and_answered_in_order() {
    let db = db().await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    let bad = json!([{ "kind": "act", "key": "a" }, { "kind": "act" }, { "kind": "act", "queue": "nowhere" }]);
    let error = call_many(&mut conn, &bad).await.expect_err("is refused");
    assert!(refusal(&error).1.starts_with("queue \"nowhere\" does not exist"));
    assert_nothing_written(db.pool()).await;

    let held = call(&mut conn, "'act', key => 'held', run_at => now() + interval '1 day'")
        .await
        .expect("is taken");
    let jobs = json!([
        { "kind": "act", "args": { "n": 0 }, "key": "b" },
        { "kind": "act", "args": { "n": 1 } },
        { "kind": "act", "args": { "n": 2 }, "key": "held" },
        { "kind": "act", "args": { "n": 3 }, "key": "a", "run_at": "2099-01-01T00:00:00Z" },
        { "kind": "act", "args": { "n": 4 }, "key": "b" },
        { "kind": "other", "args": { "n": 5 }, "key": "b" },
        { "kind": "act", "args": { "n": 6 }, "key": "b" },
    ]);
    let made = call_many(&mut conn, &jobs).await.expect("are taken");
    assert_eq!(
        made.iter().map(|m| m.1).collect::<Vec<_>>(),
        [false, false, true, false, true, false, true]
    );
    assert_eq!((made[4].0, made[6].0), (made[0].0, made[0].0));
    assert_eq!(made[2], (held.0, true, Some("scheduled".to_owned())));
    assert_eq!(made[3].2.as_deref(), Some("scheduled"));
    for i in [0, 1, 3, 5] {
        let n: i32 = sqlx::query_scalar("select (args ->> 'n')::int from causelist.job where id = $1")
            .bind(made[i].0)
            .fetch_one(&mut *conn)
            .await
            .expect("the job");
        assert_eq!(usize::try_from(n).ok(), Some(i));
    }
}

#[tokio::test]
async fn ten_thousand_in_one_call() {
    let db = db().await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    let mut jobs: Vec<Value> = (0..10_000)
        .map(|n| json!({ "kind": "act", "args": { "n": n } }))
        .collect();
    for round in ["without keys", "with keys", "all duplicates"] {
        if round != "without keys" {
            for (n, job) in jobs.iter_mut().enumerate() {
                job["key"] = json!(format!("key {n}"));
            }
        }
        let made = call_many(&mut conn, &json!(jobs)).await.expect("are taken");
        let mut ids: Vec<i64> = made.iter().map(|m| m.0).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 10_000, "{round}");
        assert!(made.iter().all(|m| m.1 == (round == "all duplicates")), "{round}");
    }
    assert_eq!(count(db.pool(), "select count(*) from causelist.ready").await, 20_000);
}
