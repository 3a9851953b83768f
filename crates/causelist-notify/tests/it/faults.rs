//! Trouble with the channel itself is no message's fault: all wait, none is charged.

use std::time::Duration;

use causelist_testkit::smtp::{At, Options, Reaction};

use crate::fixture::{Post, deliver, mailer, settings};

#[tokio::test]
async fn a_connection_that_the_server_closes_between_messages_is_renewed_at_no_messages_cost() {
    let post = Post::with(Options {
        messages_per_connection: Some(2),
        ..Options::default()
    })
    .await;
    for i in 0..7 {
        post.reserve(&format!("m{i}@x.example")).await;
    }
    post.server.script("m1@x.example", [Reaction::Drop(At::RcptTo)]);
    assert_eq!(post.deliver().await.expect("the job ends well")["accepted"], 7);
    assert!(post.rows().await.iter().all(|r| r.attempts == 1));
    assert!(post.server.connections() >= 4, "{}", post.server.connections());
}

#[tokio::test]
async fn connections_that_keep_breaking_stop_the_run_not_the_messages() {
    let post = Post::new().await;
    for i in 0..6 {
        let address = format!("m{i}@x.example");
        post.server.script(&address, [Reaction::Drop(At::RcptTo)]);
        post.reserve(&address).await;
    }
    let (delay, text) = post.deliver_and_snooze().await;
    assert_eq!(delay, Duration::from_secs(60));
    assert!(text.contains("3 new connections broke"), "{text}");
    let rows = post.rows().await;
    assert_eq!(rows.iter().map(|r| r.attempts).collect::<Vec<_>>(), [1, 1, 0, 0, 0, 0]);
    assert!(rows.iter().all(|r| r.state == "reserved" && !r.held), "{rows:?}");
    post.make_due().await;
    let mut left = 6;
    while left > 0 {
        let _ = post.deliver().await;
        post.make_due().await;
        left = post.rows().await.iter().filter(|r| r.state == "reserved").count();
    }
    assert_eq!(post.server.accepted().len(), 6);
}

#[tokio::test]
async fn a_server_that_is_away_or_refuses_us_costs_no_message_an_attempt() {
    let away = Post::new().await;
    away.reserve("a@x.example").await;
    let mut nobody = settings(&away.server);
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    nobody.port = socket.local_addr().expect("is bound").port();
    drop(socket);
    let end = deliver(away.pool(), away.tenant, mailer(nobody)).await;
    let Err(causelist_core::JobError::Snooze(delay, text)) = end else {
        panic!("{end:?}")
    };
    assert_eq!(delay, Duration::from_secs(60));
    assert!(
        text.contains("Connection refused") && text.contains("at connecting"),
        "{text}"
    );

    let line = |l: &str| Some(l.to_owned());
    let cases = [
        (
            Options {
                greeting: line("554 5.7.1 you are listed"),
                ..Options::default()
            },
            300,
            "554 5.7.1 at connecting",
        ),
        (
            Options {
                greeting: line("421 4.3.2 busy"),
                ..Options::default()
            },
            60,
            "421 4.3.2 at connecting",
        ),
        (
            Options {
                mail_from: line("550 5.7.1 not your sender"),
                ..Options::default()
            },
            300,
            "550 5.7.1 at MAIL FROM",
        ),
        (
            Options {
                login: Some(("u".into(), "p".into())),
                ..Options::default()
            },
            300,
            "530 5.7.0 at MAIL FROM",
        ),
    ];
    for (options, wait, words) in cases {
        let post = Post::with(options).await;
        let id = post.reserve("a@x.example").await;
        let (delay, text) = post.deliver_and_snooze().await;
        assert!(
            delay == Duration::from_secs(wait) && text.contains(words),
            "{delay:?} {text}"
        );
        let row = post.row(id).await;
        assert_eq!(
            (row.state.as_str(), row.attempts, row.held, row.waits),
            ("reserved", 0, false, false),
            "{words}"
        );
    }
}
