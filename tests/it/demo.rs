//! `causelist demo`, from outside: ready, right, repeatable, and gone when it is stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::program::{Demo, call, demo, http, run};

mod start;

const JOBS: [&str; 5] = [
    "check-sla-and-overdue",
    "send-hearing-reminders",
    "analytics-snapshot",
    "check-upcoming-deadlines",
    "automation-health-check",
];

/// A hash of every row of the host's tables and of what jobs leave behind.
async fn everything(db: &mut PgConnection) -> BTreeMap<String, String> {
    let tables: Vec<(String, String)> = sqlx::query_as(
        "select schemaname::text, tablename::text from pg_tables
         where schemaname = 'public' or (schemaname, tablename) in
               (('causelist','event'), ('causelist','message'), ('causelist','audit_mark'))",
    )
    .fetch_all(&mut *db)
    .await
    .expect("tables");
    let mut hashes = BTreeMap::new();
    for (schema, table) in tables {
        let sql = format!(
            "select coalesce(md5(string_agg(md5(t::text), '' order by t::text)), '') from \"{schema}\".\"{table}\" t"
        );
        let hash: String = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&mut *db)
            .await
            .expect("a hash");
        hashes.insert(format!("{schema}.{table}"), hash);
    }
    hashes
}

/// Counts by hand, in SQL of their own, what each job is about to find at `$1` (for tenant `$2`).
async fn by_hand(db: &mut PgConnection, kind: &str, at: &str, tenant: Option<&str>) -> Value {
    let sql = match kind {
        "check-sla-and-overdue" => {
            "with open as (
                 select t.id, t.status, t.due_date,
                        coalesce(t.created_at + t.sla_hours * interval '1 hour', t.due_date,
                                 t.created_at + (case t.priority when 'Critical' then 8 when 'High' then 48
                                                 when 'Medium' then 120 else 240 end) * interval '1 hour') as target
                 from tasks t join tenants f on f.id = t.tenant_id and f.is_active
                 where t.status not in ('Completed', 'Cancelled') and ($2::text is null or t.tenant_id::text = $2))
             select jsonb_build_object(
                 'overdueTasks', count(*) filter (where due_date < $1::text::timestamptz and status <> 'Overdue'),
                 'slaViolations', count(*) filter (where target <= $1::text::timestamptz and not exists (
                     select from causelist.event e
                     where e.entity_id = open.id and e.type = 'sla_violation' and e.occasion = open.target)))
             from open"
        }
        "send-hearing-reminders" => {
            "select jsonb_build_object('hearingsProcessed', count(*) filter (where days in (0, 1)),
                                       'further', count(*) filter (where days > 1))
             from (select (h.hearing_date at time zone z.zone)::date
                          - ($1::text::timestamptz at time zone z.zone)::date as days
                   from hearings h join causelist.tenant_setting z on z.tenant = h.tenant_id
                   where lower(h.status) = 'scheduled' and ($2::text is null or h.tenant_id::text = $2)) x"
        }
        "analytics-snapshot" => {
            "select jsonb_build_object('metricsCount', 6 * count(*)) from tenants
             where is_active and ($2::text is null or id::text = $2) and $1::text is not null"
        }
        "check-upcoming-deadlines" => {
            "select jsonb_build_object(
                 'upcomingTasks', (select count(*) from tasks where status not in ('Completed', 'Cancelled')
                                   and due_date > $1::text::timestamptz
                                   and due_date <= $1::text::timestamptz + interval '1 day'
                                   and ($2::text is null or tenant_id::text = $2)),
                 'upcomingHearings', (select count(*) from hearings where lower(status) = 'scheduled'
                                   and hearing_date > $1::text::timestamptz
                                   and hearing_date <= $1::text::timestamptz + interval '1 day'
                                   and ($2::text is null or tenant_id::text = $2)))"
        }
        _ => {
            "select jsonb_build_object(
                 'totalRules', (select count(*) from automation_rules where $2::text is null or tenant_id::text = $2),
                 'successRate', round(100.0 * count(*) filter (where status = 'success') / nullif(count(*), 0), 2),
                 'degradedRules', (select count(*) from (
                     select rule_id from automation_logs
                     where executed_at > $1::text::timestamptz - interval '1 day'
                       and executed_at <= $1::text::timestamptz and ($2::text is null or tenant_id::text = $2)
                     group by rule_id having 5 * count(*) filter (where status = 'failed') > count(*)) d))
             from automation_logs
             where executed_at > $1::text::timestamptz - interval '1 day' and executed_at <= $1::text::timestamptz
               and ($2::text is null or tenant_id::text = $2)"
        }
    };
    sqlx::query_scalar(sql)
        .bind(at)
        .bind(tenant)
        .fetch_one(db)
        .await
        .expect("counts")
}

fn documented(kind: &str) -> &'static [&'static str] {
    match kind {
        "check-sla-and-overdue" => &["overdueTasks", "slaViolations", "rulesTriggered"],
        "send-hearing-reminders" => &["hearingsProcessed", "notificationsSent", "failedNotifications"],
        "analytics-snapshot" => &["metricsCount", "anomalyDetected"],
        "check-upcoming-deadlines" => &["upcomingTasks", "upcomingHearings"],
        _ => &["totalRules", "successRate", "degradedRules"],
    }
}

fn same(kind: &str, got: &Value, counted: &Value) {
    for (name, count) in counted.as_object().expect("an object") {
        if name != "further" {
            assert_eq!(got[name].as_f64(), count.as_f64(), "{kind} {name}: {got}");
        }
    }
}

#[tokio::test]
async fn every_function_answers_rightly_once_and_a_dry_run_foretells_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let demo = demo(dir.path());
    assert!(demo.took < Duration::from_secs(60), "ready after {:?}", demo.took);
    let mut db = PgConnection::connect(&demo.database_url).await.expect("connects");
    // No schedule may come between the counts and the calls.
    sqlx::query("update causelist.schedule set paused = true")
        .execute(&mut db)
        .await
        .expect("runs");
    let tenants: Vec<(String, String)> = sqlx::query_as(
        "select distinct on (zone) tenant::text, zone from causelist.tenant_setting order by zone, tenant",
    )
    .fetch_all(&mut db)
    .await
    .expect("tenants");
    assert!(tenants.len() >= 2, "tenants in two zones at least");
    // Tomorrow, and the day after for the whole fleet: much will have come due.
    for (days, tenant) in [(1, Some(&tenants[0].0)), (1, Some(&tenants[1].0)), (2, None)] {
        let tenant = tenant.map(String::as_str);
        for kind in JOBS {
            // The automation log ends today.
            let hours = if kind == "automation-health-check" {
                days
            } else {
                days * 26
            };
            let at = hence(&mut db, hours).await;
            wait_for_mail(&mut db).await;
            let counted = by_hand(&mut db, kind, &at, tenant).await;
            let before = everything(&mut db).await;
            let body = |dry: bool| json!({ "executedAt": at, "tenant": tenant, "dryRun": dry }).to_string();
            let (status, dry) = call(&demo, kind, &body(true));
            assert_eq!((status, &dry["success"]), (200, &json!(true)), "{dry}");
            assert_eq!(everything(&mut db).await, before, "{kind}: a dry run changed something");
            let (status, answer) = call(&demo, kind, &body(false));
            assert_eq!(
                (status, &answer["success"], &answer["job"]),
                (200, &json!(true), &json!(kind)),
                "{answer}"
            );
            assert_eq!(answer["executedAt"], at.as_str());
            assert!(
                answer["executionTime"].as_str().is_some_and(|t| t.ends_with('s')),
                "{answer}"
            );
            for field in documented(kind) {
                assert!(!answer["results"][field].is_null(), "{kind} {field}: {answer}");
                assert_eq!(
                    answer["results"][field], answer[field],
                    "{kind} shows {field} at the top too"
                );
                assert_eq!(
                    dry["results"]["plan"][field], answer[field],
                    "{kind}: the plan foretold {field}"
                );
            }
            same(kind, &answer["results"], &counted);
        }
    }
    // The same again, for an instant at which all have run: nothing changes, nothing is sent.
    let last = hence(&mut db, 53).await;
    for kind in JOBS {
        call(&demo, kind, &json!({ "executedAt": last }).to_string());
    }
    wait_for_mail(&mut db).await;
    let before = everything(&mut db).await;
    let mails = mails(dir.path());
    assert!(mails > 0, "the demo caught mail");
    assert!(
        mail_has(dir.path(), &format!("{}/links/", demo.url)),
        "links lead to the port that was really taken"
    );
    for kind in JOBS {
        let (status, answer) = call(&demo, kind, &json!({ "executedAt": last }).to_string());
        assert_eq!(status, 200, "{answer}");
    }
    wait_for_mail(&mut db).await;
    assert_eq!(everything(&mut db).await, before, "a second run changed something");
    assert_eq!(self::mails(dir.path()), mails, "a second run sent something");
    db.close().await.expect("closes");
    stops(demo).await;
}

/// The instant this many hours from now, as the functions take it.
async fn hence(db: &mut PgConnection, hours: i32) -> String {
    sqlx::query_scalar(
        "select to_char((now() + $1 * interval '1 hour') at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')",
    )
    .bind(hours)
    .fetch_one(db)
    .await
    .expect("a time")
}

/// Waits until no delivery is under way.
async fn wait_for_mail(db: &mut PgConnection) {
    let deadline = tokio::time::Instant::now() + crate::program::PATIENCE;
    loop {
        let quiet: bool = sqlx::query_scalar(
            "select not exists (select from causelist.ready where queue = 'delivery')
                and not exists (select from causelist.claim where queue = 'delivery')
                and not exists (select from causelist.message where state = 'reserved' and coalesce(not_before, now()) <= now())",
        )
        .fetch_one(&mut *db)
        .await
        .expect("answers");
        if quiet {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "mail does not leave");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn mails(dir: &std::path::Path) -> usize {
    std::fs::read_dir(dir.join("mail/new")).map_or(0, Iterator::count)
}

/// Whether any mail has this text, its lines put together again.
fn mail_has(dir: &std::path::Path, text: &str) -> bool {
    let mails = std::fs::read_dir(dir.join("mail/new")).expect("mail");
    mails.flatten().any(|mail| {
        let mail = std::fs::read_to_string(mail.path()).expect("a mail");
        mail.replace("=\r\n", "").replace("=\n", "").contains(text)
    })
}

async fn stops(demo: Demo) {
    let url = demo.database_url.clone();
    demo.process.signal("TERM");
    let (code, said) = demo.process.wait();
    assert_eq!(code, Some(0), "{said}");
    assert!(PgConnection::connect(&url).await.is_err(), "PostgreSQL has ended too");
}

#[tokio::test]
async fn a_second_start_finds_its_data_and_a_crashed_one_heals() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = demo(dir.path());
    let made = |demo: &Demo| {
        let url = demo.database_url.clone();
        async move {
            let mut db = PgConnection::connect(&url).await.expect("connects");
            let jobs: i64 = sqlx::query_scalar("select count(*) from causelist.job")
                .fetch_one(&mut db)
                .await
                .expect("a count");
            let tasks: i64 = sqlx::query_scalar("select count(*) from tasks")
                .fetch_one(&mut db)
                .await
                .expect("a count");
            (jobs, tasks)
        }
    };
    let (jobs, tasks) = made(&first).await;
    assert!(jobs >= 5);
    // As a power cut would: the demo dies without a word, PostgreSQL is left alone.
    first.process.signal("KILL");
    assert_eq!(first.process.wait().0, None);
    let second = demo(dir.path());
    let (more, same) = made(&second).await;
    assert!(
        more >= jobs + 5,
        "the earlier jobs are there, and five more: {jobs}, {more}"
    );
    assert_eq!(same, tasks, "the practice was not loaded twice");
    let (status, answer) = call(&second, "analytics-snapshot", "");
    assert_eq!(status, 200, "{answer}");
    second.process.signal("INT");
    let (code, said) = second.process.wait();
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn the_ports_refuse_what_is_wrong_and_tell_how_it_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let demo = demo(dir.path());
    let url = |path: &str| format!("{}{path}", demo.url);
    let key = [("Authorization", format!("Bearer {}", demo.api_key))];
    let key: Vec<(&str, &str)> = key.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let post = |path: &str, headers: &[(&str, &str)], body: &[u8]| {
        let (status, head, body) = http("POST", &url(path), headers, body);
        (status, head, String::from_utf8_lossy(&body).into_owned())
    };
    let kind = "/functions/v1/check-sla-and-overdue";
    let (status, _, body) = post(kind, &[], b"");
    let said: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (status, &said["error"], &said["success"]),
        (401, &json!("Unauthorized"), &json!(false))
    );
    assert_eq!(post(kind, &[("x-api-key", "cl_no_such_key")], b"").0, 401);
    let (status, _, body) = post("/functions/v1/no-such-kind", &key, b"");
    assert!(status == 404 && body.contains("no-such-kind"), "{status} {body}");
    for (bad, word) in [
        (&b"{oops"[..], "not JSON"),
        (b"[]", "JSON object"),
        (br#"{"executedAt": "yesterday"}"#, "yesterday"),
        (br#"{"executedAt": 12}"#, "12"),
        (br#"{"executedAt": "2099-01-15T10:30:00Z"}"#, "2099"),
        (br#"{"tenant": "acme"}"#, "acme"),
        (br#"{"dryRun": "maybe"}"#, "maybe"),
        (br#"{"executedAd": "2025-01-15T10:30:00Z"}"#, "executedAd"),
        (b"{\"executedAt\": \"2025-01-15T10:30:00Z\xff\"}", "JSON"),
    ] {
        let (status, _, body) = post(kind, &key, bad);
        assert!(status == 400 && body.contains(word), "{status} {body}");
    }
    let stranger = br#"{"tenant": "00000000-0000-4000-8000-00000000dead"}"#;
    let (status, _, body) = post(kind, &key, stranger);
    assert!(status == 404 && body.contains("00000000dead"), "{status} {body}");
    let large = format!("{{\"executedAt\": \"{}\"}}", "x".repeat(10 * 1024 * 1024));
    let (status, _, body) = post(kind, &key, large.as_bytes());
    assert!((400..500).contains(&status), "{status} {body}");
    let jobs_before = run(
        &demo.database_url,
        &[
            "jobs",
            "list",
            "--json",
            "--limit",
            "1000",
            "--kind",
            "check-sla-and-overdue",
        ],
    );
    let count = |output: &std::process::Output| {
        serde_json::from_slice::<Vec<Value>>(&output.stdout)
            .expect("a list")
            .len()
    };
    let dry = r#"{"dryRun": true}"#;
    let (status, _, body) = post(kind, &[("x-api-key", &demo.api_key)], dry.as_bytes());
    assert_eq!(status, 200, "{body}");
    let jobs_after = run(
        &demo.database_url,
        &[
            "jobs",
            "list",
            "--json",
            "--limit",
            "1000",
            "--kind",
            "check-sla-and-overdue",
        ],
    );
    assert!(count(&jobs_after) > count(&jobs_before));
    // A run has an address; a preflight is answered; health and metrics are on their ports.
    let id = serde_json::from_str::<Value>(&body).expect("JSON")["runId"]
        .as_str()
        .expect("an id")
        .to_owned();
    let (status, _, job) = http("GET", &url(&format!("/api/v1/jobs/{id}")), &key, b"");
    assert_eq!(status, 200);
    assert_eq!(serde_json::from_slice::<Value>(&job).expect("JSON")["state"], "done");
    assert_eq!(http("GET", &url(&format!("/api/v1/jobs/{id}")), &[], b"").0, 401);
    assert_eq!(http("GET", &url("/api/v1/jobs/12"), &key, b"").0, 404);
    assert_eq!(http("GET", &url("/nothing/here"), &key, b"").0, 404);
    let preflight = [
        ("Origin", "https://host.example"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization"),
    ];
    let (status, head, _) = http("OPTIONS", &url(kind), &preflight, b"");
    assert!(
        status == 200 && head.to_ascii_lowercase().contains("access-control-allow-origin: *"),
        "{head}"
    );
    assert_eq!(http("GET", &url("/healthz"), &[], b"").0, 200);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(
            http("GET", &format!("{}{path}", demo.admin_url), &[], b"").0,
            200,
            "{path}"
        );
    }
    let (_, _, metrics) = http("GET", &format!("{}/metrics", demo.admin_url), &[], b"");
    let metrics = String::from_utf8_lossy(&metrics);
    for name in [
        "causelist_jobs_enqueued_total{",
        "causelist_jobs_finished_total{",
        "causelist_job_run_seconds_bucket{",
        "causelist_job_wait_seconds_bucket{",
        "causelist_queue_depth{",
        "causelist_queue_oldest_ready_age_seconds{",
        "causelist_schedule_last_success_timestamp_seconds{",
        "causelist_notifications_total{",
        "causelist_notifications_unknown ",
        "causelist_db_pool_connections{",
        "causelist_build_info{",
    ] {
        assert!(metrics.contains(name), "{name} is not in the metrics:\n{metrics}");
    }
    for word in ["tenant=", "job_id="] {
        assert!(!metrics.contains(word), "no {word} in a label");
    }
}

#[test]
fn a_tenants_key_reaches_its_own_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let demo = demo(dir.path());
    let list = crate::program::json(
        &demo.database_url,
        &["schedules", "list", "--kind", "analytics-snapshot"],
    );
    let tenants: Vec<&str> = list
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|s| s["tenant"].as_str())
        .collect();
    assert_eq!(tenants.len(), 3);
    let key = crate::program::json(
        &demo.database_url,
        &["keys", "create", "office", "--tenant", tenants[0]],
    );
    let key = key["api_key"].as_str().expect("a key");
    let url = format!("{}/functions/v1/analytics-snapshot", demo.url);
    let other = json!({ "tenant": tenants[1] }).to_string();
    assert_eq!(http("POST", &url, &[("x-api-key", key)], other.as_bytes()).0, 404);
    let (status, _, body) = http("POST", &url, &[("x-api-key", key)], b"");
    let answer: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((status, &answer["metricsCount"]), (200, &json!(6)), "{answer}");
    let told: Vec<&str> = answer["tenants"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|t| t["tenant"].as_str())
        .collect();
    assert_eq!(told, [tenants[0]], "no other tenant's figures");
    // The whole fleet's run is not this tenant's to see.
    let (_, fleet) = call(&demo, "analytics-snapshot", "");
    let run = fleet["runId"].as_str().expect("an id");
    let address = format!("{}/api/v1/jobs/{run}", demo.url);
    assert_eq!(http("GET", &address, &[("x-api-key", key)], b"").0, 404);
    assert_eq!(http("GET", &address, &[("x-api-key", &demo.api_key)], b"").0, 200);
}
