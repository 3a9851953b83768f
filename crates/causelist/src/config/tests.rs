use std::collections::BTreeSet;

use super::layers::Layers;
use super::*;

fn with_env(env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::load(None, env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())), &[])
}

fn with_file(text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("causelist.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(Some(&path), [], &[])
}

/// The message, with the directory of the file taken out.
fn message(result: Result<Config, ConfigError>) -> String {
    let message = result.unwrap_err().to_string();
    match (message.find("file /"), message.find("causelist.toml")) {
        (Some(start), Some(end)) => format!("{}file {}", &message[..start], &message[end..]),
        _ => message,
    }
}

#[test]
fn the_defaults_are_as_documented() {
    let config = with_env(&[]).unwrap();
    assert_eq!(config.database.url.expose(), "");
    assert_eq!(config.database.app_schema, "public");
    assert_eq!(config.api.listen, "127.0.0.1:8080");
    assert_eq!(config.api.wait_limit, Duration::from_secs(60));
    assert_eq!(config.admin.listen, "127.0.0.1:9090");
    assert_eq!(config.worker.queues, ["default", "practice", "delivery"]);
    assert_eq!((config.worker.concurrency, config.worker.batch), (8, 50));
    assert_eq!(config.worker.lease, Duration::from_secs(6));
    assert_eq!(config.worker.poll, Duration::from_secs(1));
    assert_eq!(config.worker.shutdown_grace, Duration::from_secs(25));
    assert_eq!(config.queue.payload_limit_kib, 256);
    assert_eq!(
        (config.retention.details_days, config.retention.archive),
        (30, ArchiveMode::Off)
    );
    assert_eq!(
        (config.mail.mode, config.mail.smtp_tls),
        (MailMode::Off, SmtpTls::StartTls)
    );
    assert_eq!(config.log.format, LogFormat::Text);
    assert!(
        config
            .effective()
            .iter()
            .all(|setting| setting.source == Source::Default)
    );
}

#[test]
fn every_key_of_the_defaults_is_read_and_explained() {
    // A key that no struct reads would be accepted and ignored: each must change something.
    let known: BTreeSet<&str> = Layers::of_defaults().iter().map(|(key, _)| key).collect();
    let shown = format!("{:?}", with_env(&[]).unwrap());
    let typed = shown.split("layers:").next().unwrap();
    for key in &known {
        let name = key.split_once('.').unwrap().1;
        assert!(typed.contains(&format!("{name}: ")), "{key} is read by nothing");
    }
    for (key, entry) in Layers::of_defaults().iter() {
        assert_eq!(
            entry.value.is_integer(),
            check::NUMBERS.iter().any(|(number, _)| *number == key),
            "{key} has no range, or is not a number"
        );
    }
    // A comment stands before each key, or before the group of lines that it begins.
    let mut explained = false;
    for line in DEFAULTS.lines() {
        explained = line.starts_with('#') || (explained && !line.is_empty() && !line.starts_with('['));
        assert!(
            explained || line.is_empty() || line.starts_with('['),
            "no comment: {line}"
        );
    }
}

#[test]
fn the_later_layer_wins_and_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, "[worker]\nconcurrency = 2\nbatch = 3\nlease = \"9s\"\n").unwrap();
    let env = [
        ("CAUSELIST_WORKER_BATCH", "4"),
        ("CAUSELIST_WORKER_LEASE", "10s"),
        ("CAUSELIST_LOG_FILTER", ""),
    ];
    let sets = ["worker.lease=11s".to_owned()];
    let config = Config::load(Some(&path), env.map(|(n, v)| (n.to_owned(), v.to_owned())), &sets).unwrap();
    assert_eq!((config.worker.concurrency, config.worker.batch), (2, 4));
    assert_eq!(config.worker.lease, Duration::from_secs(11));
    assert_eq!(config.source("worker.concurrency"), Some(&Source::File(path)));
    assert_eq!(
        config.source("worker.batch").unwrap().to_string(),
        "environment CAUSELIST_WORKER_BATCH"
    );
    assert_eq!(config.source("worker.lease").unwrap().to_string(), "--set");
    assert_eq!(
        config.source("log.filter"),
        Some(&Source::Default),
        "an empty variable is none"
    );
    assert_eq!(config.source("no.such"), None);
}

#[test]
fn the_environment_carries_every_type() {
    let config = with_env(&[
        ("CAUSELIST_WORKER_QUEUES", "practice, delivery"),
        ("CAUSELIST_SCHEDULER_ENABLED", "no"),
        ("CAUSELIST_API_LISTEN", "[::]:0"),
        ("CAUSELIST_MAIL_MODE", "maildir"),
        ("CAUSELIST_MAIL_SMTP_PORT", "465"),
        ("CAUSELIST_MAIL_SMTP_TLS", "implicit"),
        ("CAUSELIST_LOG_FORMAT", "json"),
        ("HOME", "/root"),
    ])
    .unwrap();
    assert_eq!(config.worker.queues, ["practice", "delivery"]);
    assert_eq!(config.mail.smtp_tls, SmtpTls::Implicit);
    assert!(!config.scheduler.enabled);
    assert_eq!(config.api.listen, "[::]:0");
    assert_eq!((config.mail.mode, config.mail.smtp_port), (MailMode::Maildir, 465));
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn the_more_particular_database_variable_wins() {
    let (general, own) = (
        ("DATABASE_URL", "postgres://h/general"),
        ("CAUSELIST_DATABASE_URL", "postgres://h/own"),
    );
    let url = |env: &[_]| with_env(env).unwrap().database.url.expose().to_owned();
    assert_eq!(url(&[general]), "postgres://h/general");
    assert_eq!(url(&[own, general]), "postgres://h/own");
}

#[test]
fn variables_of_others_are_left_alone() {
    with_env(&[
        ("CAUSELIST_CONFIG", "/etc/causelist.toml"),
        ("CAUSELIST_TEST_PG_BIN_DIR", "/x"),
        ("CAUSELIST_PORT", "tcp://10.0.0.1:80"),
        ("CAUSELIST_SERVICE_HOST", "10.0.0.1"),
        ("CAUSELIST_API_SERVICE_PORT", "80"),
        ("CAUSELIST_API_SERVICE_PORT_HTTP", "80"),
        ("CAUSELIST_API_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("CAUSELIST_API_PORT_80_TCP_ADDR", "10.0.0.1"),
    ])
    .unwrap();
}

#[test]
fn unknown_keys_name_the_nearest() {
    for (text, expected) in [
        (
            "[worker]\nleese = \"6s\"",
            "unknown key `worker.leese` (file causelist.toml): did you mean worker.lease?",
        ),
        (
            "[wroker]\nlease = \"6s\"",
            "unknown key `wroker.lease` (file causelist.toml): did you mean worker.lease?",
        ),
        (
            "[worker]\npool_size = 3",
            "unknown key `worker.pool_size` (file causelist.toml): did you mean database.pool_size?",
        ),
        (
            "[xyzzy]",
            "unknown key `xyzzy` (file causelist.toml): `causelist config` lists all keys",
        ),
        (
            "worker = 5",
            "unknown key `worker` (file causelist.toml): did you mean worker.poll?",
        ),
        (
            "[worker.lease]\nseconds = 5",
            "unknown key `worker.lease.seconds` (file causelist.toml): did you mean worker.lease?",
        ),
    ] {
        assert_eq!(message(with_file(text)), expected);
    }
    assert_eq!(
        message(with_env(&[("CAUSELIST_WORKER_CONCURENCY", "8")])),
        "unknown environment variable CAUSELIST_WORKER_CONCURENCY: did you mean CAUSELIST_WORKER_CONCURRENCY?"
    );
    with_file("[worker]\n").unwrap();
}

#[test]
fn wrong_values_name_key_value_source_and_what_was_expected() {
    for (text, expected) in [
        (
            "[worker]\nlease = \"6 parsecs\"",
            "`worker.lease` is \"6 parsecs\" (file causelist.toml): expected a whole number with ms, s, m, h \
             or d, such as \"500ms\", \"6s\" or \"2m\"",
        ),
        (
            "[worker]\nlease = 6",
            "`worker.lease` is 6 (file causelist.toml): expected a text in quotes",
        ),
        (
            "[worker]\nlease = \"1s\"",
            "`worker.lease` is \"1s\" (file causelist.toml): expected a time from 2s to 3600 s",
        ),
        (
            "[worker]\nconcurrency = \"many\"",
            "`worker.concurrency` is \"many\" (file causelist.toml): expected a whole number",
        ),
        (
            "[worker]\nconcurrency = 0",
            "`worker.concurrency` is 0 (file causelist.toml): expected a whole number from 1 to 1024",
        ),
        (
            "[worker]\nqueues = \"practice\"",
            "`worker.queues` is \"practice\" (file causelist.toml): expected a list of texts, such as \
             [\"a\", \"b\"] (in the environment: a,b)",
        ),
        (
            "[worker]\nqueues = [\"Urgent\"]",
            "`worker.queues` is [\"Urgent\"] (file causelist.toml): expected at least one queue; names begin \
             with a-z and go on with a-z, 0-9, _ and -, 63 characters at most; then, if wanted, a colon and how many \
             of its jobs a worker holds at the same time, from 1 to 1024",
        ),
        (
            "[worker]\nqueues = [\"practice:0\"]",
            "`worker.queues` is [\"practice:0\"] (file causelist.toml): expected at least one queue; names begin \
             with a-z and go on with a-z, 0-9, _ and -, 63 characters at most; then, if wanted, a colon and how many \
             of its jobs a worker holds at the same time, from 1 to 1024",
        ),
        (
            "[scheduler]\nenabled = \"yes\"",
            "`scheduler.enabled` is \"yes\" (file causelist.toml): expected true or false",
        ),
        (
            "[api]\nlisten = \"localhost\"",
            "`api.listen` is \"localhost\" (file causelist.toml): expected an address and port, such as \
             127.0.0.1:8080 or [::]:8080",
        ),
        (
            "[api]\nbody_limit_kib = 100",
            "`api.body_limit_kib` is 100 (file causelist.toml): expected at least queue.payload_limit_kib, \
             which is 256",
        ),
        (
            "[retention]\narchive = \"file\"",
            "`retention.archive_dir` is \"\" (default): expected a directory, since retention.archive is \"file\"",
        ),
        (
            "[retention]\ndetails_days = 0",
            "`retention.details_days` is 0 (file causelist.toml): expected a whole number from 1 to 36500",
        ),
        (
            "[mail]\nmode = \"pigeon\"",
            "`mail.mode` is \"pigeon\" (file causelist.toml): expected one of `smtp`, `maildir`, `off`",
        ),
        (
            "[mail]\nsmtp_tls = \"ssl\"",
            "`mail.smtp_tls` is \"ssl\" (file causelist.toml): expected `starttls`, `implicit` or `none`",
        ),
        (
            "[mail]\nsmtp_user = \"me\"",
            "`mail.smtp_password` is \"\" (default): expected both mail.smtp_user and mail.smtp_password, or \
             neither",
        ),
        (
            "[links]\nbase_url = \"example.org\"",
            "`links.base_url` is \"example.org\" (file causelist.toml): expected a URL that begins with \
             https:// or http://",
        ),
        (
            "[log]\nfilter = \"loud,,=\"",
            "`log.filter` is \"loud,,=\" (file causelist.toml): expected a level (error, warn, info, debug, \
             trace) or levels by module, such as \"info,causelist_queue=debug\"",
        ),
    ] {
        assert_eq!(message(with_file(text)), expected);
    }
    assert_eq!(
        message(with_env(&[("CAUSELIST_DATABASE_POOL_SIZE", "ten")])),
        "`database.pool_size` is \"ten\" (environment CAUSELIST_DATABASE_POOL_SIZE): expected a whole number"
    );
    let set = |text: &str| message(Config::load(None, [], &[text.to_owned()]));
    assert_eq!(
        set("api.listen=80"),
        "`api.listen` is \"80\" (--set): expected an address and port, such as 127.0.0.1:8080 or [::]:8080"
    );
    assert_eq!(
        set("api.listne=80"),
        "unknown key `api.listne` (--set): did you mean api.listen?"
    );
    assert_eq!(
        set("quick"),
        "--set quick: expected section.key=value, such as worker.concurrency=4"
    );
}

#[test]
fn addresses_are_a_host_and_a_port() {
    let listen = |text: &str| with_env(&[("CAUSELIST_API_LISTEN", text)]);
    for good in ["127.0.0.1:8080", "[::1]:0", "localhost:80", "0.0.0.0:65535"] {
        listen(good).unwrap();
    }
    for bad in [
        "8080",
        ":8080",
        "localhost",
        "localhost:65536",
        "::1:80",
        "[x]:1",
        "http://h:80",
        "a b:1",
    ] {
        assert!(listen(bad).is_err(), "{bad}");
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let missing = Config::load(Some(Path::new("/no/such/file.toml")), [], &[])
        .unwrap_err()
        .to_string();
    assert!(
        missing.starts_with("could not read the configuration file /no/such/file.toml: No such file"),
        "{missing}"
    );
    let broken = message(with_file("[links]\nsecret = \"s3cret\nlifetime = 1"));
    assert!(broken.contains("is not valid TOML: line 2, column"), "{broken}");
    assert!(!broken.contains("s3cret"), "the line may hold a secret: {broken}");
}

#[test]
fn secrets_are_shown_nowhere() {
    let config = with_env(&[
        ("DATABASE_URL", "postgres://me:s3cret-word@db.example:5432/jobs"),
        ("CAUSELIST_MAIL_SMTP_USER", "me"),
        ("CAUSELIST_MAIL_SMTP_PASSWORD", "s3cret-word"),
        ("CAUSELIST_LINKS_SECRET", "s3cret-word-that-is-long"),
    ])
    .unwrap();
    let effective = config.effective();
    let of = |key| {
        effective
            .iter()
            .find(|setting| setting.key == key)
            .unwrap()
            .value
            .as_str()
    };
    assert_eq!(of("database.url"), "\"postgres://me:[redacted]@db.example:5432/jobs\"");
    assert_eq!(of("mail.smtp_password"), "[redacted]");
    assert_eq!(of("links.secret"), "[redacted]");
    assert_eq!(of("worker.queues"), "[\"default\", \"practice\", \"delivery\"]");
    assert!(!format!("{effective:?} {config:?}").contains("s3cret"));

    for env in [
        ("CAUSELIST_LINKS_SECRET", "s3cret"),
        ("DATABASE_URL", "s3cret"),
        ("DATABASE_URL", "mysql://u:s3cret@h/d"),
        ("DATABASE_URL", "postgres://u:s3cret@h:notaport/d"),
    ] {
        let message = message(with_env(&[env]));
        assert!(
            !message.contains("s3cret") && message.contains("[redacted]"),
            "{message}"
        );
    }
}
