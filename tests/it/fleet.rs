//! Several processes over one database: each instant once, and a killed worker's jobs taken up.

use std::time::Duration;

use causelist_gst::{Host, demo};
use causelist_testkit::TestDb;
use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::program::{PATIENCE, Process, causelist, json};

/// A database with the demo practice.
pub async fn practice() -> (TestDb, DateTime<Utc>) {
    let host = Host::new("public").expect("a schema");
    let db = TestDb::with_sql(&host.tables_sql()).await;
    let now: DateTime<Utc> = sqlx::query_scalar("select date_trunc('second', now())")
        .fetch_one(db.pool())
        .await
        .expect("a time");
    let mut conn = db.pool().acquire().await.expect("a connection");
    demo::load(&host, &mut conn, now, 7).await.expect("loads");
    drop(conn);
    (db, now)
}

/// A role as a process of its own, with quick leases.
pub fn role(db: &TestDb, args: &[&str]) -> Process {
    let maildir = std::env::temp_dir().join(format!("causelist-it-{}", db.name()));
    let mut command = causelist();
    command
        .env("DATABASE_URL", db.url())
        .env("CAUSELIST_WORKER_LEASE", "2s")
        .env("CAUSELIST_WORKER_POLL", "100ms")
        .env("CAUSELIST_MAIL_MODE", "maildir")
        .env("CAUSELIST_MAIL_MAILDIR", maildir)
        .env("CAUSELIST_MAIL_FROM", "Causelist <jobs@example.in>")
        .env("CAUSELIST_LINKS_SECRET", "0123456789abcdef0123456789abcdef")
        .args(args)
        .args(["--admin-listen", "127.0.0.1:0"]);
    Process::start(&mut command)
}

/// Waits until a query says true.
pub async fn until(pool: &PgPool, what: &str, sql: &'static str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let holds: bool = sqlx::query_scalar(sql).fetch_one(pool).await.expect("answers");
        if holds {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

#[tokio::test]
async fn a_killed_workers_job_is_taken_up_and_takes_effect_once() {
    let (db, now) = practice().await;
    let first = role(&db, &["worker"]);
    until(
        db.pool(),
        "the worker is there",
        "select exists (select from causelist.worker)",
    )
    .await;
    // Somebody edits a task that is about to turn overdue: the check waits for the row, in the
    // middle of its work.
    let mut editor = db.pool().begin().await.expect("a transaction");
    sqlx::query("select id from tasks where due_date < $1 and status = 'Open' for update")
        .bind(now)
        .fetch_all(&mut *editor)
        .await
        .expect("rows");
    let as_of = now.to_rfc3339();
    let made = json(db.url(), &["run", "check-sla-and-overdue", "--as-of", &as_of]);
    let id: i64 = made["id"].as_str().expect("an id").parse().expect("a number");
    until(
        db.pool(),
        "the check waits for the row",
        "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database())",
    )
    .await;
    first.signal("KILL");
    assert_eq!(first.wait().0, None, "ended by the signal");
    let second = role(&db, &["worker"]);
    until(
        db.pool(),
        "the job was taken away from the dead worker",
        "select exists (select from causelist.attempt where outcome = 'crashed')",
    )
    .await;
    editor.rollback().await.expect("rolls back");
    let job = causelist_queue::wait_until_finished(db.pool(), id, PATIENCE)
        .await
        .expect("answers")
        .expect("finishes");
    assert_eq!(job.0.state, "done", "{:?}", job.0.error);
    let outcomes: Vec<&str> = job.1.iter().map(|a| a.outcome.as_str()).collect();
    assert_eq!(outcomes, ["crashed", "done"]);
    let gap = job.1[1].claimed_at - job.1[0].claimed_at;
    // The lease is 2 s; the claim was renewed while the worker lived.
    let lived = job.1[0].finished_at - job.1[0].claimed_at;
    assert!(
        gap - lived < chrono::Duration::seconds(4),
        "taken up {gap} after the claim"
    );
    let marked = job.0.result.expect("a result")["overdueTasks"]
        .as_i64()
        .expect("a number");
    let events: i64 = sqlx::query_scalar("select count(*) from causelist.event where type = 'task_overdue'")
        .fetch_one(db.pool())
        .await
        .expect("a count");
    assert_eq!(events, marked, "one event per task, though two workers began");
    second.signal("TERM");
    let (code, said) = second.wait();
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn roles_of_their_own_make_a_fleet() {
    let (db, _) = practice().await;
    let fleet = [
        role(&db, &["scheduler"]),
        role(&db, &["scheduler"]),
        role(&db, &["worker", "--queues", "practice"]),
        role(&db, &["worker", "--queues", "practice,delivery", "--concurrency", "2"]),
        role(&db, &["worker"]),
        role(&db, &["api", "--listen", "127.0.0.1:0"]),
    ];
    until(
        db.pool(),
        "every tenant has its five schedules, and three workers are there",
        "select (select count(*) from causelist.schedule where tenant is not null) = 15
            and (select count(*) from causelist.worker) = 3",
    )
    .await;
    // As if a minute of the day had come for all at once.
    sqlx::query("update causelist.schedule set next_at = date_trunc('second', now())")
        .execute(db.pool())
        .await
        .expect("runs");
    until(
        db.pool(),
        "all of them have run",
        "select count(*) >= 15 from causelist.schedule_fire f join causelist.attempt a on a.job_id = f.job_id
         where a.outcome = 'done'",
    )
    .await;
    for process in fleet {
        process.signal("TERM");
        let (code, said) = process.wait();
        assert_eq!(code, Some(0), "{said}");
    }
    let twice: i64 = sqlx::query_scalar(
        "select count(*) from (select job_id from causelist.attempt where outcome = 'done' group by job_id having count(*) > 1) x",
    )
    .fetch_one(db.pool())
    .await
    .expect("a count");
    assert_eq!(twice, 0);
    let (fires, jobs): (i64, i64) =
        sqlx::query_as("select count(*), count(distinct job_id) from causelist.schedule_fire where reason = 'fired'")
            .fetch_one(db.pool())
            .await
            .expect("counts");
    assert_eq!(fires, jobs);
    let left: i64 = sqlx::query_scalar("select count(*) from causelist.claim")
        .fetch_one(db.pool())
        .await
        .expect("a count");
    assert_eq!(left, 0, "nobody left a claim behind");
}
