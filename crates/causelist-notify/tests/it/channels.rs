//! The transports themselves: encryption, login, the maildir.

use std::time::Duration;

use causelist_core::JobError;
use causelist_notify::{Maildir, Secret, SmtpSettings, SmtpSettingsError, SmtpTls, SmtpTransport, Transport};
use causelist_testkit::smtp::{Options, Tls};

use crate::fixture::{Post, deliver, mailer, reminder, settings, with_transport};

fn login() -> Option<(String, String)> {
    Some(("jobs".to_owned(), "s3cret pass".to_owned()))
}

fn with_login(mut settings: SmtpSettings, password: &str) -> SmtpSettings {
    settings.login = Some(("jobs".to_owned(), Secret::new(password)));
    settings
}

#[tokio::test]
async fn logs_in_over_tls_from_the_first_byte_and_over_starttls() {
    for (theirs, ours) in [(Tls::Implicit, SmtpTls::Implicit), (Tls::StartTls, SmtpTls::StartTls)] {
        for only_auth_login in [false, true] {
            let post = Post::with(Options {
                tls: theirs,
                login: login(),
                only_auth_login,
                ..Options::default()
            })
            .await;
            post.reserve("a@x.example").await;
            post.reserve("b@x.example").await;
            let mut settings = with_login(settings(&post.server), "s3cret pass");
            settings.tls = ours;
            let report = deliver(post.pool(), post.tenant, mailer(settings))
                .await
                .expect("ends well");
            assert_eq!(
                (report["accepted"].as_u64(), post.server.connections()),
                (Some(2), 1),
                "{ours:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_server_that_can_not_be_trusted_gets_neither_mail_nor_password() {
    let snooze = |end| match end {
        Err(JobError::Snooze(delay, text)) => (delay, text),
        other => panic!("should snooze: {other:?}"),
    };
    let five_minutes = Duration::from_secs(300);
    // An authority that nobody knows.
    for (theirs, ours) in [(Tls::Implicit, SmtpTls::Implicit), (Tls::StartTls, SmtpTls::StartTls)] {
        let post = Post::with(Options {
            tls: theirs,
            login: login(),
            ..Options::default()
        })
        .await;
        post.reserve("a@x.example").await;
        let mut untrusting = with_login(settings(&post.server), "s3cret pass");
        (untrusting.tls, untrusting.extra_root) = (ours, None);
        let (delay, text) = snooze(deliver(post.pool(), post.tenant, mailer(untrusting)).await);
        assert!(
            delay == five_minutes && text.contains("TLS failed") && text.contains("certificate"),
            "{delay:?} {text}"
        );
        // The right authority, another name.
        let mut misnamed = settings(&post.server);
        (misnamed.tls, misnamed.host) = (ours, "127.0.0.1".to_owned());
        let (delay, text) = snooze(deliver(post.pool(), post.tenant, mailer(misnamed)).await);
        assert!(delay == five_minutes && text.contains("TLS failed"), "{delay:?} {text}");
        assert_eq!(post.server.received().len(), 0);
    }
    // No STARTTLS where it was asked for.
    let post = Post::with(Options {
        login: login(),
        ..Options::default()
    })
    .await;
    post.reserve("a@x.example").await;
    let mut strict = with_login(settings(&post.server), "s3cret pass");
    strict.tls = SmtpTls::StartTls;
    let (delay, text) = snooze(deliver(post.pool(), post.tenant, mailer(strict)).await);
    assert!(delay == five_minutes && text.contains("offers no STARTTLS"), "{text}");
    // A wrong password.
    let wrong = with_login(settings(&post.server), "canary");
    let (delay, text) = snooze(deliver(post.pool(), post.tenant, mailer(wrong)).await);
    assert!(
        delay == five_minutes && text.contains("535 5.7.8 at logging in") && text.contains("check user and password"),
        "{text}"
    );
    assert!(!text.contains("canary"));
    // A name that nobody has.
    let mut nowhere = settings(&post.server);
    nowhere.host = "no-such-host.invalid".to_owned();
    let (delay, text) = snooze(deliver(post.pool(), post.tenant, mailer(nowhere)).await);
    assert!(
        delay == Duration::from_secs(60) && text.contains("lookup") && text.contains("no-such-host.invalid"),
        "{text}"
    );
    // TLS spoken to a server that doesn't.
    let mut deaf = settings(&post.server);
    deaf.tls = SmtpTls::Implicit;
    deaf.timeout = Duration::from_secs(2);
    let (_, text) = snooze(deliver(post.pool(), post.tenant, mailer(deaf)).await);
    assert!(text.contains("at connecting"), "{text}");
    let row = &post.rows().await[0];
    assert_eq!((row.state.as_str(), row.attempts), ("reserved", 0));
}

#[tokio::test]
async fn an_address_beyond_ascii_goes_where_the_server_takes_it() {
    let post = Post::with(Options {
        smtp_utf8: true,
        ..Options::default()
    })
    .await;
    post.reserve("आशा@x.example").await;
    assert_eq!(post.deliver().await.expect("ends well")["accepted"], 1);
    assert_eq!(post.got("आशा@x.example"), 1);
}

#[test]
fn settings_that_can_not_work_are_refused_and_secrets_not_shown() {
    let good = SmtpSettings {
        host: "mail.x.example".into(),
        port: 587,
        tls: SmtpTls::StartTls,
        login: Some(("jobs".into(), Secret::new("canary"))),
        extra_root: None,
        timeout: Duration::from_secs(30),
    };
    let with = |change: fn(&mut SmtpSettings)| {
        let mut settings = good.clone();
        change(&mut settings);
        SmtpTransport::new(settings).err()
    };
    assert_eq!(with(|_| ()), None);
    assert_eq!(with(|s| s.host = " ".into()), Some(SmtpSettingsError::NoHost));
    assert_eq!(with(|s| s.timeout = Duration::ZERO), Some(SmtpSettingsError::NoTimeout));
    assert_eq!(with(|s| s.extra_root = Some("x".into())), Some(SmtpSettingsError::Root));
    assert_eq!(
        with(|s| s.tls = SmtpTls::None),
        Some(SmtpSettingsError::ClearPassword("mail.x.example".into()))
    );
    assert_eq!(with(|s| (s.tls, s.host) = (SmtpTls::None, "localhost".into())), None);
    assert!(!format!("{good:?}").contains("canary"));
    let transport = SmtpTransport::new(good).expect("settings are fine");
    assert!(!format!("{:?}", mailer_debug(transport)).contains("canary"));
}

fn mailer_debug(transport: SmtpTransport) -> causelist_notify::Mailer {
    with_transport(Transport::Smtp(transport))
}

#[tokio::test]
async fn a_maildir_gets_one_file_per_mail_and_nothing_leaves_the_machine() {
    let post = Post::new().await;
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("mail/demo");
    post.reserve("a@x.example").await;
    post.reserve("b@x.example").await;
    let mut incomplete = reminder();
    incomplete["when"] = serde_json::Value::Null;
    post.reserve_with("c@x.example", incomplete).await;
    let report = deliver(
        post.pool(),
        post.tenant,
        with_transport(Transport::Maildir(Maildir::new(&path))),
    )
    .await;
    let report = report.expect("ends well");
    assert_eq!(
        (report["accepted"].as_u64(), report["rejected"].as_u64()),
        (Some(2), Some(1))
    );
    let files = |part: &str| -> Vec<_> {
        std::fs::read_dir(path.join(part))
            .expect("is there")
            .map(|f| f.expect("a file").path())
            .collect()
    };
    assert_eq!((files("new").len(), files("tmp").len(), files("cur").len()), (2, 0, 0));
    let mut mails: Vec<String> = files("new")
        .iter()
        .map(|f| std::fs::read_to_string(f).expect("is text"))
        .collect();
    mails.sort();
    assert!(
        mails[0].contains("To: a@x.example\r\n") || mails[1].contains("To: a@x.example\r\n"),
        "{mails:?}"
    );
    assert!(
        mails
            .iter()
            .all(|m| m.contains("Subject: Hearing Reminder: GST/2025/014 - GSTAT Mumbai\r\n"))
    );
    assert_eq!(post.server.connections(), 0);
    let again = deliver(
        post.pool(),
        post.tenant,
        with_transport(Transport::Maildir(Maildir::new(&path))),
    )
    .await;
    assert_eq!(
        (again.expect("ends well")["accepted"].as_u64(), files("new").len()),
        (Some(0), 2)
    );
}

#[tokio::test]
async fn a_maildir_that_can_not_be_written_keeps_the_mail_waiting() {
    let post = Post::new().await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let id = post.reserve("a@x.example").await;
    let end = deliver(
        post.pool(),
        post.tenant,
        with_transport(Transport::Maildir(Maildir::new(file.path()))),
    )
    .await;
    assert!(
        matches!(&end, Err(JobError::Snooze(_, text)) if text.contains("can't be created")),
        "{end:?}"
    );
    assert_eq!(post.row(id).await.state, "reserved");
}
