//! The checks of a host: each mismatch is named, and its cure, run as it is printed, mends it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use causelist_gst::Host;
use causelist_gst::doctor::{Finding, Severity, check_host, grants};
use causelist_testkit::TestDb;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

fn host() -> Host {
    Host::new("app-1").unwrap()
}

async fn database() -> TestDb {
    TestDb::with_sql(&host().tables_sql()).await
}

async fn run(db: &mut PgConnection, sql: &str) {
    let sql = host().sql(sql);
    if let Err(error) = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(db).await {
        panic!("{sql}: {error}");
    }
}

/// What is not as it should be.
async fn complaints(db: &mut PgConnection) -> Vec<Finding> {
    let mut findings = check_host(&host(), db).await.unwrap();
    findings.retain(|finding| finding.severity != Severity::Ok);
    findings
}

/// Spoils the host's tables; the doctor names each subject; its cures, verbatim, mend everything.
/// Leaves the database as it was.
async fn spoil_and_cure(db: &mut PgConnection, spoil: &str, subjects: &[&str]) -> Vec<Finding> {
    let mut tx = db.begin().await.unwrap();
    run(&mut tx, spoil).await;
    let found = complaints(&mut tx).await;
    for subject in subjects {
        assert!(
            found.iter().any(|f| f.subject == *subject),
            "{spoil}: {subject} is not named in {found:#?}"
        );
    }
    for finding in &found {
        assert!(!finding.needed_by.is_empty(), "{finding:?}");
        run(
            &mut tx,
            finding
                .cure
                .as_deref()
                .unwrap_or_else(|| panic!("no cure: {finding:?}")),
        )
        .await;
    }
    let left = complaints(&mut tx).await;
    assert!(
        left.is_empty(),
        "{spoil}: after the cures {found:#?} there is still {left:#?}"
    );
    tx.rollback().await.unwrap();
    found
}

#[tokio::test]
async fn is_content_with_the_tables_as_they_should_be_and_with_more() {
    let test = database().await;
    let mut db = test.pool().acquire().await.unwrap();
    assert_eq!(complaints(&mut db).await, []);
    let findings = check_host(&host(), &mut db).await.unwrap();
    for table in [
        "tenants",
        "tasks",
        "hearings",
        "audit_log",
        "analytics_snapshots",
        "automation_logs",
    ] {
        assert!(
            findings.iter().any(|f| f.subject == table),
            "{table} is not mentioned: {findings:#?}"
        );
    }
    run(
        &mut db,
        "create extension if not exists citext;
         create domain host.email as text check (value <> 'nobody');
         alter table host.tasks add column color text not null default 'red', alter column title type varchar(200),
             alter column status type citext;
         alter table host.employees add column badge integer not null, alter column email type host.email;
         alter table host.audit_log add column seq bigint generated always as identity,
             add check (entity_type <> '' and (user_id is not null or true) and length(action_type) > 3);
         create table host.something_else (id integer)",
    )
    .await;
    assert_eq!(complaints(&mut db).await, []);
}

#[tokio::test]
async fn a_schema_that_is_not_there_or_closed() {
    let test = database().await;
    let mut db = test.pool().acquire().await.unwrap();
    let none = check_host(&Host::new("nowhere").unwrap(), &mut db).await.unwrap();
    assert_eq!(none.len(), 1);
    assert!(
        none[0].severity == Severity::Problem && none[0].subject.contains("nowhere"),
        "{none:?}"
    );

    // Roles belong to the whole server: this one lives in a transaction.
    let mut tx = db.begin().await.unwrap();
    let role = format!("closed_{}", std::process::id());
    run(&mut tx, &format!("create role {role}; set local role {role}")).await;
    let found = complaints(&mut tx).await;
    assert_eq!(found.len(), 1, "{found:#?}");
    run(&mut tx, "reset role").await;
    run(&mut tx, found[0].cure.as_deref().unwrap()).await;
    run(&mut tx, &format!("set local role {role}")).await;
    let found = complaints(&mut tx).await;
    assert!(
        found.len() > 1 && found.iter().all(|f| f.what.contains("lacks")),
        "{found:#?}"
    );
}

#[tokio::test]
async fn each_table_missing() {
    let test = database().await;
    let mut db = test.pool().acquire().await.unwrap();
    let findings = check_host(&host(), &mut db).await.unwrap();
    let tables: Vec<_> = findings
        .iter()
        .map(|f| f.subject.as_str())
        .filter(|subject| !subject.contains(' '))
        .collect();
    assert!(tables.len() > 15, "{tables:?}");
    for table in &tables {
        spoil_and_cure(&mut db, &format!("drop table host.{table} cascade"), &[table]).await;
    }
    let all: String = tables
        .iter()
        .map(|table| format!("drop table host.{table} cascade;"))
        .collect();
    spoil_and_cure(&mut db, &format!("{all} drop type host.app_role"), &tables).await;
}

#[tokio::test]
async fn each_used_column_missing() {
    let test = database().await;
    let mut db = test.pool().acquire().await.unwrap();
    let tables: Vec<(String, Vec<String>)> = sqlx::query_as(
        "select table_name::text, array_agg(column_name::text) from information_schema.columns
          where table_schema = 'app-1' group by 1",
    )
    .fetch_all(&mut *db)
    .await
    .unwrap();
    let mut used = 0;
    for (table, columns) in tables {
        let drops: Vec<_> = columns
            .iter()
            .map(|column| format!("drop column {column} cascade"))
            .collect();
        let found = spoil_and_cure(&mut db, &format!("alter table host.{table} {}", drops.join(", ")), &[]).await;
        // Nobody misses the columns that no job uses.
        let missed = found.iter().filter(|f| f.what == "the column is missing");
        used += missed
            .filter(|f| columns.iter().any(|column| f.subject == format!("{table}.{column}")))
            .count();
    }
    assert!(used > 90, "only {used} columns are missed");
}

#[tokio::test]
async fn columns_of_another_type() {
    let test = database().await;
    let mut db = test.pool().acquire().await.unwrap();
    for (column, kind) in [
        ("tasks.due_date", "timestamp"),
        ("tasks.due_date", "date"),
        ("tasks.sla_hours", "bigint"),
        ("hearings.hearing_date", "timestamp"),
        ("case_statutory_deadlines.calculated_deadline", "timestamptz"),
        ("automation_logs.executed_at", "timestamp"),
        ("notifications.metadata", "json"),
        ("notifications.channels", "jsonb"),
        ("notification_preferences.reminder_days", "text[]"),
        ("notification_preferences.quiet_hours_start", "text"),
        ("tenants.is_active", "text"),
        ("audit_log.entity_id", "text"),
        ("audit_log.details", "text"),
        ("analytics_snapshots.metric_value", "json"),
    ] {
        let (table, name) = column.split_once('.').unwrap();
        let using = match kind {
            "jsonb" => format!("to_jsonb({name})"),
            _ => format!("{name}::{kind}"),
        };
        let spoil = format!(
            "alter table host.{table} alter column {name} drop default, alter column {name} type {kind} using {using}"
        );
        // What the column can't be turned back from is not what this is about: the tables are empty.
        let found = match kind {
            "jsonb" => {
                run(&mut db, "begin").await;
                run(&mut db, &spoil).await;
                let found = complaints(&mut db).await;
                run(&mut db, "rollback").await;
                found
            }
            _ => spoil_and_cure(&mut db, &spoil, &[column]).await,
        };
        assert!(
            found
                .iter()
                .any(|f| f.subject == column && f.what.contains("where the jobs need")),
            "{found:#?}"
        );
    }
}

#[tokio::test]
async fn statuses_as_an_enum_with_a_default() {
    let test = database().await;
    let mut db = test.pool().acquire().await.unwrap();
    let found = spoil_and_cure(
        &mut db,
        "create type host.task_status as enum ('Open', 'Overdue', 'Completed', 'Cancelled');
         alter table host.tasks alter column status drop default,
             alter column status type host.task_status using status::host.task_status,
             alter column status set default 'Open'",
        &["tasks.status"],
    )
    .await;
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].what.contains("task_status"), "{found:#?}");
}

#[tokio::test]
async fn a_text_column_with_data_becomes_what_the_jobs_need() {
    let test = database().await;
    let mut db = test.pool().acquire().await.unwrap();
    let spoil = "
        insert into host.tenants (id, name, license_key) values ('00000000-0000-0000-0000-000000000001', 'A', 'k');
        insert into host.tasks (tenant_id, title, due_date)
            values ('00000000-0000-0000-0000-000000000001', 't', '2026-11-23 05:00Z');
        alter table host.tasks alter column due_date type timestamp using due_date at time zone 'UTC';
        set local time zone 'Asia/Kolkata'";
    let mut tx = db.begin().await.unwrap();
    run(&mut tx, spoil).await;
    let found = complaints(&mut tx).await;
    run(&mut tx, found[0].cure.as_deref().unwrap()).await;
    // The zone of whoever runs the cure plays no part.
    let kept: bool = sqlx::query_scalar(AssertSqlSafe(
        host().sql("select bool_and(due_date = '2026-11-23 05:00Z') from host.tasks"),
    ))
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    assert!(kept);
}

#[tokio::test]
async fn an_audit_log_that_knows_its_actions() {
    let test = database().await;
    let mut db = test.pool().acquire().await.unwrap();
    for (spoil, subject) in [
        (
            "alter table host.audit_log add constraint audit_log_action_type_check
                 check (action_type in ('create', 'update', 'delete'))",
            "audit_log.action_type",
        ),
        (
            "alter table host.audit_log add constraint \"Only verbs!\" check (action_type ~ '^[a-z]{3,9}$')",
            "audit_log.action_type",
        ),
        (
            "create function host.known(text) returns boolean language sql immutable as $$ select $1 in ('create') $$;
             alter table host.audit_log add check (host.known(action_type))",
            "audit_log.action_type",
        ),
        (
            "alter table host.audit_log add check (action_type = 'create' and entity_type = 'case')",
            "audit_log",
        ),
        (
            "alter table host.audit_log alter column action_type type varchar(20)",
            "audit_log.action_type",
        ),
        (
            "alter table host.audit_log alter column user_id set not null",
            "audit_log.user_id",
        ),
        (
            "alter table host.audit_log alter column id drop default",
            "audit_log.id",
        ),
        (
            "alter table host.audit_log add column \"IP\" inet not null",
            "audit_log.IP",
        ),
    ] {
        let found = spoil_and_cure(&mut db, spoil, &[subject]).await;
        assert_eq!(found.len(), 1, "{spoil}: {found:#?}");
        // The jobs go on without the host's audit log.
        assert_eq!(found[0].severity, Severity::Warning);
    }
    // With its cure the row goes in, and what was refused still is.
    let mut tx = db.begin().await.unwrap();
    run(
        &mut tx,
        "alter table host.audit_log add check (action_type in ('create', 'update'))",
    )
    .await;
    let found = complaints(&mut tx).await;
    run(&mut tx, found[0].cure.as_deref().unwrap()).await;
    run(
        &mut tx,
        "insert into host.tenants (id, name, license_key) values ('00000000-0000-0000-0000-000000000001', 'A', 'k');
         insert into host.audit_log (tenant_id, entity_type, action_type)
             values ('00000000-0000-0000-0000-000000000001', 'job', 'background_job_execution')",
    )
    .await;
    let refused = sqlx::query(AssertSqlSafe(host().sql(
        "insert into host.audit_log (tenant_id, entity_type, action_type)
             values ('00000000-0000-0000-0000-000000000001', 'job', 'nonsense')",
    )))
    .execute(&mut *tx)
    .await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn other_tables_that_refuse_what_jobs_write() {
    let test = database().await;
    let mut db = test.pool().acquire().await.unwrap();
    for (spoil, subject) in [
        ("alter table host.tasks add check (status in ('Open', 'Completed'))", "tasks.status"),
        ("alter table host.notifications add check (type in ('info', 'warning'))", "notifications.type"),
        ("alter table host.analytics_snapshots add check (metric_type not like '%rate')", "analytics_snapshots.metric_type"),
        ("alter table host.notifications add column sent_by uuid not null", "notifications.sent_by"),
        (
            "alter table host.analytics_snapshots drop constraint analytics_snapshots_tenant_id_snapshot_date_metric_type_key;
             create unique index on host.analytics_snapshots (tenant_id, snapshot_date, metric_type) where created_at > '2026-01-01';
             create unique index on host.analytics_snapshots (tenant_id, snapshot_date, metric_type, id)",
            "analytics_snapshots",
        ),
    ] {
        let found = spoil_and_cure(&mut db, spoil, &[subject]).await;
        assert!(found.iter().all(|f| f.severity == Severity::Problem), "{found:#?}");
    }
}

#[tokio::test]
async fn a_condition_that_fails_is_told_and_changes_nothing() {
    let test = database().await;
    let mut db = test.pool().acquire().await.unwrap();
    run(
        &mut db,
        "create function host.moody(text) returns boolean language plpgsql as
             $$ begin if $1 is not null then create table public.left_behind (); end if; return true; end $$;
         alter table host.tasks add constraint moody check (host.moody(status))",
    )
    .await;
    let found = complaints(&mut db).await;
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].severity == Severity::Warning && found[0].subject.contains("moody"),
        "{found:#?}"
    );
    assert!(found[0].what.contains("read-only"), "{found:#?}");
}

#[tokio::test]
async fn row_level_security_and_privileges() {
    let test = database().await;
    let mut db = test.pool().acquire().await.unwrap();
    let mut tx = db.begin().await.unwrap();
    let role = format!("Jobs {}", std::process::id());
    run(
        &mut tx,
        &format!(
            "create role \"{role}\"; grant usage on schema \"app-1\" to \"{role}\";
             grant select, insert, update on all tables in schema \"app-1\" to \"{role}\";
             alter table host.tasks enable row level security;
             alter table host.clients enable row level security;
             create policy own on host.clients using (false);
             revoke insert on host.notifications from \"{role}\";
             revoke select, update on host.tasks from \"{role}\";
             grant select (id, tenant_id, title) on host.tasks to \"{role}\""
        ),
    )
    .await;
    // The owner, a superuser, is not concerned.
    assert_eq!(complaints(&mut tx).await, []);
    run(&mut tx, &format!("set local role \"{role}\"")).await;
    let found = complaints(&mut tx).await;
    let of = |subject: &str| {
        found
            .iter()
            .find(|f| f.subject == subject)
            .unwrap_or_else(|| panic!("{subject}: {found:#?}"))
    };
    assert_eq!(found.len(), 3, "{found:#?}");
    let (tasks, notifications) = (of("tasks"), of("notifications"));
    assert!(
        tasks.what.contains("select (") && tasks.what.contains("update (status"),
        "{tasks:?}"
    );
    assert!(
        tasks.what.contains("due_date") && !tasks.what.contains("title"),
        "{tasks:?}"
    );
    assert!(
        notifications.what.contains("insert (") && !notifications.what.contains("select ("),
        "{notifications:?}"
    );
    let hidden = of("row-level security");
    assert!(
        hidden.what.contains("tasks") && hidden.what.contains("clients"),
        "{hidden:?}"
    );
    assert!(hidden.needed_by.contains(&"check-sla-and-overdue"), "{hidden:?}");

    run(&mut tx, "reset role").await;
    for finding in &found {
        run(&mut tx, finding.cure.as_deref().unwrap()).await;
    }
    run(&mut tx, &format!("set local role \"{role}\"")).await;
    assert_eq!(complaints(&mut tx).await, []);
}

#[tokio::test]
async fn a_role_that_may_do_what_the_jobs_do_and_nothing_more() {
    let test = database().await;
    let mut db = test.pool().acquire().await.unwrap();
    let mut tx = db.begin().await.unwrap();
    let role = format!("least_{}", std::process::id());
    run(
        &mut tx,
        &format!("create role {role}; {} set local role {role}", grants(&host(), &role)),
    )
    .await;
    assert_eq!(complaints(&mut tx).await, []);
    let more: bool = sqlx::query_scalar(
        "select has_table_privilege('\"app-1\".tasks', 'delete') or has_table_privilege('\"app-1\".tasks', 'select')
             or has_column_privilege('\"app-1\".tasks', 'title', 'update')",
    )
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    assert!(!more);
}

#[tokio::test]
async fn a_finding_as_json() {
    let test = database().await;
    let mut db = test.pool().acquire().await.unwrap();
    run(&mut db, "alter table host.tasks drop column sla_hours").await;
    let findings = serde_json::to_value(complaints(&mut db).await).unwrap();
    assert_eq!(
        findings,
        serde_json::json!([{
            "severity": "problem",
            "subject": "tasks.sla_hours",
            "what": "the column is missing",
            "cure": "alter table \"app-1\".\"tasks\" add column sla_hours integer;",
            "neededBy": ["check-sla-and-overdue", "analytics-snapshot"],
        }])
    );
}
