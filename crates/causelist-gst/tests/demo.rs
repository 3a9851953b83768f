//! The demo practice: the same every time, whole or not at all, and in each firm something of every
//! kind for every job, at whatever hour it's loaded.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use causelist_gst::Host;
use causelist_gst::demo::{self, DemoError, DemoSummary, TENANTS};
use causelist_testkit::TestDb;
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use uuid::Uuid;

const SEED: u64 = 7;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

async fn load(db: &mut PgConnection, now: DateTime<Utc>, seed: u64) -> (Host, DemoSummary) {
    let host = Host::new("practice").unwrap();
    host.create_tables(db).await.unwrap();
    let summary = demo::load(&host, db, now, seed).await.unwrap();
    (host, summary)
}

/// Table name to (rows, hash of the rows): all of the host's tables and the tenants' settings.
async fn contents(db: &mut PgConnection) -> BTreeMap<String, (i64, String)> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I.%I', schemaname, tablename) from pg_tables
          where schemaname = 'practice' or tablename = 'tenant_setting'",
    )
    .fetch_all(&mut *db)
    .await
    .unwrap();
    let mut contents = BTreeMap::new();
    for table in tables {
        let sql =
            format!("select count(*), coalesce(md5(string_agg(r::text, '|' order by r::text)), '') from {table} r");
        let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut *db).await.unwrap();
        contents.insert(table, (row.get(0), row.get(1)));
    }
    contents
}

#[tokio::test]
async fn is_as_large_as_promised_and_loaded_once() {
    let test = TestDb::new().await;
    let mut db = test.pool().acquire().await.unwrap();
    let now = at("2026-11-23T06:30:00Z");
    let (host, summary) = load(&mut db, now, SEED).await;
    assert_eq!(summary.tenants.len(), 3);
    for (what, count, about) in [
        ("members", summary.members, 40),
        ("cases", summary.cases, 400),
        ("hearings", summary.hearings, 300),
        ("tasks", summary.tasks, 3000),
    ] {
        assert!(
            count.abs_diff(about) * 20 <= about,
            "{what}: {count}, expected about {about}"
        );
    }
    let before = contents(&mut db).await;
    assert_eq!(before["practice.tasks"].0, i64::try_from(summary.tasks).unwrap());
    assert_eq!(before["causelist.tenant_setting"].0, 3);

    let error = demo::load(&host, &mut db, at("2026-11-24T00:00:00Z"), 8)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, DemoError::AlreadyThere(name) if TENANTS.iter().any(|t| t.name == name)),
        "{error}"
    );
    assert_eq!(contents(&mut db).await, before);
}

#[tokio::test]
async fn the_same_seed_and_instant_give_the_same_rows() {
    let now = at("2026-11-23T06:30:00.123456789Z");
    let mut all = Vec::new();
    for seed in [SEED, SEED, SEED + 1] {
        let test = TestDb::new().await;
        let mut db = test.pool().acquire().await.unwrap();
        load(&mut db, now, seed).await;
        all.push(contents(&mut db).await);
    }
    assert_eq!(all[0], all[1]);
    assert_ne!(all[0]["practice.tasks"], all[2]["practice.tasks"]);
    assert_eq!(all[0]["practice.tenants"], all[2]["practice.tenants"]);
}

#[tokio::test]
async fn is_whole_or_not_at_all() {
    let test = TestDb::new().await;
    let mut db = test.pool().acquire().await.unwrap();
    let host = Host::new("practice").unwrap();
    let now = at("2026-11-23T06:30:00Z");
    let error = demo::load(&host, &mut db, now, SEED).await.unwrap_err();
    assert!(matches!(error, DemoError::Database(_)), "{error}");

    host.create_tables(&mut db).await.unwrap();
    // What is loaded last fails.
    sqlx::query("alter table practice.analytics_snapshots add check (metric_type <> 'daily_snapshot')")
        .execute(&mut *db)
        .await
        .unwrap();
    let before = contents(&mut db).await;
    demo::load(&host, &mut db, now, SEED).await.unwrap_err();
    assert_eq!(contents(&mut db).await, before);
}

#[tokio::test]
async fn reaches_nobody_outside() {
    let test = TestDb::new().await;
    let mut db = test.pool().acquire().await.unwrap();
    load(&mut db, at("2026-11-23T06:30:00Z"), SEED).await;
    let strange: Vec<String> = sqlx::query_scalar(
        "select a from (select email from practice.employees union all
                        select official_email from practice.employees union all
                        select email from practice.clients) e (a)
          where a <> '' and a !~ '^[a-z0-9.]+@example[.](in|com)$'
         union all
         select phone from practice.profiles where phone !~ '^[+]91 00000 '
         union all
         select gstin from practice.clients where gstin is null or gstin !~ '^[0-3][0-9]ZZ[A-Z]{3}[0-9]{4}[A-Z]1Z[0-9A-Z]$'",
    )
    .fetch_all(&mut *db)
    .await
    .unwrap();
    assert_eq!(strange, Vec::<String>::new());
}

/// What the jobs must find: a name, a query of (tenant, kind) at the instant $1, and the kinds that
/// each tenant must have at least one of.
const SITUATIONS: &[(&str, &str, &[&str])] = &[
    (
        "members in all roles",
        "select p.tenant_id, r.role::text from practice.user_roles r join practice.profiles p on p.id = r.user_id
          where r.is_active and $1 is not null",
        &["partner", "admin", "manager", "ca", "advocate", "staff", "clerk", "client"],
    ),
    (
        "tasks past due that are not marked yet, by priority and how late",
        "select tenant_id, priority || case when due_date < $1 - interval '24 hours' then ' day' else ' hours' end
           from practice.tasks where due_date < $1 and status not in ('Completed', 'Cancelled', 'Overdue')",
        &["Critical day", "Critical hours", "High day", "High hours", "Medium day", "Medium hours", "Low day", "Low hours"],
    ),
    (
        "tasks past due by open status",
        "select tenant_id, status from practice.tasks where due_date < $1",
        &["Open", "Not Started", "In Progress", "Need Info", "On Hold", "Review", "Overdue", "Completed", "Cancelled"],
    ),
    (
        "SLA levels by priority and by how the target is found",
        "with s (priority, allowance, warning, critical) as
              (values ('Critical', 8, 4, 2), ('High', 48, 24, 12), ('Medium', 120, 72, 30), ('Low', 240, 168, 60)),
          t as (select t.tenant_id, t.priority, s.warning, s.critical,
                  case when sla_hours is not null then 'hours' when due_date is not null then 'due' else 'allowance' end as way,
                  coalesce(created_at + make_interval(hours => sla_hours), due_date,
                           created_at + make_interval(hours => s.allowance)) - $1 as time_left
             from practice.tasks t join s using (priority) where status not in ('Completed', 'Cancelled', 'Overdue'))
         select tenant_id, priority || ' ' || way || ' ' || case when time_left <= interval '0' then 'violated'
             when time_left <= make_interval(hours => critical) then 'critical'
             when time_left <= make_interval(hours => warning) then 'warning' else 'none' end from t",
        &[
            "Critical hours violated", "Critical hours critical", "Critical hours warning",
            "Critical due violated", "Critical due critical", "Critical due warning",
            "Critical allowance violated", "Critical allowance critical", "Critical allowance warning",
            "High hours violated", "High hours critical", "High hours warning",
            "High due violated", "High due critical", "High due warning",
            "High allowance violated", "High allowance critical", "High allowance warning",
            "Medium hours violated", "Medium hours critical", "Medium hours warning",
            "Medium due violated", "Medium due critical", "Medium due warning",
            "Medium allowance violated", "Medium allowance critical", "Medium allowance warning",
            "Low hours violated", "Low hours critical", "Low hours warning",
            "Low due violated", "Low due critical", "Low due warning",
            "Low allowance violated", "Low allowance critical", "Low allowance warning",
        ],
    ),
    (
        "hearings by the tenant's own day",
        "select h.tenant_id, lower(h.status) || ' ' ||
                ((h.hearing_date at time zone s.zone)::date - ($1 at time zone s.zone)::date)
           from practice.hearings h join causelist.tenant_setting s on s.tenant = h.tenant_id",
        &["scheduled 0", "scheduled 1", "scheduled 3", "scheduled 7", "cancelled 0", "cancelled 1", "adjourned 1"],
    ),
    (
        "hearings to remind of: with and without a court's row, judge, client, owner, assignee",
        "select h.tenant_id, k from practice.hearings h join practice.cases c on c.id = h.case_id
           join causelist.tenant_setting s on s.tenant = h.tenant_id
           left join practice.clients k on k.id = c.client_id,
         lateral (values (case when court_id is null then 'no court' else 'court' end),
             (case when judge_name is null then 'no judge' else 'judge' end),
             (case when client_id is null then 'no client' when k.email is null then 'client, null e-mail'
                   when k.email = '' then 'client, empty e-mail' else 'client' end),
             (case when c.owner_id is null then 'no owner' when c.owner_id = c.assigned_to then 'one for both' else 'owner' end),
             (case when c.assigned_to is null then 'no assignee' else 'assignee' end)) v (k)
          where lower(h.status) = 'scheduled'
            and (h.hearing_date at time zone s.zone)::date - ($1 at time zone s.zone)::date in (0, 1)",
        &["court", "no court", "judge", "no judge", "client", "no client", "client, null e-mail",
          "client, empty e-mail", "owner", "no owner", "one for both", "assignee", "no assignee"],
    ),
    (
        "those to remind, by e-mail, in-app and hearing reminders, and by address",
        "select h.tenant_id, v.k from practice.hearings h join practice.cases c on c.id = h.case_id
           join causelist.tenant_setting s on s.tenant = h.tenant_id
           join practice.employees e on e.id in (c.owner_id, c.assigned_to)
           join practice.notification_preferences p on p.user_id = e.id,
         lateral (values (concat(p.email_enabled, p.in_app_enabled, p.hearing_reminders)),
             (case when e.email = '' then 'no address' when e.official_email is null then 'private' else 'official' end),
             (case when p.quiet_hours_start is null then 'never quiet'
                   when p.quiet_hours_start > p.quiet_hours_end then 'quiet over midnight' else 'quiet' end),
             ('days ' || p.reminder_days::text)) v (k)
          where lower(h.status) = 'scheduled'
            and (h.hearing_date at time zone s.zone)::date - ($1 at time zone s.zone)::date in (0, 1, 3)",
        &["ttt", "ttf", "tft", "tff", "ftt", "ftf", "fft", "fff", "no address", "private", "official",
          "never quiet", "quiet", "quiet over midnight", "days {3,1,0}", "days {0}", "days {1}", "days {}", "days {1,0}"],
    ),
    (
        "hearings of the past by outcome",
        "select tenant_id, lower(status) from practice.hearings where hearing_date < $1 - interval '2 days'",
        &["concluded", "completed", "adjourned", "no-board", "scheduled"],
    ),
    (
        "due within 24 hours: tasks and hearings",
        "select tenant_id, priority from practice.tasks where due_date > $1 and due_date <= $1 + interval '24 hours'
             and status not in ('Completed', 'Cancelled')
         union all select tenant_id, 'hearing' from practice.hearings
          where lower(status) = 'scheduled' and hearing_date > $1 and hearing_date <= $1 + interval '24 hours'",
        &["Critical", "High", "Medium", "Low", "hearing"],
    ),
    (
        "those with something due, by e-mail, in-app and task reminders",
        "select t.tenant_id, concat(p.email_enabled, p.in_app_enabled, p.task_reminders)
           from practice.tasks t join practice.notification_preferences p on p.user_id = t.assigned_to
          where due_date > $1 and due_date <= $1 + interval '24 hours' and status not in ('Completed', 'Cancelled')",
        &["ttt", "ttf", "tft", "tff", "ftt", "ftf", "fft", "fff"],
    ),
    (
        "statutory deadlines, extended or not",
        "select d.tenant_id, d.status || case when extension_deadline is null then ' ' else ' extended ' end ||
                (coalesce(extension_deadline, calculated_deadline) - ($1 at time zone s.zone)::date)
           from practice.case_statutory_deadlines d join causelist.tenant_setting s on s.tenant = d.tenant_id",
        &["pending 7", "pending 3", "pending 1", "pending 0", "pending extended 7", "pending extended 3",
          "pending extended 1", "pending extended 0", "pending extended 20", "completed 7", "completed 0", "pending 2"],
    ),
    (
        "rules by health over the last 24 hours",
        "select r.tenant_id, v.k from practice.automation_rules r
           left join lateral (select count(*) as n, count(*) filter (where status = 'success') as good,
                                     count(*) filter (where status = 'failed') as bad
                                from practice.automation_logs l
                               where l.rule_id = r.id and executed_at > $1 - interval '24 hours' and executed_at <= $1) l on true,
         lateral (values (case when bad > 0.2 * n then 'degraded' end), (case when good < 0.8 * n then 'below 80 %' end),
             (case when good < 0.8 * n and bad = 0 then 'below 80 % without a failure' end),
             (case when n > 0 and good = n then 'healthy' end),
             (case when is_active and coalesce(last_triggered, '-infinity') < $1 - interval '48 hours' then 'inactive' end)) v (k)
          where v.k is not null",
        &["degraded", "below 80 %", "below 80 % without a failure", "healthy", "inactive"],
    ),
    (
        "the log as a whole",
        "select tenant_id, case when avg((status = 'success')::int) filter (where executed_at > $1 - interval '24 hours') < 0.95
             then 'below 95 %' end from practice.automation_logs where executed_at <= $1 group by 1
         union all select tenant_id, 'third day' from practice.automation_logs
          where executed_at < $1 - interval '48 hours' and executed_at > $1 - interval '72 hours'",
        &["below 95 %", "third day"],
    ),
    (
        "snapshots of each of the last ten days",
        "select a.tenant_id, metric_type || ' ' || (($1 at time zone s.zone)::date - snapshot_date)
           from practice.analytics_snapshots a join causelist.tenant_setting s on s.tenant = a.tenant_id",
        &["daily_snapshot 1", "daily_snapshot 7", "daily_snapshot 10", "case_count 1", "task_completion_rate 7",
          "sla_compliance_rate 3", "hearing_attendance_rate 3", "document_count 2", "overdue_tasks 10"],
    ),
    (
        "rules and bundles by trigger",
        "select tenant_id, trigger_type from practice.automation_rules where is_active and $1 is not null
         union all select tenant_id, trigger from practice.escalation_rules where is_active
         union all select tenant_id, 'items' from practice.task_bundle_items",
        &["case_created", "case_stage_changed", "hearing_scheduled", "document_uploaded", "task_overdue",
          "critical_sla", "client_deadline", "items"],
    ),
    (
        "cases by status as it is written",
        "select tenant_id, status from practice.cases where $1 is not null",
        &["open", "Active", "ACTIVE", "Completed", "completed"],
    ),
    (
        "holidays of the nation and of the states",
        "select h.tenant_id, case h.state when 'ALL' then 'national' when s.state then 'own' else 'other' end
           from practice.holidays h join causelist.tenant_setting s on s.tenant = h.tenant_id
          where extract(year from date) = 2026 and $1 is not null",
        &["national", "own", "other"],
    ),
];

#[tokio::test]
async fn every_firm_has_every_situation_at_any_hour() {
    let test = TestDb::new().await;
    let mut db = test.pool().acquire().await.unwrap();
    let host = Host::new("practice").unwrap();
    host.create_tables(&mut db).await.unwrap();
    for now in [
        "2026-11-23T06:30:00Z",
        // Just before and after midnight in India; the same in London, on a Sunday.
        "2026-05-20T18:29:00Z",
        "2026-05-20T18:31:00Z",
        "2026-07-12T22:59:30Z",
        "2026-07-12T23:00:00Z",
        // The nights on which London's clocks change.
        "2026-03-29T00:30:00Z",
        "2026-10-25T00:30:00Z",
        // Years without the listed holidays; a leap day.
        "2028-02-29T12:00:00Z",
    ] {
        let mut tx = db.begin().await.unwrap();
        demo::load(&host, &mut tx, at(now), SEED).await.unwrap();
        for (what, sql, expected) in SITUATIONS {
            let found: Vec<(Uuid, Option<String>)> = sqlx::query_as(*sql)
                .bind(at(now))
                .fetch_all(&mut *tx)
                .await
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            for tenant in TENANTS {
                let missing: Vec<_> = expected
                    .iter()
                    .filter(|kind| {
                        !found
                            .iter()
                            .any(|(id, k)| *id == tenant.id && k.as_deref() == Some(kind))
                    })
                    .collect();
                assert!(
                    missing.is_empty(),
                    "{what}: {} lacks {missing:?} at {now}, seed {SEED}",
                    tenant.name
                );
            }
        }
        tx.rollback().await.unwrap();
    }
}
