//! send-hearing-reminders at its boundaries.

use serde_json::{Value, json};

use crate::fixture::{A, B, Desk, case, member};

const KIND: &str = "send-hearing-reminders";

async fn hearing(desk: &Desk, firm: uuid::Uuid, n: u32, when: &str, status: &str) {
    desk.sql(&format!(
        "insert into host.hearings (id, tenant_id, case_id, hearing_date, court_name, status)
         values ('00000000-0000-0000-0000-{n:012}', '{firm}', '{}', '{when}', 'Bench {n}', '{status}')",
        case(firm)
    ))
    .await;
}

/// `<last digit of the hearing> <occasion>`, of the client's mails.
async fn reminded(desk: &Desk) -> String {
    desk.value(
        "select string_agg(right(entity_id::text, 1) || ' ' || occasion, ', ' order by entity_id, occasion)
         from causelist.message where template = 'hearing-reminder' and recipient like 'client:%'",
    )
    .await
}

#[tokio::test]
async fn today_and_tomorrow_end_at_midnight_of_the_tenants_zone() {
    let desk = Desk::firms().await;
    // London, on the day the clocks go forward: 29 March 2026 has 23 hours.
    let instants = [
        (1, "2026-03-28T23:59:59Z"),
        (2, "2026-03-29T00:00:00Z"),
        (3, "2026-03-29T22:59:59Z"),
        (4, "2026-03-29T23:00:00Z"),
        (5, "2026-03-30T22:59:59Z"),
        (6, "2026-03-30T23:00:00Z"),
    ];
    for (n, when) in instants {
        hearing(&desk, A, n, when, "Scheduled").await;
    }
    let report = desk.run(KIND, Some(A), "2026-03-29T00:00:00Z").await;
    assert_eq!(report["hearingsProcessed"], 4, "{report}");
    assert_eq!(
        reminded(&desk).await,
        "2 2026-03-29 T-0, 3 2026-03-29 T-0, 4 2026-03-30 T-1, 5 2026-03-30 T-1"
    );
    // Firm B has no settings: Asia/Kolkata. Its day begins at 18:30 UTC.
    for (n, when) in [
        (7, "2026-03-28T18:29:59Z"),
        (8, "2026-03-28T18:30:00Z"),
        (9, "2026-03-30T18:29:59Z"),
    ] {
        hearing(&desk, B, n, when, "Scheduled").await;
    }
    let report = desk.run(KIND, Some(B), "2026-03-28T18:30:00Z").await;
    assert_eq!(report["tenants"][0]["hearingsProcessed"], 2, "{report}");
    assert!(reminded(&desk).await.ends_with("8 2026-03-29 T-0, 9 2026-03-30 T-1"));
    let data = desk
        .value(
            "select data ->> 'localTime' || ' ' || (data ->> 'localDate') || ' ' || (data ->> 'when')
                from causelist.message where entity_id::text like '%9' and channel = 'email' limit 1",
        )
        .await;
    assert_eq!(data, "11:59 PM IST Mon, 30 Mar 2026 tomorrow");
}

#[tokio::test]
async fn only_scheduled_hearings_in_any_letter_case() {
    let desk = Desk::firms().await;
    for (n, status) in [
        (1, "SCHEDULED"),
        (2, "scheduled"),
        (3, "Cancelled"),
        (4, "Adjourned"),
        (5, "withdrawn"),
        (6, "No-board"),
    ] {
        hearing(&desk, A, n, "2026-03-10T10:30:00Z", status).await;
    }
    let report = desk.run(KIND, Some(A), "2026-03-10T08:00:00Z").await;
    assert_eq!(report["hearingsProcessed"], 2, "{report}");
    // Owner and advocate by mail and in-app, the client by mail.
    assert_eq!(report["notificationsSent"], 10, "{report}");
}

#[tokio::test]
async fn a_reminder_is_sent_once_and_anew_when_the_hearing_moves() {
    let desk = Desk::firms().await;
    hearing(&desk, A, 1, "2026-03-11T10:30:00Z", "Scheduled").await;
    let sent = |report: Value| report["notificationsSent"].clone();
    assert_eq!(sent(desk.run(KIND, None, "2026-03-10T08:00:00Z").await), 5);
    assert_eq!(sent(desk.run(KIND, None, "2026-03-10T15:00:00Z").await), 0);
    assert_eq!(sent(desk.run(KIND, None, "2026-03-11T08:00:00Z").await), 5);
    desk.sql("update host.hearings set hearing_date = '2026-03-12T10:30:00Z'")
        .await;
    assert_eq!(sent(desk.run(KIND, None, "2026-03-11T09:00:00Z").await), 5);
    // Back to its old date: of that the people know.
    desk.sql("update host.hearings set hearing_date = '2026-03-11T12:30:00Z'")
        .await;
    assert_eq!(sent(desk.run(KIND, None, "2026-03-11T09:30:00Z").await), 0);
    assert_eq!(
        reminded(&desk).await,
        "1 2026-03-11 T-0, 1 2026-03-11 T-1, 1 2026-03-12 T-1"
    );
}

#[tokio::test]
async fn a_person_with_two_roles_is_told_once() {
    let desk = Desk::firms().await;
    desk.sql("update host.cases set assigned_to = owner_id").await;
    hearing(&desk, A, 1, "2026-03-10T10:30:00Z", "Scheduled").await;
    assert_eq!(
        desk.run(KIND, None, "2026-03-10T08:00:00Z").await["notificationsSent"],
        3
    );
    assert_eq!(desk.told("hearing-reminder").await.len(), 3);
}

#[tokio::test]
async fn preferences_switches_and_quiet_hours_hold() {
    let desk = Desk::firms().await;
    // A year to come: of a run in the past, the clock of the moment is what counts.
    let (owner, advocate) = (member(A, 1), member(A, 3));
    // The owner wants to hear three days ahead, by mail, and not at night; the advocate not at all.
    desk.sql(&format!(
        "insert into host.notification_preferences (tenant_id, user_id, in_app_enabled, hearing_reminders, reminder_days, quiet_hours_start, quiet_hours_end)
         values ('{A}', '{owner}', false, true, '{{3}}', '21:00', '07:00'), ('{A}', '{advocate}', true, false, '{{1,0}}', null, null);
         update causelist.tenant_setting set reminders_to_client = false where tenant = '{A}'"
    ))
    .await;
    hearing(&desk, A, 1, "2099-03-31T09:30:00Z", "Scheduled").await;
    hearing(&desk, A, 2, "2099-03-29T09:30:00Z", "Scheduled").await;
    // 22:30 in London on the eve of summer time: the quiet hours end at 07:00 BST.
    let report = desk.run(KIND, Some(A), "2099-03-28T22:30:00Z").await;
    assert_eq!(report["notificationsSent"], 1, "{report}");
    assert_eq!(report["failedNotifications"], 0, "{report}");
    assert_eq!(desk.told("hearing-reminder").await, [format!("user:{owner} email")]);
    assert_eq!(
        desk.value("select not_before = '2099-03-29T06:00:00Z' from causelist.message")
            .await,
        "true"
    );
    assert_eq!(
        desk.value("select run_at = '2099-03-29T06:00:00Z' from causelist.scheduled")
            .await,
        "true"
    );
    assert_eq!(
        desk.value("select right(entity_id::text, 1) from causelist.message")
            .await,
        "1"
    );
}

#[tokio::test]
async fn quiet_hours_are_those_of_the_moment_the_message_leaves() {
    let desk = Desk::firms().await;
    // In India, which has no summer time. The owner's last from an hour ago to an hour from now; the advocate's are over by now, and
    // were not at the instant of the run.
    let (owner, advocate) = (member(B, 1), member(B, 3));
    desk.sql(&format!(
        "insert into host.notification_preferences (tenant_id, user_id, quiet_hours_start, quiet_hours_end)
         select '{B}', v.id, v.at - interval '1 hour', v.at + interval '1 hour'
         from (select uuid '{owner}' as id, (now() at time zone 'Asia/Kolkata')::time as at
               union all select '{advocate}', (now() at time zone 'Asia/Kolkata')::time + interval '12 hours') v"
    ))
    .await;
    // Long past, and at the advocate's quiet time.
    let instant = desk
        .value(
            "select to_char((date '2026-03-10' + (now() at time zone 'Asia/Kolkata')::time + interval '12 hours') at time zone 'Asia/Kolkata' at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')",
        )
        .await;
    hearing(&desk, B, 1, "2026-03-12T10:30:00Z", "Scheduled").await;
    desk.sql("update host.notification_preferences set reminder_days = '{0,1,2}'")
        .await;
    let plan = desk.plan(KIND, Some(B), &instant).await;
    let report = desk.run(KIND, Some(B), &instant).await;
    assert_eq!(report["notificationsSent"], plan["notificationsSent"], "{report}");
    assert_eq!(
        desk.value(&format!(
            "select not_before > now() and not_before <= now() + interval '1 hour'
             from causelist.message where channel = 'email' and recipient = 'user:{owner}'"
        ))
        .await,
        "true",
        "held back until the quiet hours of today end"
    );
    assert_eq!(
        desk.value(&format!(
            "select not_before is null from causelist.message where channel = 'email' and recipient = 'user:{advocate}'"
        ))
        .await,
        "true",
        "quiet then, not now"
    );
}

#[tokio::test]
async fn a_hearing_that_has_begun_is_processed_and_nobody_is_reminded_of_it() {
    let desk = Desk::firms().await;
    hearing(&desk, A, 1, "2026-03-10T07:59:59Z", "Scheduled").await;
    hearing(&desk, A, 2, "2026-03-10T08:00:00Z", "Scheduled").await;
    // Nor is anybody counted who could not have been told of it.
    desk.sql(&format!(
        "update host.employees set status = 'Inactive' where id = '{}'",
        member(A, 1)
    ))
    .await;
    let now = "2026-03-10T08:00:00Z";
    let plan = desk.plan(KIND, Some(A), now).await;
    let report = desk.run(KIND, Some(A), now).await;
    for answer in [&plan, &report] {
        assert_eq!(
            (
                &answer["hearingsProcessed"],
                &answer["notificationsSent"],
                &answer["failedNotifications"]
            ),
            (&json!(2), &json!(3), &json!(1)),
            "{answer}"
        );
    }
    assert_eq!(
        plan["first"][0]["notTold"],
        json!([{"who": "everybody", "reason": "the hearing has begun"}])
    );
    let of = "select count(*) from causelist.message where entity_id::text like ";
    assert_eq!(desk.value(&format!("{of}'%1'")).await, "0");
    assert_eq!(desk.value(&format!("{of}'%2'")).await, "3");
}

#[tokio::test]
async fn clients_are_not_shown_the_checklist_and_times_name_their_zone() {
    let desk = Desk::firms().await;
    hearing(&desk, A, 1, "2026-07-10T10:30:00Z", "Scheduled").await;
    hearing(&desk, B, 2, "2026-07-10T10:30:00Z", "Scheduled").await;
    desk.run(KIND, None, "2026-07-10T08:00:00Z").await;
    let said = desk
        .value(
            "select string_agg(distinct concat_ws(' ', right(entity_id::text, 1), split_part(recipient, ':', 1), data -> 'internal', data ->> 'localTime'), ', ')
             from causelist.message",
        )
        .await;
    assert_eq!(
        said,
        "1 client false 11:30 AM UTC+01:00, 1 user true 11:30 AM UTC+01:00, \
         2 client false 4:00 PM IST, 2 user true 4:00 PM IST"
    );
    let message = desk
        .value("select data ->> 'message' from causelist.message where entity_id::text like '%2' limit 1")
        .await;
    assert_eq!(message, "Hearing today, 10 Jul 2026 4:00 PM IST, Bench 2");
}

#[tokio::test]
async fn says_whom_it_could_not_tell_and_why() {
    let desk = Desk::firms().await;
    desk.sql(&format!(
        "update host.clients set email = ' ' where tenant_id = '{A}';
         update host.employees set status = 'Inactive' where id = '{}';
         insert into host.notification_preferences (tenant_id, user_id, email_enabled, in_app_enabled) values ('{A}', '{}', false, false)",
        member(A, 1),
        member(A, 3)
    ))
    .await;
    hearing(&desk, A, 1, "2026-03-10T10:30:00Z", "Scheduled").await;
    let plan = desk.plan(KIND, Some(A), "2026-03-10T08:00:00Z").await;
    let report = desk.run(KIND, Some(A), "2026-03-10T08:00:00Z").await;
    assert_eq!(
        (&report["notificationsSent"], &report["failedNotifications"]),
        (&json!(0), &json!(3)),
        "{report}"
    );
    let reasons: Vec<&str> = report["notTold"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["reason"].as_str().unwrap())
        .collect();
    assert_eq!(
        reasons,
        [
            "has switched off e-mail and in-app messages",
            "the case's owner is no active member",
            "the client has no e-mail address"
        ]
    );
    assert_eq!(plan["first"][0]["notTold"].as_array().unwrap().len(), 3, "{plan}");
    desk.sql("update host.cases set owner_id = null, assigned_to = null, client_id = null")
        .await;
    let report = desk.run(KIND, Some(A), "2026-03-10T08:00:00Z").await;
    assert_eq!(
        report["notTold"],
        json!([{"reason": "the case has no owner, advocate or client", "count": 1}])
    );
}
