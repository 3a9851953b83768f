//! Bad input: a clear message that names the value, an exit code that tells, and nothing written.

use causelist_testkit::TestDb;

use crate::program::{causelist, run};

/// Runs it and expects this exit code and these words on standard error.
fn refused(database: &str, args: &[&str], code: i32, words: &[&str]) {
    let output = run(database, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{args:?} should say {word:?}: {said}");
    }
    assert!(
        output.stdout.is_empty(),
        "{args:?} printed {}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[tokio::test]
async fn commands_refuse_bad_input_and_write_nothing() {
    let db = TestDb::new().await;
    let url = db.url();
    let large = format!(r#"{{"channel":"{}"}}"#, "x".repeat(100_000));
    refused(
        url,
        &["enqueue", "no-such-kind"],
        2,
        &["no-such-kind", "check-sla-and-overdue"],
    );
    refused(
        url,
        &["enqueue", "deliver-messages", "{oops"],
        2,
        &["{oops", "not JSON"],
    );
    refused(
        url,
        &["enqueue", "deliver-messages", r#"{"channel":"pigeon"}"#],
        2,
        &["pigeon"],
    );
    refused(url, &["enqueue", "deliver-messages", &large], 2, &["deliver-messages"]);
    refused(url, &["enqueue", "Some Kind", "--unknown-kind"], 2, &["Some Kind"]);
    refused(
        url,
        &["enqueue", "x", "--unknown-kind", "--queue", "nowhere"],
        2,
        &["nowhere"],
    );
    refused(
        url,
        &["enqueue", "x", "[1]", "--unknown-kind"],
        2,
        &["[1]", "JSON object"],
    );
    refused(url, &["enqueue", "deliver-messages", "--tenant", "acme"], 2, &["acme"]);
    refused(
        url,
        &["enqueue", "deliver-messages", "--run-at", "tomorrow"],
        2,
        &["tomorrow"],
    );
    refused(url, &["run", "no-such-kind"], 2, &["no-such-kind"]);
    refused(url, &["run", "deliver-messages"], 2, &["deliver-messages"]);
    refused(
        url,
        &["run", "check-sla-and-overdue", "--as-of", "yesterday"],
        2,
        &["yesterday"],
    );
    let far = "9999-01-01T00:00:00Z";
    refused(
        url,
        &["run", "check-sla-and-overdue", "--as-of", far],
        2,
        &["9999", "2100"],
    );
    let ahead = "2099-01-01T00:00:00Z";
    refused(
        url,
        &["run", "check-sla-and-overdue", "--as-of", ahead],
        2,
        &["2099", "dryRun"],
    );
    let args = r#"{"executedAt": "2099-01-01T00:00:00Z"}"#;
    refused(url, &["enqueue", "check-sla-and-overdue", args], 2, &["2099"]);
    refused(
        url,
        &["run", "check-sla-and-overdue", "--wait"],
        1,
        &["no worker", "practice"],
    );
    refused(url, &["jobs", "list", "--state", "asleep"], 2, &["asleep", "ready"]);
    refused(url, &["jobs", "list", "--limit", "0"], 2, &["--limit 0"]);
    refused(url, &["jobs", "show", "12"], 1, &["job 12"]);
    refused(url, &["jobs", "show", "twelve"], 2, &["twelve"]);
    refused(url, &["jobs", "cancel", "12"], 1, &["job 12"]);
    refused(url, &["jobs", "retry", "12"], 1, &["job 12"]);
    refused(url, &["jobs", "purge", "12"], 1, &["job 12"]);
    refused(url, &["jobs", "retry"], 2, &["--dead"]);
    refused(url, &["jobs", "retry", "12", "--dead"], 2, &["--dead"]);
    refused(url, &["jobs", "retry", "12", "--kind", "x"], 2, &["--dead"]);
    refused(url, &["jobs", "purge", "--dead"], 2, &["--reason", "--older-than 0s"]);
    refused(
        url,
        &["jobs", "purge", "--dead", "--reason", "boredom"],
        2,
        &["boredom", "permanent"],
    );
    refused(
        url,
        &["jobs", "retry", "--dead", "--older-than", "yesterday"],
        2,
        &["--older-than", "yesterday", "1h"],
    );
    refused(
        url,
        &["jobs", "retry", "--dead", "--limit", "100001"],
        2,
        &["--limit 100001", "100000"],
    );
    refused(url, &["jobs", "dead", "--limit", "0"], 2, &["--limit 0"]);
    refused(url, &["queues", "pause", "nowhere"], 1, &["nowhere", "queues list"]);
    refused(url, &["queues", "resume", "nowhere"], 1, &["nowhere"]);
    refused(url, &["queues", "create", "default"], 1, &["default", "exists already"]);
    refused(url, &["queues", "create", "Big Queue"], 2, &["Big Queue", "a-z"]);
    refused(
        url,
        &["worker", "--set", "retention.archive=file"],
        2,
        &["retention.archive_dir"],
    );
    refused(url, &["schedules", "pause", "9"], 1, &["schedule 9"]);
    refused(url, &["schedules", "preview", "61 * * * *"], 2, &["61 * * * *"]);
    refused(url, &["schedules", "preview", "0 0 31 2 *"], 2, &["never fires"]);
    refused(
        url,
        &["schedules", "preview", "0 8 * * *", "--zone", "India/Kolkata"],
        2,
        &["India/Kolkata", "Asia/Kolkata"],
    );
    refused(
        url,
        &["config", "--set", "worker.concurency=4"],
        2,
        &["worker.concurency", "worker.concurrency"],
    );
    refused(
        url,
        &["worker", "--concurrency", "many"],
        2,
        &["worker.concurrency", "many"],
    );
    for table in ["job", "ready", "scheduled", "job_key", "schedule"] {
        let sql = format!("select count(*) from causelist.{table}");
        let rows: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(db.pool())
            .await
            .expect("a count");
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn a_missing_database_is_told_as_such() {
    let db = TestDb::empty().await;
    refused("", &["jobs", "list"], 2, &["DATABASE_URL", "causelist demo"]);
    refused(
        "postgres://nobody:secret@127.0.0.1:1/none",
        &["jobs", "list"],
        3,
        &["PostgreSQL"],
    );
    refused(db.url(), &["jobs", "list"], 3, &["causelist migrate"]);
    refused(
        db.url(),
        &["worker", "--admin-listen", "127.0.0.1:0"],
        3,
        &["causelist migrate"],
    );
    let output = run("mysql://root:hunter2@localhost/x", &["jobs", "list"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        !String::from_utf8_lossy(&output.stderr).contains("hunter2"),
        "no secret in a message"
    );
}

#[test]
fn where_postgresql_cannot_be_had_the_demo_names_the_command() {
    let empty = tempfile::tempdir().expect("a directory");
    let output = causelist()
        .env("PATH", empty.path())
        .env("PG_BIN_DIR", empty.path())
        .args(["demo", "--port", "0", "--data-dir"])
        .arg(empty.path().join("data"))
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("PG_BIN_DIR"), "{said}");
}

#[test]
fn help_and_version_work_without_anything() {
    for args in [
        &["--help"][..],
        &["--version"],
        &["demo", "--help"],
        &["schedules", "preview", "0 8 * * *", "--json"],
    ] {
        let output = causelist().args(args).output().expect("the binary starts");
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn failures_are_json_where_scripts_read() {
    let output = causelist()
        .args(["schedules", "preview", "61 * * * *", "--json"])
        .output()
        .expect("the binary starts");
    let said: serde_json::Value = serde_json::from_slice(&output.stderr).expect("JSON on standard error");
    assert_eq!(said["exitCode"], 2);
    assert!(said["error"].as_str().is_some_and(|e| e.contains("61 * * * *")));
}
