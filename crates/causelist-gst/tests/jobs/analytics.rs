//! analytics-snapshot at its boundaries.

use serde_json::{Value, json};

use crate::fixture::{A, B, Desk};

const KIND: &str = "analytics-snapshot";

#[tokio::test]
async fn the_day_is_the_tenants_and_a_later_run_of_it_replaces_the_first() {
    let desk = Desk::firms().await;
    // 23:59 in London in summer, 04:29 of the next day in India.
    desk.run(KIND, None, "2026-07-01T22:59:00Z").await;
    let days = "select string_agg(distinct snapshot_date::text, ' ') from host.analytics_snapshots where tenant_id = ";
    assert_eq!(desk.value(&format!("{days}'{A}'")).await, "2026-07-01");
    assert_eq!(desk.value("select count(*) from host.analytics_snapshots").await, "14");
    assert_eq!(desk.value("select min(snapshot_date) from host.analytics_snapshots where tenant_id <> '00000000-0000-0000-0000-00000000000a'").await, "2026-07-02");
    let rows = "select string_agg(xmin::text || ctid::text, ' ' order by id) from host.analytics_snapshots where metric_type <> 'document_count' and metric_type <> 'daily_snapshot'";
    let before = desk.value(rows).await;
    desk.sql(&format!("insert into host.documents (tenant_id) values ('{A}')"))
        .await;
    desk.run(KIND, None, "2026-07-01T22:59:30Z").await;
    assert_eq!(desk.value(rows).await, before, "unchanged values are not written again");
    let stored =
        format!("select metric_value from host.analytics_snapshots where tenant_id = '{A}' and metric_type = ");
    assert_eq!(
        desk.value(&format!("{stored}'document_count'")).await,
        r#"{"value": 1}"#
    );
    assert_eq!(
        desk.value(&format!("{stored}'task_completion_rate'")).await,
        r#"{"value": null}"#,
        "no tasks, no rate"
    );
    let whole: Value = serde_json::from_str(&desk.value(&format!("{stored}'daily_snapshot'")).await).unwrap();
    assert_eq!(
        whole,
        json!({"case_count": 1, "task_completion_rate": null, "sla_compliance_rate": null,
               "hearing_attendance_rate": null, "document_count": 1, "overdue_tasks": 0,
               "executedAt": "2026-07-01T22:59:30.000000Z"})
    );
}

#[tokio::test]
async fn an_instant_is_recorded_once_whatever_changes_afterwards() {
    let desk = Desk::firms().await;
    let all = "select string_agg(a::text, ' ' order by id) from host.analytics_snapshots a";
    let (first, later) = ("2026-07-01T20:59:00Z", "2026-07-01T21:59:00Z");
    for kind in [KIND, "automation-health-check"] {
        desk.sql("delete from host.analytics_snapshots").await;
        // A row of the host's own for that day says of no instant.
        desk.sql(&format!(
            "insert into host.analytics_snapshots (tenant_id, snapshot_date, metric_type, metric_value)
             select '{A}', '2026-07-01', t, '{{\"value\": -1}}' from unnest('{{daily_snapshot,automation_health,document_count}}'::text[]) t"
        ))
        .await;
        let own = desk.value(all).await;
        desk.run(kind, None, first).await;
        let recorded = desk.value(all).await;
        assert_ne!(recorded, own, "{kind}");
        let change = format!(
            "insert into host.documents (tenant_id) values ('{A}'), ('{B}');
             update host.cases set status = 'Closed';
             insert into host.automation_logs (tenant_id, status, executed_at) values
               ('{A}', 'failed', timestamptz '{first}' - interval '1 hour'), ('{B}', 'success', timestamptz '{first}')"
        );
        desk.sql(&change).await;
        desk.run(kind, None, first).await;
        desk.run(kind, Some(A), first).await;
        assert_eq!(
            desk.value(all).await,
            recorded,
            "{kind}: a second snapshot of the instant"
        );
        // A later instant of the day replaces it, and is not undone by the earlier one.
        desk.run(kind, Some(A), later).await;
        let replaced = desk.value(all).await;
        assert_ne!(replaced, recorded, "{kind}");
        desk.sql(&change).await;
        desk.run(kind, Some(A), first).await;
        desk.run(kind, Some(A), later).await;
        assert_eq!(desk.value(all).await, replaced, "{kind}");
    }
}

#[tokio::test]
async fn an_anomaly_is_more_than_thirty_per_cent_from_three_days_or_more() {
    let desk = Desk::firms().await;
    let history = |values: &'static str| {
        format!(
            "delete from host.analytics_snapshots;
         insert into host.analytics_snapshots (tenant_id, snapshot_date, metric_type, metric_value)
         select '{A}', d, 'document_count', v from (values {values}) x(d, v);
         delete from host.documents; insert into host.documents (tenant_id) select '{A}' from generate_series(1, 13)"
        )
    };
    let found = |report: &Value| report["tenants"][0]["anomalies"].clone();
    let now = "2026-07-08T22:59:00Z";
    // 13 against a mean of 10: exactly 30 per cent.
    desk.sql(&history(r#"(date '2026-07-01', jsonb '{"value": 10}'), ('2026-07-05', '{"value": 9}'), ('2026-07-07', '{"value": 11}'), ('2026-06-30', '{"value": 900}')"#)).await;
    let report = desk.run(KIND, Some(A), now).await;
    assert_eq!(
        (report["anomalyDetected"].clone(), found(&report)),
        (json!(false), json!([])),
        "{report}"
    );
    desk.sql(&format!("insert into host.documents (tenant_id) values ('{A}')"))
        .await;
    let plan = desk.plan(KIND, Some(A), now).await;
    let report = desk.run(KIND, Some(A), now).await;
    assert_eq!(report["anomalyDetected"], true, "{report}");
    let expected = json!([{"metric": "document_count", "value": 14, "baseline": 10.0, "deviation": 40.0}]);
    assert_eq!(found(&report), expected);
    assert_eq!(found(&plan), expected);
    // Two days are no baseline, nor are values that are no numbers.
    desk.sql(&history(r#"(date '2026-07-01', jsonb '{"value": 1}'), ('2026-07-05', '{"value": 1}'), ('2026-07-06', '{"value": "1"}'), ('2026-07-07', '[]')"#)).await;
    assert_eq!(desk.run(KIND, Some(A), now).await["anomalyDetected"], false);
    // From nought, any change is one, without a percentage.
    desk.sql(&history(
        r#"(date '2026-07-01', jsonb '{"value": 0}'), ('2026-07-05', '{"value": 0}'), ('2026-07-06', '{"value": 0}')"#,
    ))
    .await;
    let report = desk.run(KIND, Some(A), now).await;
    assert_eq!(found(&report)[0]["deviation"], Value::Null, "{report}");
}
