//! A dry run changes nothing and says what the real run then does; a second run changes nothing.

use causelist_gst::demo::TENANTS;
use serde_json::Value;

use crate::fixture::{Desk, KINDS, NOW};

/// What a plan and a report have in common: all but the first rows and what happened to the audit.
fn common(mut answer: Value) -> Value {
    let fields = answer.as_object_mut().unwrap();
    fields.remove("first");
    assert!(fields.remove("auditSkipped").is_none());
    answer
}

#[tokio::test]
async fn dry_runs_change_nothing_and_agree_with_the_real_run() {
    let desk = Desk::demo().await;
    let one = TENANTS[2].id;
    for kind in KINDS {
        let before = desk.contents().await;
        let plan = desk.plan(kind, None, NOW).await;
        let of_one = desk.plan(kind, Some(one), NOW).await;
        assert_eq!(before, desk.contents().await, "{kind}: a dry run left traces");
        if kind != "analytics-snapshot" {
            let first = plan["first"].as_array().unwrap();
            assert!(!first.is_empty() && first.len() <= 20, "{kind}: {first:?}");
        }
        let entry = |answer: &Value| {
            let tenants = answer["tenants"].as_array().unwrap();
            tenants.iter().find(|t| t["tenant"] == one.to_string()).cloned()
        };
        assert_eq!(of_one["tenants"].as_array().unwrap().len(), 1, "{kind}");
        assert_eq!(
            entry(&plan),
            entry(&of_one),
            "{kind}: a tenant's plan depends on who else is planned for"
        );
        let report = desk.run(kind, None, NOW).await;
        assert_eq!(common(plan), common(report), "{kind}: the plan is not what happened");
        assert_ne!(
            before,
            desk.contents().await,
            "{kind}: finds something to do in the demo"
        );
    }
}

#[tokio::test]
async fn a_second_run_for_the_same_instant_changes_no_row() {
    let desk = Desk::demo().await;
    for kind in KINDS {
        desk.run(kind, None, NOW).await;
    }
    // In any order, for all and for one, and after the others had their effects.
    let before = desk.contents().await;
    for kind in KINDS.iter().rev() {
        desk.run(kind, None, NOW).await;
        desk.run(kind, Some(TENANTS[0].id), NOW).await;
        let after = desk.contents().await;
        for (table, was) in &before {
            assert_eq!(was, &after[table], "{kind} run again changed {table}");
        }
    }
    let again = desk.run("check-sla-and-overdue", None, NOW).await;
    for count in [
        "overdueTasks",
        "slaViolations",
        "rulesTriggered",
        "warnings",
        "criticals",
        "notificationsSent",
    ] {
        assert_eq!(again[count], 0, "{count} in {again}");
    }
    assert_eq!(desk.value("select count(*) from host.audit_log").await, "15");
    assert_eq!(
        desk.value("select count(distinct (tenant_id, details ->> 'job')) from host.audit_log")
            .await,
        "15"
    );
}

#[tokio::test]
async fn two_runs_at_once_do_what_one_does() {
    let desk = Desk::demo().await;
    for kind in KINDS {
        let plan = desk.plan(kind, None, NOW).await;
        let (one, two, three) = tokio::join!(
            desk.run(kind, None, NOW),
            desk.run(kind, Some(TENANTS[0].id), NOW),
            desk.run(kind, None, NOW)
        );
        if let Some(sent) = plan["notificationsSent"].as_i64() {
            let all: i64 = [&one, &two, &three]
                .iter()
                .filter_map(|r| r["notificationsSent"].as_i64())
                .sum();
            assert_eq!(all, sent, "{kind}");
        }
        if let Some(opened) = plan["rulesTriggered"].as_i64() {
            assert_eq!(
                desk.value("select count(*) from host.escalation_events").await,
                opened.to_string()
            );
        }
    }
}

#[tokio::test]
async fn only_active_tenants_are_served() {
    let desk = Desk::demo().await;
    let gone = TENANTS[1].id;
    desk.sql(&format!(
        "update host.tenants set is_active = false where id = '{gone}'"
    ))
    .await;
    let before = desk.contents().await;
    for kind in KINDS {
        let report = desk.run(kind, Some(gone), NOW).await;
        assert_eq!(report["tenants"].as_array().map(Vec::len), Some(0), "{kind}: {report}");
        assert_eq!(before, desk.contents().await, "{kind} touched an inactive tenant");
        let report = desk.plan(kind, None, NOW).await;
        assert_eq!(report["tenants"].as_array().map(Vec::len), Some(2), "{kind}: {report}");
    }
}
