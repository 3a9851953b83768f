//! check-upcoming-deadlines at its boundaries.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::fixture::{A, B, Desk, case, member};

const KIND: &str = "check-upcoming-deadlines";

async fn task(desk: &Desk, firm: Uuid, title: &str, due: &str, priority: &str, status: &str) {
    desk.sql(&format!(
        "insert into host.tasks (tenant_id, case_id, title, assigned_to, due_date, priority, status)
         values ('{firm}', '{}', '{title}', '{}', '{due}', '{priority}', '{status}')",
        case(firm),
        member(firm, 3)
    ))
    .await;
}

/// Title and due words of the advocate's digest by mail, high before normal.
async fn digest(desk: &Desk, firm: Uuid, day: &str) -> (Vec<String>, Vec<String>) {
    let text = desk
        .value(&format!(
            "select data from causelist.message where template = 'deadline-digest' and recipient = 'user:{}'
             and channel = 'email' and occasion = '{day}'",
            member(firm, 3)
        ))
        .await;
    let data: Value = serde_json::from_str(&text).unwrap();
    let lines = |of: &str| {
        let lines = data[of].as_array().unwrap().iter();
        lines
            .map(|l| format!("{}: {}", l["title"].as_str().unwrap(), l["dueWords"].as_str().unwrap()))
            .collect()
    };
    (lines("highPriority"), lines("normalPriority"))
}

#[tokio::test]
async fn one_digest_a_day_with_the_urgent_first() {
    let desk = Desk::firms().await;
    // 9:00 in India. Firm B has no settings.
    let now = "2026-03-10T03:30:00Z";
    task(&desk, B, "now", "2026-03-10T03:30:00Z", "Low", "Open").await;
    task(&desk, B, "past", "2026-03-10T03:29:59Z", "Critical", "Open").await;
    task(&desk, B, "evening", "2026-03-10T11:30:00Z", "CRITICAL", "Open").await;
    task(&desk, B, "last", "2026-03-11T03:30:00Z", "High", "review").await;
    task(&desk, B, "later", "2026-03-11T03:30:01Z", "High", "Open").await;
    task(&desk, B, "done", "2026-03-10T11:30:00Z", "High", "COMPLETED").await;
    task(&desk, B, "morning", "2026-03-11T00:00:00Z", "Medium", "Open").await;
    desk.sql(&format!(
        "insert into host.hearings (tenant_id, case_id, hearing_date, status) values
           ('{B}', '{0}', '2026-03-11T02:00:00Z', 'scheduled'), ('{B}', '{0}', '2026-03-11T02:00:00Z', 'Cancelled')",
        case(B)
    ))
    .await;
    let plan = desk.plan(KIND, Some(B), now).await;
    let report = desk.run(KIND, Some(B), now).await;
    assert_eq!(
        (&report["upcomingTasks"], &report["upcomingHearings"]),
        (&json!(4), &json!(1)),
        "{report}"
    );
    // The advocate's digest and the owner's, who has the hearing; by mail and in-app.
    assert_eq!(report["notificationsSent"], 4, "{report}");
    assert_eq!(plan["notificationsSent"], 4, "{plan}");
    let (high, normal) = digest(&desk, B, "2026-03-10").await;
    assert_eq!(
        high,
        [
            "evening: Today 5:00 PM",
            "Hearing: Tomorrow 7:30 AM",
            "last: Tomorrow 9:00 AM"
        ]
    );
    assert_eq!(normal, ["now: Today 9:00 AM", "morning: Tomorrow 5:30 AM"]);
    let hours = desk
        .value(
            "select string_agg(payload ->> 'hours_until_due', ' ' order by occasion) from causelist.event
                where type = 'deadline_approaching' and payload ->> 'entity_type' = 'task'",
        )
        .await;
    assert_eq!(hours, "0.0 8.0 20.5 24.0");

    // Later that day there is one item more: an event of its own, and no second digest.
    task(&desk, B, "added", "2026-03-10T12:00:00Z", "High", "Open").await;
    let again = desk.run(KIND, Some(B), "2026-03-10T06:00:00Z").await;
    assert_eq!(again["notificationsSent"], 0, "{again}");
    let events = "select count(*) from causelist.event";
    let before = desk.value(events).await;
    // The next day: a digest of its own, and no event again for what had one.
    let next = desk.run(KIND, Some(B), "2026-03-11T03:30:00Z").await;
    assert_eq!(
        (&next["upcomingTasks"], &next["notificationsSent"]),
        (&json!(2), &json!(2)),
        "{next}"
    );
    assert_eq!(desk.value(events).await, before);
}

#[tokio::test]
async fn statutory_deadlines_are_named_seven_three_one_and_no_days_ahead() {
    let desk = Desk::firms().await;
    desk.sql(&format!(
        "insert into host.statutory_event_types (id, tenant_id, code, name) values ('00000000-0000-0000-0000-0000000000e1', '{A}', 'APL', 'Appeal');
         insert into host.case_statutory_deadlines (tenant_id, case_id, event_type_id, base_date, calculated_deadline, extension_deadline, status)
         select uuid '{A}', uuid '{0}', uuid '00000000-0000-0000-0000-0000000000e1', date '2026-01-01', date '2026-03-28' + n, null::date, 'pending' from generate_series(-1, 8) n
         union all select '{A}', '{0}', '00000000-0000-0000-0000-0000000000e1', '2026-01-01', '2026-03-28', '2026-06-01', 'pending'
         union all select '{A}', '{0}', '00000000-0000-0000-0000-0000000000e1', '2026-01-01', '2026-01-28', '2026-03-31', 'Extended'
         union all select '{A}', '{0}', '00000000-0000-0000-0000-0000000000e1', '2026-01-01', '2026-03-28', null, 'Completed'",
        case(A)
    ))
    .await;
    // One whose event type is another practice's has no name here: it is left out.
    desk.sql(&format!(
        "insert into host.statutory_event_types (id, tenant_id, code, name) values ('00000000-0000-0000-0000-0000000000e2', '{B}', 'X', 'Of B');
         insert into host.case_statutory_deadlines (tenant_id, case_id, event_type_id, base_date, calculated_deadline)
         values ('{A}', '{0}', '00000000-0000-0000-0000-0000000000e2', '2026-01-01', '2026-03-28')",
        case(A)
    ))
    .await;
    // 23:30 in London the night before summer time.
    let report = desk.run(KIND, None, "2026-03-28T23:30:00Z").await;
    assert_eq!(report["upcomingStatutoryDeadlines"], 5, "{report}");
    let (high, normal) = digest(&desk, A, "2026-03-28").await;
    assert_eq!(
        high,
        [
            "Appeal: Today",
            "Appeal: Tomorrow",
            "Appeal: in 3 days (31 Mar 2026)",
            "Appeal: in 3 days (31 Mar 2026)",
            "Appeal: in 7 days (4 Apr 2026)"
        ]
    );
    assert!(normal.is_empty());
    // Each ends with its day: today's in half an hour, tomorrow's, a short day, 23 hours later.
    let hours = desk
        .value("select string_agg(payload ->> 'hours_until_due', ' ' order by occasion) from causelist.event")
        .await;
    assert!(hours.starts_with("0.5 23.5 71.5 71.5 "), "{hours}");
    // Once per deadline: the next day names others.
    let before = desk.value("select count(*) from causelist.event").await;
    desk.run(KIND, None, "2026-03-28T23:45:00Z").await;
    assert_eq!(desk.value("select count(*) from causelist.event").await, before);
}

#[tokio::test]
async fn twenty_four_hours_can_reach_into_the_day_after_tomorrow() {
    let desk = Desk::firms().await;
    // 23:30 in London; the next day has 23 hours, so 24 hours later it's 00:30 two days on.
    task(&desk, A, "odd", "2026-03-29T23:30:00Z", "Low", "Open").await;
    desk.run(KIND, None, "2026-03-28T23:30:00Z").await;
    let (_, normal) = digest(&desk, A, "2026-03-28").await;
    assert_eq!(normal, ["odd: 30 Mar 12:30 AM"]);
}

#[tokio::test]
async fn preferences_hold_and_who_cannot_be_told_is_said() {
    let desk = Desk::firms().await;
    let now = "2026-03-10T09:00:00Z";
    task(&desk, A, "x", "2026-03-10T12:00:00Z", "Low", "Open").await;
    desk.sql(&format!(
        "insert into host.notification_preferences (tenant_id, user_id, task_reminders) values ('{A}', '{}', false)",
        member(A, 3)
    ))
    .await;
    let report = desk.run(KIND, None, now).await;
    assert_eq!(
        (&report["notificationsSent"], &report["failedNotifications"]),
        (&json!(0), &json!(0)),
        "{report}"
    );
    desk.sql(
        "update host.notification_preferences set task_reminders = true, email_enabled = false, in_app_enabled = false",
    )
    .await;
    let report = desk.run(KIND, None, now).await;
    assert_eq!(
        report["notTold"],
        json!([{"reason": "has switched off e-mail and in-app messages", "count": 1}])
    );
    // Nobody's task; one of somebody who left; and the owner's, where nobody is assigned.
    desk.sql("delete from host.notification_preferences; update host.tasks set assigned_to = gen_random_uuid()")
        .await;
    let report = desk.run(KIND, None, now).await;
    assert_eq!(
        (&report["failedNotifications"], &report["notificationsSent"]),
        (&json!(1), &json!(0)),
        "{report}"
    );
    desk.sql("update host.tasks set assigned_to = null, case_id = null")
        .await;
    assert_eq!(desk.run(KIND, None, now).await["failedNotifications"], 1);
    desk.sql(&format!("update host.tasks set case_id = '{}'", case(A)))
        .await;
    assert_eq!(desk.run(KIND, None, now).await["notificationsSent"], 2);
    let owner = member(A, 1);
    assert_eq!(
        desk.told("deadline-digest").await,
        [format!("user:{owner} email"), format!("user:{owner} in_app")]
    );
}
