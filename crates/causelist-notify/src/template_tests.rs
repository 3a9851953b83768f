use chrono::{Duration, TimeZone as _};
use serde_json::json;

use super::*;
use crate::Secret;

fn signer() -> LinkSigner {
    LinkSigner::new(
        "https://jobs.example",
        Secret::new("0123456789abcdef"),
        Duration::days(7),
    )
    .expect("settings are fine")
}

fn try_render(template: &str, data: &Value) -> Result<Rendered, TemplateError> {
    let links = LinkContext {
        signer: &signer(),
        tenant: Uuid::from_u128(1),
        recipient: "user:00000000-0000-0000-0000-000000000002",
        now: Utc.timestamp_opt(1_736_900_000, 0).single().expect("is an instant"),
    };
    Templates::new()
        .expect("the templates compile")
        .render(template, data, &links)
}

fn render(template: &str, data: &Value) -> Rendered {
    try_render(template, data).expect("renders")
}

fn reminder() -> Value {
    json!({
        "caseNumber": "GST/2025/014", "caseTitle": "Mehta & Sons v. State Tax", "courtName": "GSTAT Mumbai",
        "courtCity": "Mumbai", "judge": null, "clientName": "Mehta & Sons", "hearingAt": "2025-01-15T10:30:00+05:30",
        "localDate": "Wed, 15 Jan 2025", "localTime": "10:30 AM IST", "when": "tomorrow",
        "recipientName": "Asha Rao", "firmName": "Rao Associates", "internal": true,
    })
}

fn line(title: &str, due: &str) -> Value {
    json!({"entityType": "task", "entityId": Uuid::from_u128(9), "title": title, "caseNumber": "GST/1", "dueWords": due})
}

fn digest(high: Vec<Value>, normal: Vec<Value>) -> Value {
    json!({"recipientName": "Asha Rao", "firmName": "Rao Associates", "localDate": "15 Jan 2025",
           "highPriority": high, "normalPriority": normal})
}

#[test]
fn a_reminder_says_what_a_member_must_know() {
    let mail = render("hearing-reminder", &reminder());
    assert_eq!(mail.subject, "Hearing Reminder: GST/2025/014 - GSTAT Mumbai");
    for part in [
        "a hearing tomorrow",
        "GST/2025/014 - Mehta & Sons v. State Tax",
        "Client:    Mehta & Sons",
        "Date:      Wed, 15 Jan 2025",
        "Time:      10:30 AM IST\n",
        "Court:     GSTAT Mumbai, Mumbai\n",
        "Judge:     to be assigned\n",
        "Vakalatnama",
        "Rao Associates",
    ] {
        assert!(mail.text.contains(part), "{part:?} in\n{}", mail.text);
    }
    assert!(mail.html.contains("Mehta &amp; Sons v. State Tax"), "{}", mail.html);
    let mut without = reminder();
    without["courtCity"] = Value::Null;
    without["judge"] = json!("Hon. K. Iyer");
    let mail = render("hearing-reminder", &without);
    assert!(
        mail.text.contains("Court:     GSTAT Mumbai\n") && mail.text.contains("Hon. K. Iyer"),
        "{}",
        mail.text
    );
}

#[test]
fn the_firms_checklist_is_for_members_only() {
    for (internal, shown) in [(json!(true), true), (json!(false), false), (Value::Null, false)] {
        let mut data = reminder();
        data["internal"] = internal.clone();
        let mail = render("hearing-reminder", &data);
        for text in [&mail.text, &mail.html] {
            for part in ["Before the hearing", "Vakalatnama", "Client informed"] {
                assert_eq!(text.contains(part), shown, "{internal}: {part:?} in\n{text}");
            }
            assert!(text.contains("Rao Associates"), "{text}");
        }
    }
}

#[test]
fn a_digest_shows_high_before_normal_with_links_that_verify() {
    let data = digest(
        vec![line("Reply to ASMT-10", "Today 5:00 PM")],
        vec![line("File index", "Tomorrow 10:30 AM")],
    );
    let mail = render("deadline-digest", &data);
    assert_eq!(mail.subject, "Deadlines 15 Jan 2025: 1 high priority, 1 normal");
    for text in [&mail.text, &mail.html] {
        let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part:?} in\n{text}"));
        let order = ["HIGH PRIORITY", "Reply to ASMT-10", "NORMAL PRIORITY", "File index"].map(place);
        assert!(order.is_sorted(), "{text}");
    }
    let now = Utc.timestamp_opt(1_736_900_000, 0).single().expect("is an instant");
    let urls: Vec<&str> = mail
        .text
        .split_whitespace()
        .filter_map(|w| w.strip_prefix("https://jobs.example"))
        .collect();
    assert_eq!(urls.len(), 6);
    for (url, purpose) in urls
        .iter()
        .zip([Purpose::View, Purpose::Reschedule, Purpose::Complete].iter().cycle())
    {
        let link = signer().verify(url, now).expect("verifies");
        assert_eq!((link.purpose, link.entity_id), (*purpose, Uuid::from_u128(9)));
        // A browser reads &amp; back as &; other escapes it reads back too.
        let in_html = mail.html.replace("&amp;", "&").replace("&#x2f;", "/");
        assert!(in_html.contains(url), "{in_html}");
    }
}

#[test]
fn a_digest_of_one_kind_or_of_thousands_is_still_a_mail() {
    let mail = render("deadline-digest", &digest(vec![], vec![line("x", "Today")]));
    assert!(!mail.text.contains("HIGH") && !mail.html.contains("HIGH"));
    let mail = render("deadline-digest", &digest(vec![], vec![]));
    assert!(mail.text.contains("Nothing is due."));
    let mail = render("deadline-digest", &digest(vec![line("x", "Today"); 5000], vec![]));
    assert!(
        mail.text.contains("... and 4800 more."),
        "{}",
        &mail.text[mail.text.len() - 200..]
    );
    assert!(mail.html.len() < 400_000, "{}", mail.html.len());
}

#[test]
fn alerts_and_escalations_leave_out_what_is_absent() {
    let mail = render(
        "health-alert",
        &json!({"level": "CRITICAL", "subject": "A rule fails", "detail": "Look at it.",
        "successRate": 72.5, "ruleName": "Notice response", "firmName": "Rao Associates"}),
    );
    assert_eq!(mail.subject, "[CRITICAL] A rule fails");
    assert!(
        mail.text.contains("Success rate: 72.5 %") && mail.text.contains("Rule: Notice response"),
        "{}",
        mail.text
    );
    let mail = render(
        "health-alert",
        &json!({"level": "INFO", "subject": "s", "detail": "d", "successRate": 0, "firmName": "f"}),
    );
    assert!(
        mail.text.contains("Success rate: 0 %") && !mail.text.contains("Rule"),
        "{}",
        mail.text
    );

    let data = json!({"taskTitle": "File appeal", "caseNumber": null, "priority": "Critical", "daysOverdue": 1,
        "reason": "overdue for more than 24 hours", "recipientName": "A", "firmName": "F"});
    let mail = render("escalation", &data);
    assert_eq!(mail.subject, "Escalation: File appeal");
    assert!(
        mail.text.contains("Overdue:   1 day\n") && !mail.text.contains("Case:"),
        "{}",
        mail.text
    );
}

#[test]
fn whatever_is_missing_or_of_a_wrong_type_is_named() {
    let problem = |template: &str, data: Value| {
        try_render(template, &data)
            .map(|m| m.text)
            .expect_err("is refused")
            .to_string()
    };
    let full = reminder();
    for name in full
        .as_object()
        .expect("is an object")
        .keys()
        .filter(|n| !["judge", "courtCity", "internal"].contains(&n.as_str()))
    {
        let mut data = full.clone();
        data.as_object_mut().expect("is an object").remove(name);
        assert_eq!(
            problem("hearing-reminder", data.clone()),
            format!("template 'hearing-reminder': field '{name}' is missing")
        );
        data[name] = json!({"canary": "Ravi Kumar"});
        assert_eq!(
            problem("hearing-reminder", data),
            format!("template 'hearing-reminder': field '{name}' must be text")
        );
    }
    let mut data = full;
    data["internal"] = json!("yes");
    assert_eq!(
        problem("hearing-reminder", data),
        "template 'hearing-reminder': field 'internal' must be true or false"
    );
    let mut bad = line("x", "Today");
    bad["entityId"] = json!("Ravi Kumar");
    assert_eq!(
        problem("deadline-digest", digest(vec![line("x", "Today"), bad.clone()], vec![])),
        "template 'deadline-digest': field 'highPriority[1].entityId' must be a uuid"
    );
    bad["entityType"] = json!("task/../x");
    assert!(
        problem("deadline-digest", digest(vec![bad], vec![]))
            .ends_with("'highPriority[0].entityType' must be a word of a-z and _")
    );
    assert!(
        problem("deadline-digest", digest(vec![json!("x")], vec![])).ends_with("'highPriority[0]' must be an object")
    );
    assert!(problem("deadline-digest", json!({})).ends_with("'recipientName' is missing"));
    assert!(problem("escalation", json!([1])).ends_with("'(data)' must be an object"));
    assert_eq!(
        problem("no-such\r\nthing", json!({})),
        "there is no template 'no-such  thing'"
    );
}

#[test]
fn values_forge_neither_lines_nor_markup_nor_template_code() {
    let mut data = reminder();
    data["caseNumber"] = json!("GST/1\r\nBcc: all@example.org\u{2028}x\u{202e}y");
    data["caseTitle"] = json!("<script>alert(1)</script>{{ firmName }}{% raw %}\" onload=\"x");
    data["clientName"] = json!("क्षेत्र\u{200d} ".repeat(1000));
    let mail = render("hearing-reminder", &data);
    assert_eq!(
        mail.subject,
        "Hearing Reminder: GST/1  Bcc: all@example.org x y - GSTAT Mumbai"
    );
    assert_eq!(mail.text.lines().filter(|l| l.contains("Bcc:")).count(), 1);
    assert!(mail.text.contains("{{ firmName }}{% raw %}"), "{}", mail.text);
    assert!(
        !mail.html.contains("<script") && !mail.html.contains("\" onload"),
        "{}",
        mail.html
    );
    assert!(mail.text.contains('\u{200d}') && mail.text.len() < 10_000);
}
