//! Each way a conversation can end leads to its state in the ledger.

use std::time::Duration;

use causelist_notify::ledger::MESSAGE_RETRY;
use causelist_testkit::smtp::{At, Options, Reaction};
use serde_json::{Value, json};

use crate::fixture::{Post, deliver, mailer, reminder, reserve, settings};

#[tokio::test]
async fn accepted_messages_go_out_once_over_one_connection() {
    let post = Post::new().await;
    for i in 0..5 {
        post.reserve(&format!("m{i}@x.example")).await;
    }
    let report = post.deliver().await.expect("the job ends well");
    assert_eq!(
        report,
        json!({"accepted": 5, "rejected": 0, "postponed": 0, "unknown": 0})
    );
    assert_eq!(
        (
            post.server.accepted().len(),
            post.server.connections(),
            post.server.quits()
        ),
        (5, 1, 1)
    );
    for row in post.rows().await {
        assert_eq!(
            (row.state.as_str(), row.attempts, row.settled, row.error),
            ("accepted", 1, true, None)
        );
        let id = row.provider_id.expect("has its Message-ID");
        let mail = post
            .server
            .accepted()
            .into_iter()
            .find(|m| Some(&m.to) == row.address.as_ref())
            .expect("arrived");
        assert!(mail.raw.contains(&format!("Message-ID: {id}\r\n")), "{}", mail.raw);
        assert!(
            mail.raw
                .contains("Subject: Hearing Reminder: GST/2025/014 - GSTAT Mumbai\r\n"),
            "{}",
            mail.raw
        );
        assert_eq!(mail.from, "jobs@firm.example");
    }
    let report = post.deliver().await.expect("a second run finds nothing");
    assert_eq!(report["accepted"], 0);
    assert_eq!(
        (post.server.received().len(), post.server.connections()),
        (5, 1),
        "and does not even connect"
    );
}

#[tokio::test]
async fn refusals_for_good_reject_and_the_rest_goes_on() {
    let post = Post::new().await;
    let refused = [
        (At::RcptTo, "550 5.1.1 no such user"),
        (At::Data, "554 no"),
        (At::EndOfData, "552 5.3.4 too big"),
    ];
    for (at, line) in refused {
        let address = format!("{at:?}@x.example");
        post.server.script(&address, [Reaction::answer(at, line)]);
        post.reserve(&address).await;
    }
    post.reserve("good@x.example").await;
    let report = post.deliver().await.expect("the job ends well");
    assert_eq!(
        report,
        json!({"accepted": 1, "rejected": 3, "postponed": 0, "unknown": 0})
    );
    let errors: Vec<Option<String>> = post.rows().await.into_iter().map(|r| r.error).collect();
    let wanted = [
        Some("550 5.1.1 at RCPT TO (no such mailbox)"),
        Some("554 at DATA (the transaction failed)"),
        Some("552 5.3.4 at the end of the data (the message is too large)"),
        None,
    ];
    assert_eq!(errors, wanted.map(|e| e.map(str::to_owned)));
    assert_eq!(post.server.connections(), 1);
    assert_eq!(post.deliver().await.expect("nothing is left")["rejected"], 0);
}

#[tokio::test]
async fn refusals_for_now_are_tried_again_later_then_given_up() {
    let post = Post::new().await;
    let twice = [At::RcptTo, At::EndOfData].map(|at| Reaction::answer(at, "451 4.7.1 come back later"));
    post.server.script("slow@x.example", twice);
    post.server.script(
        "never@x.example",
        vec![Reaction::answer(At::RcptTo, "450 4.2.1 not now"); 9],
    );
    let slow = post.reserve("slow@x.example").await;
    let never = post.reserve("never@x.example").await;

    let (delay, text) = post.deliver_and_snooze().await;
    assert!((50..=60).contains(&delay.as_secs()), "{delay:?}");
    assert!(
        text.starts_with("accepted 0, rejected 0, postponed 2, unknown 0; 2 wait"),
        "{text}"
    );
    let row = post.row(slow).await;
    assert_eq!(
        (row.state.as_str(), row.attempts, row.waits, row.held, row.settled),
        ("reserved", 1, true, false, false)
    );
    assert_eq!(row.error.as_deref(), Some("451 4.7.1 at RCPT TO (refused by policy)"));

    post.deliver_and_snooze().await;
    assert_eq!(post.server.offers("slow@x.example"), 1, "what waits is not offered");

    post.make_due().await;
    let (delay, _) = post.deliver_and_snooze().await;
    assert!(
        (100..=120).contains(&delay.as_secs()),
        "the second wait is longer: {delay:?}"
    );
    assert_eq!(
        post.row(slow).await.error.as_deref(),
        Some("451 4.7.1 at the end of the data (refused by policy)")
    );

    for _ in 2..MESSAGE_RETRY.max_attempts {
        post.make_due().await;
        let _ = post.deliver().await;
    }
    let row = post.row(slow).await;
    assert_eq!((row.state.as_str(), row.attempts, row.error), ("accepted", 3, None));
    let row = post.row(never).await;
    assert_eq!((row.state.as_str(), row.attempts), ("rejected", 6));
    let error = "gave up after 6 attempts; the last: 450 4.2.1 at RCPT TO (the mailbox is disabled)";
    assert_eq!(row.error.as_deref(), Some(error));
    assert_eq!(post.deliver().await.expect("nothing is left")["rejected"], 0);
    assert_eq!((post.got("slow@x.example"), post.got("never@x.example")), (1, 0));
    let ids: Vec<String> = post
        .server
        .received()
        .iter()
        .flat_map(|m| {
            m.raw
                .lines()
                .filter(|l| l.starts_with("Message-ID"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(ids.len() == 2 && ids[0] == ids[1], "the Message-ID stays: {ids:?}");
}

#[tokio::test]
async fn a_break_after_the_data_is_unknown_for_ever() {
    let post = Post::new().await;
    post.server.script("lost@x.example", [Reaction::Drop(At::EndOfData)]);
    let lost = post.reserve("lost@x.example").await;
    post.reserve("next@x.example").await;
    let report = post.deliver().await.expect("the job ends well");
    assert_eq!(
        report,
        json!({"accepted": 1, "rejected": 0, "postponed": 0, "unknown": 1})
    );
    let row = post.row(lost).await;
    assert_eq!((row.state.as_str(), row.settled, row.waits), ("unknown", true, false));
    let error = row.error.expect("says why");
    assert!(
        error.starts_with("no answer: ") && error.ends_with(" at the end of the data"),
        "{error}"
    );
    for _ in 0..3 {
        post.make_due().await;
        post.deliver().await.expect("nothing is left");
    }
    assert_eq!(
        (post.got("lost@x.example"), post.server.offers("lost@x.example")),
        (1, 1)
    );
    let mut db = post.pool().acquire().await.expect("a connection");
    assert_eq!(
        causelist_notify::ledger::count_unknown(&mut db).await.expect("counts"),
        1
    );
}

#[tokio::test]
async fn an_answer_that_does_not_come_or_is_none_is_unknown() {
    let post = Post::new().await;
    post.server.script("mute@x.example", [Reaction::Hold]);
    post.server
        .script("odd@x.example", [Reaction::answer(At::EndOfData, "354 go on")]);
    post.server
        .script("junk@x.example", [Reaction::answer(At::EndOfData, "hello canary")]);
    let ids = [
        post.reserve("mute@x.example").await,
        post.reserve("odd@x.example").await,
        post.reserve("junk@x.example").await,
    ];
    let mut quick = settings(&post.server);
    quick.timeout = Duration::from_millis(300);
    let report = deliver(post.pool(), post.tenant, mailer(quick))
        .await
        .expect("the job ends well");
    assert_eq!(report["unknown"], 3);
    let errors = [
        post.row(ids[0]).await.error,
        post.row(ids[1]).await.error,
        post.row(ids[2]).await.error,
    ]
    .map(Option::unwrap_or_default);
    assert_eq!(errors[0], "no answer: timed out at the end of the data");
    assert!(errors[1].contains("neither yes nor no"), "{errors:?}");
    assert!(
        errors[2].contains("not SMTP") && !errors[2].contains("canary"),
        "{errors:?}"
    );
}

#[tokio::test]
async fn a_break_before_the_data_sends_nothing_and_is_tried_again() {
    for at in [At::RcptTo, At::Data] {
        let post = Post::new().await;
        post.server.script("a@x.example", [Reaction::Drop(at)]);
        let id = post.reserve("a@x.example").await;
        post.deliver_and_snooze().await;
        let row = post.row(id).await;
        assert_eq!(
            (row.state.as_str(), row.attempts, row.held),
            ("reserved", 1, false),
            "{at:?}"
        );
        assert_eq!(post.server.received().len(), 0);
        post.make_due().await;
        assert_eq!(post.deliver().await.expect("is delivered")["accepted"], 1);
        assert_eq!(post.got("a@x.example"), 1);
    }
}

#[tokio::test]
async fn a_message_that_was_never_written_to_its_end_is_known_not_to_be_sent() {
    let options = Options {
        small_buffers: true,
        ..Options::default()
    };
    let post = Post::with(options).await;
    post.server.script("a@x.example", [Reaction::Drop(At::InData)]);
    // Over 3 MB, more than the sockets hold: the break shows while the data is being written.
    let line = json!({"entityType": "task", "entityId": post.tenant, "title": "क".repeat(1000), "dueWords": "Today"});
    let data = json!({"recipientName": "A", "firmName": "F", "localDate": "today",
                      "highPriority": vec![&line; 200], "normalPriority": vec![&line; 200]});
    let id = reserve(post.pool(), post.tenant, "deadline-digest", Some("a@x.example"), data).await;
    post.deliver_and_snooze().await;
    let row = post.row(id).await;
    assert_eq!((row.state.as_str(), row.attempts), ("reserved", 1), "{row:?}");
    let error = row.error.unwrap_or_default();
    assert!(error.starts_with("before the end of the data: "), "{error}");
    post.make_due().await;
    assert_eq!(post.deliver().await.expect("is delivered")["accepted"], 1);
    assert_eq!(post.got("a@x.example"), 1);
}

#[tokio::test]
async fn a_break_that_may_have_come_after_the_data_is_unknown() {
    let post = Post::new().await;
    post.server.script("a@x.example", [Reaction::Drop(At::InData)]);
    // Small enough to be written whole before the break shows: nobody here can tell.
    let id = post.reserve("a@x.example").await;
    let report = post.deliver().await;
    let row = post.row(id).await;
    // Had the break been quicker, it would be known that nothing was sent.
    assert!(
        ["unknown", "reserved"].contains(&row.state.as_str()),
        "{row:?} {report:?}"
    );
    post.make_due().await;
    let _ = post.deliver().await;
    assert!(post.got("a@x.example") <= 1);
}

#[tokio::test]
async fn what_can_not_be_rendered_or_addressed_is_rejected_with_the_reason() {
    let post = Post::new().await;
    let mut incomplete = reminder();
    incomplete.as_object_mut().expect("is an object").remove("courtName");
    let a = post.reserve_with("a@x.example", incomplete).await;
    let b = post.reserve("not an address").await;
    let c = reserve(post.pool(), post.tenant, "hearing-reminder", None, reminder()).await;
    let d = reserve(post.pool(), post.tenant, "no-such", Some("a@x.example"), json!({})).await;
    let e = reserve(post.pool(), post.tenant, "escalation", Some("a@x.example"), Value::Null).await;
    let f = post.reserve("ungewöhnlich@x.example").await;
    post.reserve("good@x.example").await;
    let report = post.deliver().await.expect("the job ends well");
    assert_eq!(
        report,
        json!({"accepted": 1, "rejected": 6, "postponed": 0, "unknown": 0})
    );
    for (id, words) in [
        (a, "template 'hearing-reminder': field 'courtName' is missing"),
        (
            b,
            "the recipient's address is not a valid e-mail address: correct it in the host application",
        ),
        (
            c,
            "there is no e-mail address for the recipient: enter one in the host application",
        ),
        (d, "there is no template 'no-such'"),
        (e, "template 'escalation': field '(data)' must be an object"),
        (
            f,
            "the mail server takes no address with letters beyond ASCII (SMTPUTF8)",
        ),
    ] {
        let row = post.row(id).await;
        assert_eq!(
            (row.state.as_str(), row.error.as_deref(), row.provider_id),
            ("rejected", Some(words), None)
        );
    }
}

#[tokio::test]
async fn what_is_not_due_waits_and_the_job_comes_back_for_it() {
    let post = Post::new().await;
    let quiet = post.reserve("quiet@x.example").await;
    sqlx::query("update causelist.message set not_before = now() + interval '90 minutes' where id = $1")
        .bind(quiet)
        .execute(post.pool())
        .await
        .expect("is put off");
    post.reserve("now@x.example").await;
    let (delay, text) = post.deliver_and_snooze().await;
    assert!((5390..=5400).contains(&delay.as_secs()), "{delay:?}");
    assert!(
        text.starts_with("accepted 1,") && text.contains("1 wait, the first for 53"),
        "{text}"
    );
    assert_eq!((post.got("now@x.example"), post.got("quiet@x.example")), (1, 0));
    post.make_due().await;
    assert_eq!(post.deliver().await.expect("is delivered")["accepted"], 1);
}
