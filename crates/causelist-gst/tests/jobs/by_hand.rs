//! The demo practice, counted by hand: queries of their own, for each tenant in its zone.

use causelist_gst::demo::TENANTS;

use crate::fixture::{Desk, KINDS, NOW};

const TARGET: &str = "(case when sla_hours is not null then created_at + sla_hours * interval '1 hour'
    when due_date is not null then due_date
    else created_at + case priority when 'Critical' then interval '8 hours' when 'High' then interval '48 hours'
                      when 'Low' then interval '240 hours' else interval '120 hours' end end)";
const OPEN: &str = "status not in ('Completed', 'Cancelled')";

fn counts(kind: &str) -> Vec<(&'static str, String)> {
    let left = format!("extract(epoch from {TARGET} - :now) / 3600");
    let hours = |c, h, m, l| {
        format!("case priority when 'Critical' then {c} when 'High' then {h} when 'Low' then {l} else {m} end")
    };
    let critical = format!("{left} <= {}", hours(2, 12, 30, 60));
    let warning = format!("{left} <= {}", hours(4, 24, 72, 168));
    let tasks = |such: &str| format!("select count(*) from host.tasks where tenant_id = :tenant and {such}");
    let today = "(:now at time zone :zone)::date";
    match kind {
        "check-sla-and-overdue" => vec![
            (
                "overdueTasks",
                tasks(&format!("{OPEN} and status <> 'Overdue' and due_date < :now")),
            ),
            ("slaViolations", tasks(&format!("{OPEN} and {left} <= 0"))),
            ("criticals", tasks(&format!("{OPEN} and {left} > 0 and {critical}"))),
            (
                "warnings",
                tasks(&format!("{OPEN} and {left} > 0 and not {critical} and {warning}")),
            ),
            (
                "rulesTriggered",
                format!(
                    "select ({}) + ({})",
                    tasks(&format!(
                        "{OPEN} and priority in ('High', 'Critical') and :now - due_date > interval '24 hours'"
                    )),
                    tasks(&format!("{OPEN} and priority = 'Critical' and {left} <= 0"))
                ),
            ),
        ],
        "send-hearing-reminders" => {
            let hearing = format!(
                "from host.hearings h join host.cases c on c.id = h.case_id
                 cross join lateral (select (h.hearing_date at time zone :zone)::date - {today} as n) d
                 where h.tenant_id = :tenant and upper(h.status) = 'SCHEDULED'"
            );
            // Members by preference, clients a day ahead and on the day; nobody of what has begun.
            let people = format!("select h.id, u.who, d.n {hearing} and h.hearing_date >= :now").replace(
                "where h.tenant_id",
                "cross join lateral (select c.owner_id as who union select c.assigned_to) u where h.tenant_id",
            );
            let by = |channel: &str, such: &str| {
                format!(
                    "select count(*) from ({people}) x join host.employees e on e.id = x.who and e.status = 'Active'
                 left join host.notification_preferences p on p.user_id = x.who
                 where {such} and coalesce(p.{channel}_enabled, true) and coalesce(p.hearing_reminders, true)
                   and array_position(coalesce(p.reminder_days, array[0, 1]), x.n) is not null"
                )
            };
            vec![
                (
                    "hearingsProcessed",
                    format!("select count(*) {hearing} and d.n between 0 and 1"),
                ),
                (
                    "notificationsSent",
                    format!(
                        "select ({}) + ({}) + (select count(*) {hearing} and h.hearing_date >= :now and d.n in (0, 1) and exists
                           (select from host.clients k where k.id = c.client_id and k.email ~ '.@.'))",
                        by("email", "coalesce(e.official_email, e.email) <> ''"),
                        by("in_app", "true")
                    ),
                ),
            ]
        }
        "check-upcoming-deadlines" => {
            let soon = "between :now and :now + interval '1 day'";
            vec![
                ("upcomingTasks", tasks(&format!("{OPEN} and due_date {soon}"))),
                (
                    "upcomingHearings",
                    format!("select count(*) from host.hearings where tenant_id = :tenant and upper(status) = 'SCHEDULED' and hearing_date {soon}"),
                ),
                (
                    "upcomingStatutoryDeadlines",
                    format!(
                        "select count(*) from host.case_statutory_deadlines where tenant_id = :tenant and status = 'pending'
                         and case when extension_deadline is null then calculated_deadline else extension_deadline end
                             = any (array[{today}, {today} + 1, {today} + 3, {today} + 7])"
                    ),
                ),
            ]
        }
        "automation-health-check" => {
            let logs = "from host.automation_logs where tenant_id = :tenant and :now - executed_at < interval '24 hours' and executed_at <= :now";
            vec![
                (
                    "totalRules",
                    "select count(*) from host.automation_rules where tenant_id = :tenant".to_owned(),
                ),
                (
                    "successRate",
                    format!("select round(100.0 * sum((status = 'success')::int) / count(*), 2) {logs}"),
                ),
                (
                    "degradedRules",
                    format!(
                        "select count(*) from (select rule_id {logs} group by rule_id having avg((status = 'failed')::int) > 0.2) x"
                    ),
                ),
                (
                    "inactiveRules",
                    "select count(*) from host.automation_rules where tenant_id = :tenant and is_active
                     and :now - coalesce(last_triggered, created_at) > interval '48 hours'"
                        .to_owned(),
                ),
            ]
        }
        _ => vec![("metricsCount", "select 6".to_owned())],
    }
}

#[tokio::test]
async fn the_numbers_are_those_of_a_count_by_hand() {
    let desk = Desk::demo().await;
    // All counts first: one job's effects are another's numbers.
    let mut expected = Vec::new();
    for firm in TENANTS {
        for kind in KINDS {
            for (name, sql) in counts(kind) {
                expected.push((firm, kind, name, desk.count(&sql, firm.id, firm.zone.name()).await));
            }
        }
    }
    for firm in TENANTS {
        for kind in KINDS {
            let report = desk.run(kind, Some(firm.id), NOW).await;
            for (_, _, name, count) in expected.iter().filter(|(f, k, ..)| f.id == firm.id && *k == kind) {
                assert_eq!(&report[*name], count, "{kind}.{name} of {} in {report}", firm.name);
                let trivial = matches!(*name, "degradedRules" | "inactiveRules");
                assert!(
                    trivial || count.as_f64().unwrap() > 0.0,
                    "{kind}.{name} of {}: the demo has none",
                    firm.name
                );
            }
        }
    }
    // The database agrees with the reports.
    for firm in TENANTS {
        let of = |name: &str| {
            expected
                .iter()
                .find(|(f, _, n, _)| f.id == firm.id && *n == name)
                .unwrap()
                .3
                .clone()
        };
        let there = [
            (
                "overdueTasks",
                "select count(*) from causelist.event where tenant = :tenant and type = 'task_overdue'",
            ),
            (
                "slaViolations",
                "select count(*) from causelist.event where tenant = :tenant and type = 'sla_violation'",
            ),
            (
                "warnings",
                "select count(*) from causelist.event where tenant = :tenant and type = 'sla_warning'",
            ),
            (
                "criticals",
                "select count(*) from causelist.event where tenant = :tenant and type = 'sla_critical'",
            ),
            (
                "rulesTriggered",
                "select count(*) from host.escalation_events where tenant_id = :tenant and status = 'pending'",
            ),
            (
                "notificationsSent",
                "select count(*) from causelist.message where tenant = :tenant and template = 'hearing-reminder'",
            ),
        ];
        for (name, sql) in there {
            assert_eq!(
                desk.count(sql, firm.id, "UTC").await,
                of(name),
                "{name} of {}",
                firm.name
            );
        }
        // Every in-app message is a row of the host; every mail waits with an address.
        let shown = "select (select count(*) from host.notifications where tenant_id = :tenant)
                          - (select count(*) from causelist.message where tenant = :tenant and channel = 'in_app' and state = 'accepted')";
        assert_eq!(desk.count(shown, firm.id, "UTC").await, 0, "{}", firm.name);
        let mail = "select count(*) from causelist.message where tenant = :tenant and channel = 'email'
                     and (state <> 'reserved' or address is null)";
        assert_eq!(desk.count(mail, firm.id, "UTC").await, 0, "{}", firm.name);
        let asked = "select count(*) from causelist.job where tenant = :tenant and kind = 'deliver-messages'";
        assert!(
            desk.count(asked, firm.id, "UTC").await.as_i64().unwrap() >= 3,
            "{}",
            firm.name
        );
    }
}

#[tokio::test]
async fn the_days_metrics_are_those_of_a_count_by_hand() {
    let desk = Desk::demo().await;
    let report = desk.run("analytics-snapshot", None, NOW).await;
    assert_eq!(report["metricsCount"], 18);
    let rate = |part: &str, whole: &str| format!("select round(100.0 * ({part}) / nullif({whole}, 0), 2)");
    let tasks = |such: &str| format!("(select count(*) from host.tasks where tenant_id = :tenant and {such})");
    let hearings = |such: &str| {
        format!("(select count(*) from host.hearings where tenant_id = :tenant and hearing_date < :now and {such})")
    };
    let held = "lower(status) in ('concluded', 'completed')";
    let metrics = [
        (
            "case_count",
            "select count(*) from host.cases where tenant_id = :tenant and status ilike any (array['open', 'active'])"
                .to_owned(),
        ),
        (
            "task_completion_rate",
            rate(&tasks("status = 'Completed'"), &tasks("true")),
        ),
        (
            "sla_compliance_rate",
            rate(
                &format!(
                    "{} + {}",
                    tasks(&format!("status = 'Completed' and completed_date <= {TARGET}")),
                    tasks(&format!("{OPEN} and {TARGET} > :now"))
                ),
                &tasks("status <> 'Cancelled'"),
            ),
        ),
        (
            "hearing_attendance_rate",
            rate(
                &hearings(held),
                &hearings(&format!("({held} or lower(status) in ('scheduled', 'no-board'))")),
            ),
        ),
        (
            "document_count",
            "select count(*) from host.documents where tenant_id = :tenant".to_owned(),
        ),
        (
            "overdue_tasks",
            format!(
                "select {}",
                tasks(&format!("(status = 'Overdue' or {OPEN} and due_date < :now)"))
            ),
        ),
    ];
    for firm in TENANTS {
        let zone = firm.zone.name();
        let day = "(:now at time zone :zone)::date";
        for (name, sql) in &metrics {
            let stored = format!(
                "select metric_value -> 'value' from host.analytics_snapshots
                  where tenant_id = :tenant and metric_type = '{name}' and snapshot_date = {day}"
            );
            let (stored, counted) = (
                desk.count(&stored, firm.id, zone).await,
                desk.count(sql, firm.id, zone).await,
            );
            assert_eq!(stored.as_f64(), counted.as_f64(), "{name} of {}", firm.name);
            let whole = format!(
                "select metric_value -> '{name}' from host.analytics_snapshots
                  where tenant_id = :tenant and metric_type = 'daily_snapshot' and snapshot_date = {day}"
            );
            assert_eq!(
                desk.count(&whole, firm.id, zone).await,
                stored,
                "{name} of {}",
                firm.name
            );
        }
    }
}
