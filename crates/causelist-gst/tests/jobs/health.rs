//! automation-health-check at its boundaries.

use serde_json::{Value, json};

use crate::fixture::{A, B, Desk, member};

const KIND: &str = "automation-health-check";
const NOW: &str = "2026-03-10T07:00:00Z";

/// A rule with this many successful and failed executions an hour ago.
async fn rule(desk: &Desk, name: &str, good: u32, bad: u32, last: &str) {
    desk.sql(&format!(
        "with r as (insert into host.automation_rules (tenant_id, name, trigger_type, last_triggered, created_at)
                    values ('{A}', '{name}', 'task_overdue', {last}, '2026-01-01') returning id)
         insert into host.automation_logs (tenant_id, rule_id, rule_name, status, executed_at)
         select '{A}', r.id, '{name}', case when n <= {good} then 'success' else 'failed' end, timestamptz '{NOW}' - interval '1 hour'
         from r, generate_series(1, {good} + {bad}) n"
    ))
    .await;
}

async fn alerts(desk: &Desk) -> String {
    desk.value(
        "select string_agg(distinct concat_ws(' ', data ->> 'level', data ->> 'ruleName', data ->> 'successRate'), ', ')
         from causelist.message where template = 'health-alert'",
    )
    .await
}

#[tokio::test]
async fn alerts_at_the_documented_limits_once_a_day() {
    let desk = Desk::firms().await;
    rule(&desk, "at 80", 80, 20, "'2026-03-10T06:00:00Z'").await;
    rule(&desk, "below 80", 79, 21, "'2026-03-10T06:00:00Z'").await;
    rule(&desk, "at 48 hours", 0, 0, "'2026-03-08T07:00:00Z'").await;
    rule(&desk, "silent", 0, 0, "'2026-03-08T06:59:59Z'").await;
    rule(&desk, "never", 0, 0, "null").await;
    desk.sql(&format!(
        "insert into host.automation_rules (tenant_id, name, trigger_type, created_at) values ('{A}', 'new', 'x', timestamptz '{NOW}' - interval '1 day');
         insert into host.automation_rules (tenant_id, name, trigger_type, created_at, is_active) values ('{A}', 'off', 'x', '2026-01-01', false);
         insert into host.automation_logs (tenant_id, status, executed_at) values
           ('{A}', 'failed', timestamptz '{NOW}' - interval '24 hours'), ('{A}', 'failed', timestamptz '{NOW}' + interval '1 second')"
    ))
    .await;
    let plan = desk.plan(KIND, Some(A), NOW).await;
    let report = desk.run(KIND, Some(A), NOW).await;
    assert_eq!(report["totalRules"], 7, "{report}");
    assert_eq!(report["successRate"], 79.5);
    assert_eq!(report["degradedRules"], 1);
    assert_eq!(report["inactiveRules"], 2);
    assert_eq!(report["tenants"][0]["degraded"], json!(["below 80"]));
    assert_eq!(report["tenants"][0]["inactive"], json!(["never", "silent"]));
    assert_eq!(
        alerts(&desk).await,
        "CRITICAL below 80 79.00, INFO 79.50, WARNING never, WARNING silent"
    );
    // One admin, by mail and in-app.
    assert_eq!(
        (&report["notificationsSent"], &plan["notificationsSent"]),
        (&json!(8), &json!(8))
    );
    let admin = member(A, 4);
    assert!(
        desk.told("health-alert")
            .await
            .iter()
            .all(|who| who.starts_with(&format!("user:{admin} ")))
    );
    let stored: Value = serde_json::from_str(
        &desk
            .value("select metric_value from host.analytics_snapshots where metric_type = 'automation_health'")
            .await,
    )
    .unwrap();
    assert_eq!(
        (&stored["executions"], &stored["failures"]),
        (&json!(200), &json!(41)),
        "{stored}"
    );
    // Later the same day: only of the rule that has fallen silent since. In London the next day begins
    // at midnight.
    assert_eq!(
        desk.run(KIND, Some(A), "2026-03-10T23:59:58Z").await["notificationsSent"],
        2
    );
    assert_eq!(
        desk.run(KIND, Some(A), "2026-03-10T23:59:59Z").await["notificationsSent"],
        0
    );
    let next = desk.run(KIND, Some(A), "2026-03-11T00:00:00Z").await;
    assert_eq!(next["tenants"][0]["date"], "2026-03-11");
    assert!(next["notificationsSent"].as_i64().unwrap() >= 8, "{next}");
}

#[tokio::test]
async fn nothing_executed_has_no_rate_and_nobody_to_tell_is_said() {
    let desk = Desk::firms().await;
    let report = desk.run(KIND, None, NOW).await;
    assert_eq!(report["successRate"], Value::Null, "{report}");
    assert_eq!(report["notificationsSent"], 0);
    assert_eq!(alerts(&desk).await, "");
    desk.sql(&format!(
        "update host.user_roles set is_active = false where user_id = '{}'",
        member(A, 4)
    ))
    .await;
    rule(&desk, "bad", 1, 3, "'2026-03-10T06:00:00Z'").await;
    let report = desk.run(KIND, None, NOW).await;
    assert_eq!(report["failedNotifications"], 2, "{report}");
    assert_eq!(
        report["notTold"],
        json!([{"reason": "the practice has no active admin", "count": 2}])
    );
    assert_eq!(report["tenants"][1]["tenant"], B.to_string());
    assert_eq!(report["tenants"][1]["executions"], 0);
}
