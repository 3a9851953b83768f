//! check-sla-and-overdue at its boundaries.

use serde_json::{Value, json};

use crate::fixture::{A, B, Desk, case, member};

const KIND: &str = "check-sla-and-overdue";
const NOON: &str = "2026-03-10T12:00:00Z";

/// A task of firm A's case, assigned to its advocate; `more` sets columns over that.
async fn task(desk: &Desk, n: u32, status: &str, priority: &str, due: &str, created: &str, sla_hours: &str) {
    desk.sql(&format!(
        "insert into host.tasks (id, tenant_id, case_id, title, assigned_to, status, priority, due_date, created_at, sla_hours, case_number)
         values ('00000000-0000-0000-0000-{n:012}', '{A}', '{}', 'Task {n}', '{}', '{status}', '{priority}', {due}, '{created}', {sla_hours}, 'CASE/A')",
        case(A),
        member(A, 3)
    ))
    .await;
}

async fn status(desk: &Desk, n: u32) -> String {
    desk.value(&format!(
        "select status from host.tasks where id = '00000000-0000-0000-0000-{n:012}'"
    ))
    .await
}

async fn events(desk: &Desk, n: u32) -> String {
    desk.value(&format!(
        "select string_agg(type, ' ' order by type) from causelist.event where entity_id = '00000000-0000-0000-0000-{n:012}'"
    ))
    .await
}

#[tokio::test]
async fn a_task_is_overdue_after_its_due_date_and_not_at_it() {
    let desk = Desk::firms().await;
    let old = "2026-02-01T00:00:00Z";
    task(&desk, 1, "Open", "Low", "'2026-03-10T12:00:00Z'", old, "null").await;
    task(&desk, 2, "Open", "Low", "'2026-03-10T11:59:59.999999Z'", old, "null").await;
    task(&desk, 3, "completed", "Low", "'2026-03-01T12:00:00Z'", old, "null").await;
    task(&desk, 4, "CANCELLED", "Low", "'2026-03-01T12:00:00Z'", old, "null").await;
    task(&desk, 5, "Overdue", "Low", "'2026-03-01T12:00:00Z'", old, "null").await;
    task(&desk, 6, "On Hold", "Low", "null", "2026-03-10T11:00:00Z", "null").await;
    task(&desk, 7, "in progress", "Low", "'2026-03-07T12:00:00Z'", old, "null").await;
    let report = desk.run(KIND, Some(A), NOON).await;
    assert_eq!(report["overdueTasks"], 2, "{report}");
    for (n, expected) in [
        (1, "Open"),
        (2, "Overdue"),
        (3, "completed"),
        (4, "CANCELLED"),
        (5, "Overdue"),
        (6, "On Hold"),
        (7, "Overdue"),
    ] {
        assert_eq!(status(&desk, n).await, expected, "task {n}");
    }
    // At the due date nothing is left of the time: violated, though not yet overdue.
    assert_eq!(events(&desk, 1).await, "sla_violation");
    assert_eq!(events(&desk, 2).await, "sla_violation task_overdue");
    assert_eq!(events(&desk, 5).await, "sla_violation");
    assert_eq!(events(&desk, 6).await, "");
    let payload: Value = serde_json::from_str(
        &desk
            .value("select payload from causelist.event where type = 'task_overdue' and entity_id::text like '%7'")
            .await,
    )
    .unwrap();
    assert_eq!(
        payload,
        json!({"task_id": "00000000-0000-0000-0000-000000000007", "case_id": case(A), "days_overdue": 3, "priority": "Low"})
    );
    let payload: Value = serde_json::from_str(
        &desk
            .value("select payload from causelist.event where type = 'sla_violation' and entity_id::text like '%1'")
            .await,
    )
    .unwrap();
    assert_eq!(
        payload,
        json!({"task_id": "00000000-0000-0000-0000-000000000001", "sla_threshold": 900.0, "actual_time": 900.0})
    );
}

#[tokio::test]
async fn levels_change_exactly_at_their_thresholds_and_are_told_once() {
    let desk = Desk::firms().await;
    // Without due date and sla_hours the target is created_at + 8 h for a Critical task.
    task(&desk, 1, "Open", "Critical", "null", "2026-03-10T08:00:00Z", "null").await;
    // sla_hours count before the due date does.
    task(
        &desk,
        2,
        "Open",
        "Critical",
        "'2026-09-01T00:00:00Z'",
        "2026-03-10T08:00:00Z",
        "8",
    )
    .await;
    task(&desk, 3, "Open", "urgent!", "null", "2026-03-05T12:00:00Z", "null").await;
    let levels = [
        ("2026-03-10T11:59:59Z", "", ""),
        ("2026-03-10T12:00:00Z", "sla_warning", "sla_violation"),
        ("2026-03-10T13:59:59Z", "sla_warning", "sla_violation"),
        ("2026-03-10T14:00:00Z", "sla_critical sla_warning", "sla_violation"),
        ("2026-03-10T15:59:59Z", "sla_critical sla_warning", "sla_violation"),
        (
            "2026-03-10T16:00:00Z",
            "sla_critical sla_violation sla_warning",
            "sla_violation",
        ),
        (
            "2026-03-10T16:15:00Z",
            "sla_critical sla_violation sla_warning",
            "sla_violation",
        ),
    ];
    for (now, critical, medium) in levels {
        desk.run(KIND, None, now).await;
        assert_eq!(events(&desk, 1).await, critical, "at {now}");
        assert_eq!(events(&desk, 2).await, critical, "at {now}, by sla_hours");
        // An unknown priority counts as Medium: 120 hours.
        if now >= "2026-03-10T12:00:00Z" {
            let level = events(&desk, 3).await;
            assert!(level.contains(medium), "at {now}: {level}");
        }
    }
}

#[tokio::test]
async fn a_tenant_has_its_own_thresholds_and_a_wrong_one_harms_nobody() {
    let desk = Desk::firms().await;
    desk.sql(&format!(
        r#"insert into causelist.tenant_setting (tenant, sla_thresholds) values
           ('{B}', '{{"LOW": {{"allowance": 10, "warning": 5, "critical": "soon"}}, "High": 7, "Medium": {{"warning": -1e300}}}}')"#
    ))
    .await;
    for firm in [A, B] {
        desk.sql(&format!(
            "insert into host.tasks (tenant_id, title, priority, created_at) values ('{firm}', 'x', 'Low', '2026-03-10T06:30:00Z')"
        ))
        .await;
    }
    let report = desk.run(KIND, None, NOON).await;
    assert_eq!(
        (&report["warnings"], &report["criticals"], &report["slaViolations"]),
        (&json!(0), &json!(1), &json!(0)),
        "{report}"
    );
    assert_eq!(
        report["tenants"][1]["criticals"], 1,
        "the critical threshold is the default 60 hours: {report}"
    );
    let later = desk.run(KIND, None, "2026-03-10T16:30:00Z").await;
    assert_eq!(later["slaViolations"], 1, "{later}");
}

async fn rules(desk: &Desk) {
    desk.sql(&format!(
        "insert into host.escalation_rules (tenant_id, name, trigger) values
           ('{A}', 'Late', 'task_overdue'), ('{A}', 'Critical', 'critical_sla'), ('{A}', 'By hand', 'manual');
         insert into host.escalation_rules (tenant_id, name, trigger, is_active) values ('{A}', 'Off', 'task_overdue', false)"
    ))
    .await;
}

#[tokio::test]
async fn escalates_by_the_default_rules_once_and_tells_each_person_once() {
    let desk = Desk::firms().await;
    rules(&desk).await;
    let old = "2026-02-01T00:00:00Z";
    task(&desk, 1, "Open", "High", "'2026-03-09T11:59:59Z'", old, "null").await;
    task(&desk, 2, "Open", "High", "'2026-03-09T12:00:00Z'", old, "null").await;
    task(&desk, 3, "Open", "Medium", "'2026-03-01T12:00:00Z'", old, "null").await;
    task(&desk, 4, "Open", "Critical", "'2026-03-10T12:00:00Z'", old, "null").await;
    let plan = desk.plan(KIND, Some(A), NOON).await;
    let report = desk.run(KIND, Some(A), NOON).await;
    assert_eq!(
        (&report["rulesTriggered"], &plan["rulesTriggered"]),
        (&json!(2), &json!(2)),
        "{report}"
    );
    let opened = desk
        .value(
            "select string_agg(concat_ws(' ', right(e.task_id::text, 1), r.name, right(e.escalated_to::text, 1), e.current_level, e.status), ', ' order by e.task_id)
             from host.escalation_events e join host.escalation_rules r on r.id = e.rule_id",
        )
        .await;
    assert_eq!(opened, "1 Late 2 1 pending, 4 Critical 1 2 pending");
    // The manager hears of both in one message, the most urgent first; the partner of one.
    let (manager, partner) = (member(A, 2), member(A, 1));
    let mut told = vec![
        format!("user:{manager} email"),
        format!("user:{manager} in_app"),
        format!("user:{partner} email"),
        format!("user:{partner} in_app"),
    ];
    told.sort();
    assert_eq!(desk.told("escalation").await, told);
    let data: Value = serde_json::from_str(
        &desk
            .value(&format!(
                "select data from causelist.message where recipient = 'user:{manager}' and channel = 'email'"
            ))
            .await,
    )
    .unwrap();
    assert_eq!(
        (&data["taskTitle"], &data["tasks"]),
        (&json!("Task 4"), &json!(2)),
        "{data}"
    );
    assert!(
        data["reason"]
            .as_str()
            .unwrap()
            .ends_with("1 more escalated at the same time: Task 1"),
        "{data}"
    );
    let first = plan["first"].as_array().unwrap();
    let of_four = first.iter().find(|row| row["subject"] == "Task 4").unwrap();
    assert_eq!(of_four["caseNumber"], "CASE/A");
    assert_eq!(of_four["told"].as_array().unwrap().len(), 4, "{of_four}");

    // Later, with the task resolved: no more. A new due date that passes: anew.
    desk.sql("update host.escalation_events set status = 'resolved'").await;
    let later = desk.run(KIND, Some(A), "2026-03-10T12:15:00Z").await;
    assert_eq!(
        later["rulesTriggered"], 1,
        "task 2 is now more than 24 hours late: {later}"
    );
    desk.sql("update host.tasks set due_date = '2026-03-11T12:00:00Z', status = 'Open' where title = 'Task 1'")
        .await;
    assert_eq!(
        desk.run(KIND, Some(A), "2026-03-12T12:00:00Z").await["rulesTriggered"],
        1,
        "task 4, late by the other rule"
    );
    assert_eq!(
        desk.run(KIND, Some(A), "2026-03-12T12:00:01Z").await["rulesTriggered"],
        1,
        "task 1, for its new due date"
    );
}

#[tokio::test]
async fn says_whom_it_could_not_tell_and_why() {
    let desk = Desk::firms().await;
    rules(&desk).await;
    desk.sql(&format!(
        "update host.employees set status = 'Inactive' where id = '{}';
         update host.employees set email = 'none' where id = '{}';
         insert into host.notification_preferences (tenant_id, user_id, in_app_enabled) values ('{A}', '{}', false)",
        member(A, 2),
        member(A, 1),
        member(A, 1)
    ))
    .await;
    task(
        &desk,
        1,
        "Open",
        "Critical",
        "'2026-03-01T12:00:00Z'",
        "2026-02-01T00:00:00Z",
        "null",
    )
    .await;
    let plan = desk.plan(KIND, None, NOON).await;
    let report = desk.run(KIND, None, NOON).await;
    // No manager is left: the partner stands in, who has neither an address nor in-app messages.
    assert_eq!(report["rulesTriggered"], 2, "{report}");
    assert_eq!(report["notificationsSent"], 0);
    assert_eq!(report["failedNotifications"], 1);
    assert_eq!(
        report["notTold"],
        json!([{"reason": "has no e-mail address, and in-app messages are switched off", "count": 1}])
    );
    assert_eq!(plan["notTold"], report["notTold"]);
    assert_eq!(plan["first"][0]["notTold"][0]["who"], "Pat Partner A", "{plan}");
    desk.sql("update host.employees set status = 'Suspended'").await;
    task(
        &desk,
        2,
        "Open",
        "Critical",
        "'2026-03-01T12:00:00Z'",
        "2026-02-01T00:00:00Z",
        "null",
    )
    .await;
    let report = desk.run(KIND, None, NOON).await;
    assert_eq!(
        report["notTold"],
        json!([{"reason": "the practice has no active manager", "count": 2}, {"reason": "the practice has no active partner", "count": 1}])
    );
}

#[tokio::test]
async fn a_task_closed_meanwhile_stays_closed_and_leaves_no_event() {
    let desk = Desk::firms().await;
    task(
        &desk,
        1,
        "Open",
        "Low",
        "'2026-03-10T11:00:00Z'",
        "2026-03-10T10:00:00Z",
        "500",
    )
    .await;
    task(
        &desk,
        2,
        "Open",
        "Low",
        "'2026-03-10T11:00:00Z'",
        "2026-03-10T10:00:00Z",
        "500",
    )
    .await;
    let mut tx = desk.pool().begin().await.unwrap();
    let close = desk
        .host
        .sql("update host.tasks set status = 'Completed' where title = 'Task 1'");
    sqlx::query(sqlx::AssertSqlSafe(close)).execute(&mut *tx).await.unwrap();
    let finish = async {
        // Until the job waits for the row that the person is about to close.
        let waits =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        while desk.value(waits).await == "0" {
            tokio::task::yield_now().await;
        }
        tx.commit().await.unwrap();
    };
    let (report, ()) = tokio::join!(desk.run(KIND, Some(A), NOON), finish);
    assert_eq!(report["overdueTasks"], 1, "{report}");
    assert_eq!(
        (status(&desk, 1).await, events(&desk, 1).await),
        ("Completed".into(), String::new())
    );
    assert_eq!(
        (status(&desk, 2).await, events(&desk, 2).await),
        ("Overdue".into(), "task_overdue".into())
    );
}
