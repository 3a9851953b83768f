//! Task bundles, the seven default rules, escalation rules, and what the rules did in three days.

use chrono::{DateTime, Duration, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{cases::Case, rows::Rows, scene::Scene};

/// How a rule has fared: runs a day; of every so many runs one failed or was partial.
#[derive(Debug, Clone, Copy)]
enum Record {
    /// Runs a day, all of them good.
    Good(i64),
    /// Runs a day, and how many of them failed.
    Failing(i64, i64),
    /// Runs a day, and how many of them did only a part: neither success nor failure.
    Partial(i64, i64),
    /// More than ten of the day's runs within an hour.
    Burst(i64),
    /// Not for the last 60 hours.
    Silent,
}

/// An item of a bundle: title, priority, due in so many working days, the role it's for.
type Item = (&'static str, &'static str, i64, &'static str);

struct Rule {
    name: &'static str,
    description: &'static str,
    trigger: &'static str,
    conditions: &'static str,
    /// The bundle it creates: name and items.
    bundle: Option<(&'static str, &'static [Item])>,
    /// Whom it tells or to whom it escalates.
    tells: &'static [&'static str],
    record: Record,
}

const RULES: [Rule; 7] = [
    Rule {
        name: "Appeal deadline tracker",
        description: "An order came: count the days to the appeal",
        trigger: "case_stage_changed",
        conditions: r#"{"stageTo":"ORDER"}"#,
        bundle: Some((
            "Appeal after order",
            &[
                ("Limitation note: days left for APL-01", "Critical", 1, "advocate"),
                ("Work out pre-deposit u/s 107(6)", "High", 5, "ca"),
                ("Draft grounds of appeal", "High", 15, "advocate"),
            ],
        )),
        tells: &["owner", "assignee"],
        record: Record::Good(12),
    },
    Rule {
        name: "Hearing preparation",
        description: "A hearing was listed: get ready for it",
        trigger: "hearing_scheduled",
        conditions: "{}",
        bundle: Some((
            "Hearing preparation",
            &[
                ("Compile paper book and index", "High", 3, "clerk"),
                ("Brief counsel", "High", 2, "advocate"),
                ("Confirm attendance with the client", "Medium", 1, "staff"),
            ],
        )),
        tells: &["assignee"],
        record: Record::Failing(20, 1),
    },
    Rule {
        name: "Assessment response",
        description: "Scrutiny has begun: answer it in time",
        trigger: "case_stage_changed",
        conditions: r#"{"stageTo":"SCRUTINY"}"#,
        bundle: Some((
            "Reply to ASMT-10",
            &[
                ("Reconcile GSTR-2B with the purchase register", "High", 4, "ca"),
                ("Draft ASMT-11", "High", 10, "ca"),
            ],
        )),
        tells: &["assignee", "manager"],
        record: Record::Failing(14, 5),
    },
    Rule {
        name: "Overdue escalation",
        description: "More than a day late and it matters: tell the manager",
        trigger: "task_overdue",
        conditions: r#"{"hoursOverdue":24,"priority":["High","Critical"]}"#,
        bundle: None,
        tells: &["manager"],
        record: Record::Burst(40),
    },
    Rule {
        name: "Order-document follow-up",
        description: "An order was uploaded: read it and advise",
        trigger: "document_uploaded",
        conditions: r#"{"documentType":"order"}"#,
        bundle: Some((
            "After an order",
            &[
                ("Summary of the order for the client", "High", 2, "advocate"),
                ("Follow up certified copy of the order", "Medium", 5, "clerk"),
            ],
        )),
        tells: &["owner", "client"],
        record: Record::Silent,
    },
    Rule {
        name: "Notice response",
        description: "A notice was uploaded: plan the reply",
        trigger: "document_uploaded",
        conditions: r#"{"documentType":"notice"}"#,
        bundle: Some((
            "Reply to a notice",
            &[
                ("Collect documents from the client", "Medium", 3, "staff"),
                ("Draft reply", "High", 7, "advocate"),
                ("Partner's review", "High", 10, "partner"),
            ],
        )),
        tells: &["assignee"],
        record: Record::Partial(10, 3),
    },
    Rule {
        name: "New case set-up",
        description: "A case was opened: engagement, papers, calendar",
        trigger: "case_created",
        conditions: "{}",
        bundle: Some((
            "New case",
            &[
                ("Engagement letter and authorisation", "Medium", 2, "staff"),
                ("Get vakalatnama and board resolution signed", "Medium", 4, "clerk"),
                ("Enter statutory dates", "High", 1, "advocate"),
            ],
        )),
        tells: &["owner"],
        record: Record::Good(6),
    },
];

pub(super) fn add(scene: &mut Scene, rows: &mut Rows, open: &[Case]) {
    for rule in &RULES {
        let id = scene.id();
        let bundle = rule.bundle.map(|(name, items)| {
            let bundle = scene.id();
            rows.add(
                "host.task_bundles",
                json!({
                    "id": bundle, "tenant_id": scene.firm.id, "name": name, "trigger_event": rule.trigger,
                }),
            );
            for (n, (title, priority, days, role)) in items.iter().enumerate() {
                let item = scene.id();
                rows.add(
                    "host.task_bundle_items",
                    json!({
                        "id": item, "tenant_id": scene.firm.id, "bundle_id": bundle, "title": title,
                        "priority": priority, "due_days": days, "assigned_role": role, "order_index": n,
                    }),
                );
            }
            bundle
        });
        let runs = runs(scene, rule.record);
        let of = |status: &str| runs.iter().filter(|(_, was)| *was == status).count();
        let conditions: Value = serde_json::from_str(rule.conditions).unwrap_or_default();
        rows.add(
            "host.automation_rules",
            json!({
                "id": id, "tenant_id": scene.firm.id, "name": rule.name, "description": rule.description,
                "trigger_type": rule.trigger, "trigger_config": {}, "conditions": conditions,
                "actions": actions(rule, bundle), "is_active": true,
                // Older runs are no longer in the logs, only in the counters.
                "execution_count": runs.len() + 300, "success_count": of("success") + 290,
                "failure_count": of("failed") + 10, "last_triggered": runs.iter().map(|(at, _)| *at).max(),
                "created_at": scene.now - Duration::days(200),
            }),
        );
        for (at, status) in runs {
            log(scene, rows, rule, id, at, status, open);
        }
    }
}

fn actions(rule: &Rule, bundle: Option<Uuid>) -> Value {
    let mut actions = Vec::new();
    if let Some(bundle) = bundle {
        actions.push(json!({ "type": "create_tasks", "bundleId": bundle }));
    }
    if rule.trigger == "task_overdue" {
        actions.push(json!({ "type": "escalate", "to": rule.tells }));
    } else {
        actions.push(json!({
            "type": "send_notification", "channels": ["in_app", "email"], "recipients": rule.tells,
        }));
    }
    Value::Array(actions)
}

/// The runs of three days, day by day, so that the last 24 hours have exactly a day's worth.
fn runs(scene: &mut Scene, record: Record) -> Vec<(DateTime<Utc>, &'static str)> {
    let spread = |scene: &mut Scene, count: i64, bad: i64, what: &'static str| {
        let mut runs = Vec::new();
        for day in 0..3 {
            for n in 0..count {
                let slot = 24 * 60 / count;
                let minutes = day * 24 * 60 + n * slot + scene.number(1, slot);
                runs.push((
                    scene.now - Duration::minutes(minutes),
                    if n < bad { what } else { "success" },
                ));
            }
        }
        runs
    };
    match record {
        Record::Good(count) => spread(scene, count, 0, "success"),
        Record::Failing(count, bad) => spread(scene, count, bad, "failed"),
        Record::Partial(count, bad) => spread(scene, count, bad, "partial"),
        Record::Burst(count) => {
            let mut runs = spread(scene, count - 12, 0, "success");
            for _ in 0..12 {
                runs.push((scene.minutes(-5 * 60 + 2, -4 * 60 - 2), "success"));
            }
            runs
        }
        // The last firm's has never been triggered.
        Record::Silent if scene.firm.id == super::TENANTS[2].id => Vec::new(),
        Record::Silent => (61..66)
            .map(|hours| (scene.now - Duration::hours(hours), "success"))
            .collect(),
    }
}

fn log(scene: &mut Scene, rows: &mut Rows, rule: &Rule, rule_id: Uuid, at: DateTime<Utc>, status: &str, open: &[Case]) {
    let (id, case) = (scene.id(), scene.pick(open));
    let error = match status {
        "failed" => Some("bundle item 2: no active member with role ca"),
        "partial" => Some("notification not sent: recipient has no e-mail address"),
        _ => None,
    };
    rows.add("host.automation_logs", json!({
        "id": id, "tenant_id": scene.firm.id, "rule_id": rule_id, "rule_name": rule.name,
        "trigger_event": rule.trigger, "trigger_data": { "case_id": case.id }, "status": status,
        "actions_executed": if status == "failed" { json!([]) } else { json!([{ "type": "create_tasks", "count": 3 }]) },
        "error_message": error, "case_id": case.id, "executed_at": at,
    }));
}

/// The three default escalation rules.
pub(super) fn escalation_rules(scene: &mut Scene, rows: &mut Rows) {
    let rules = [
        (
            "Overdue more than a day",
            "task_overdue",
            json!({ "hoursOverdue": 24, "priority": ["High", "Critical"] }),
            json!(["manager"]),
        ),
        (
            "Critical task past its SLA",
            "critical_sla",
            json!({ "priority": ["Critical"] }),
            json!(["partner", "manager"]),
        ),
        (
            "Client's deadline is near",
            "client_deadline",
            json!({ "daysBefore": 1 }),
            json!(["manager"]),
        ),
    ];
    for (name, trigger, conditions, to) in rules {
        let id = scene.id();
        rows.add(
            "host.escalation_rules",
            json!({
                "id": id, "tenant_id": scene.firm.id, "name": name, "trigger": trigger, "conditions": conditions,
                "actions": { "escalateTo": to }, "is_active": true,
            }),
        );
    }
}
