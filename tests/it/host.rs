//! A host as real ones are: more columns, row-level security, an audit log with opinions.

use std::process::Output;

use serde_json::Value;

use crate::fleet::{practice, role, until};
use crate::program::{json, run};

const JOBS: [&str; 5] = [
    "check-sla-and-overdue",
    "send-hearing-reminders",
    "analytics-snapshot",
    "check-upcoming-deadlines",
    "automation-health-check",
];

fn findings(output: &Output) -> Vec<Value> {
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    report["findings"].as_array().expect("a list").clone()
}

#[tokio::test]
async fn the_jobs_work_beside_more_columns_row_security_and_a_strict_audit_log() {
    let (db, now) = practice().await;
    sqlx::raw_sql(
        "alter table tasks add column colour text, add column tags jsonb default '[]';
         alter table hearings add column room text;
         alter table employees add column salary numeric;
         alter table audit_log add constraint audit_log_action_check check (action_type in ('login', 'case_update'));
         do $$ declare t text; begin
             for t in select tablename from pg_tables where schemaname = 'public' loop
                 execute format('alter table public.%I enable row level security', t);
                 execute format('alter table public.%I force row level security', t);
             end loop;
         end $$;",
    )
    .execute(db.pool())
    .await
    .expect("runs");
    let _worker = role(&db, &["worker"]);
    until(
        db.pool(),
        "the worker is there",
        "select exists (select from causelist.worker)",
    )
    .await;
    let as_of = now.to_rfc3339();
    for kind in JOBS {
        let job = json(db.url(), &["run", kind, "--as-of", &as_of, "--wait"]);
        assert_eq!(job["state"], "done", "{job}");
        let skipped = job["result"]["auditSkipped"]
            .as_str()
            .unwrap_or_else(|| panic!("{kind} says nothing: {job}"));
        assert!(skipped.contains("audit_log_action_check"), "{skipped}");
    }
    let output = run(db.url(), &["doctor", "--json"]);
    let strict = |f: &&Value| {
        f["severity"] != "ok"
            && f["what"]
                .as_str()
                .is_some_and(|w| w.contains("background_job_execution"))
    };
    let all = findings(&output);
    let audit = all
        .iter()
        .find(strict)
        .unwrap_or_else(|| panic!("doctor does not name the audit log: {all:?}"));
    let cure = audit["cure"].as_str().expect("a cure").to_owned();
    sqlx::raw_sql(sqlx::AssertSqlSafe(cure))
        .execute(db.pool())
        .await
        .expect("the cure is a statement");
    let output = run(db.url(), &["doctor", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(
        !findings(&output).iter().any(|f| strict(&f)),
        "doctor is content with its cure"
    );
    // Cured, the rows come with the next run, once.
    for _ in 0..2 {
        for kind in JOBS {
            let job = json(db.url(), &["run", kind, "--as-of", &as_of, "--wait"]);
            assert!(job["result"]["auditSkipped"].is_null(), "{job}");
        }
    }
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "select details ->> 'job', count(*) from audit_log where action_type = 'background_job_execution' group by 1 order by 1",
    )
    .fetch_all(db.pool())
    .await
    .expect("rows");
    assert_eq!(rows.len(), 5);
    assert!(
        rows.iter().all(|(_, count)| *count == 3),
        "one per tenant and job: {rows:?}"
    );
}

#[tokio::test]
async fn what_a_hosts_trigger_says_is_not_kept_and_a_mistyped_tenant_is_refused() {
    let (db, now) = practice().await;
    sqlx::raw_sql(
        "create function guard() returns trigger language plpgsql as
             $$ begin raise exception 'task of Mrs Canary (canary@example.in) is locked'; end $$;
         create trigger guard before update on tasks for each row execute function guard();",
    )
    .execute(db.pool())
    .await
    .expect("runs");
    let _worker = role(&db, &["worker", "--queues", "practice"]);
    until(
        db.pool(),
        "the worker is there",
        "select exists (select from causelist.worker)",
    )
    .await;
    let made = json(
        db.url(),
        &["run", "check-sla-and-overdue", "--as-of", &now.to_rfc3339()],
    );
    until(
        db.pool(),
        "an attempt has failed",
        "select exists (select from causelist.attempt where outcome = 'retry')",
    )
    .await;
    let shown = run(
        db.url(),
        &["jobs", "show", made["id"].as_str().expect("an id"), "--json"],
    );
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(
        shown.contains("P0001") && !shown.to_lowercase().contains("canary"),
        "{shown}"
    );
    let output = run(
        db.url(),
        &[
            "run",
            "analytics-snapshot",
            "--tenant",
            "00000000-0000-4000-8000-00000000dead",
        ],
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("00000000-0000-4000-8000-00000000dead"));
}

#[tokio::test]
async fn a_role_that_row_security_blinds_is_told_so_and_cured() {
    let (db, now) = practice().await;
    let role_name = format!("blind_{}", db.name());
    let setup = format!(
        "create role {role_name} login password 'blind';
         grant usage on schema causelist to {role_name};
         grant all on all tables in schema causelist to {role_name};
         grant all on all sequences in schema causelist to {role_name};
         grant all on all functions in schema causelist to {role_name};
         grant all on all tables in schema public to {role_name};
         alter table tasks enable row level security;
         create policy own on tasks using (tenant_id::text = current_setting('app.tenant', true));"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(setup))
        .execute(db.pool())
        .await
        .expect("runs");
    let (_, address) = db.url().split_once('@').expect("a URL with a login");
    let url = format!("postgres://{role_name}:blind@{address}");
    let mut command = crate::program::causelist();
    command
        .env("DATABASE_URL", &url)
        .env("CAUSELIST_WORKER_POLL", "100ms")
        .args(["worker", "--queues", "practice", "--admin-listen", "127.0.0.1:0"]);
    let worker = crate::program::Process::start(&mut command);
    until(
        db.pool(),
        "the worker is there",
        "select exists (select from causelist.worker)",
    )
    .await;
    let as_of = now.to_rfc3339();
    let output = run(&url, &["run", "check-sla-and-overdue", "--as-of", &as_of, "--wait"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(1),
        "rows that are hidden must not pass for rows that are not there: {said}"
    );
    assert!(
        said.contains("row-level security") && said.contains("causelist doctor"),
        "{said}"
    );
    let output = run(&url, &["doctor", "--json"]);
    let cure = findings(&output)
        .iter()
        .find(|f| f["severity"] == "problem" && f["what"].as_str().is_some_and(|w| w.contains("row-level security")))
        .unwrap_or_else(|| panic!("doctor does not name it: {}", String::from_utf8_lossy(&output.stdout)))["cure"]
        .as_str()
        .expect("a cure")
        .to_owned();
    sqlx::raw_sql(sqlx::AssertSqlSafe(cure))
        .execute(db.pool())
        .await
        .expect("the cure is a statement");
    let job = json(&url, &["run", "check-sla-and-overdue", "--as-of", &as_of, "--wait"]);
    assert!(job["result"]["overdueTasks"].as_i64().is_some_and(|n| n > 0), "{job}");
    worker.signal("TERM");
    assert_eq!(worker.wait().0, Some(0));
    let drop = format!("drop owned by {role_name}; drop role {role_name}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(drop))
        .execute(db.pool())
        .await
        .expect("runs");
}
