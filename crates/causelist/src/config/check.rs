//! What types don't say: ranges, and what goes together.

use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use toml::Value;
use tracing_subscriber::EnvFilter;

use super::error::ConfigError;
use super::layers::Layers;
use super::{ArchiveMode, Config};

/// What whole numbers may be. A test sees to it that all of them are here.
pub(super) const NUMBERS: [(&str, RangeInclusive<i64>); 7] = [
    ("api.body_limit_kib", 1..=65_536),
    ("database.pool_size", 1..=1_000),
    ("mail.smtp_port", 1..=65_535),
    ("queue.payload_limit_kib", 1..=16_384),
    ("retention.details_days", 1..=36_500),
    ("worker.batch", 1..=10_000),
    ("worker.concurrency", 1..=1_024),
];

/// Whether every whole number is in its range.
pub(super) fn numbers(layers: &Layers) -> Result<(), ConfigError> {
    for (key, range) in &NUMBERS {
        let Some(entry) = layers.get(key) else {
            continue;
        };
        if let Value::Integer(number) = entry.value
            && !range.contains(&number)
        {
            let expected = format!("a whole number from {} to {}", range.start(), range.end());
            return Err(ConfigError::invalid(key, &entry.value, &entry.source, expected));
        }
    }
    Ok(())
}

/// Everything else, once the values have their types.
pub(super) fn all(config: &Config) -> Result<(), ConfigError> {
    let check = |key: &str, good: bool, expected: &str| match config.layers.get(key) {
        Some(entry) if !good => Err(ConfigError::invalid(key, &entry.value, &entry.source, expected)),
        _ => Ok(()),
    };
    let Config {
        database,
        api,
        admin,
        worker,
        queue,
        mail,
        links,
        log,
        ..
    } = config;

    let url = database.url.expose();
    check(
        "database.url",
        // sqlx takes other schemes too.
        url.is_empty() || (url.starts_with("postgres") && PgConnectOptions::from_str(url).is_ok()),
        "a URL such as postgres://user:password@host:5432/database (special characters in the \
         password as %XX)",
    )?;
    check(
        "database.app_schema",
        (1..=63).contains(&database.app_schema.len()) && !database.app_schema.contains('\0'),
        "the name of a schema, such as \"public\"",
    )?;
    for (key, address) in [("api.listen", &api.listen), ("admin.listen", &admin.listen)] {
        check(
            key,
            is_address(address),
            "an address and port, such as 127.0.0.1:8080 or [::]:8080",
        )?;
    }
    check(
        "worker.queues",
        !worker.queues.is_empty() && worker.queues.iter().all(|queue| is_queue(queue)),
        "at least one queue; names begin with a-z and go on with a-z, 0-9, _ and -, 63 characters at most; then, \
         if wanted, a colon and how many of its jobs a worker holds at the same time, from 1 to 1024",
    )?;
    check(
        "api.body_limit_kib",
        api.body_limit_kib >= queue.payload_limit_kib,
        &format!("at least queue.payload_limit_kib, which is {}", queue.payload_limit_kib),
    )?;

    let between = |key: &str, value: Duration, least: Duration, most: Duration| {
        check(
            key,
            (least..=most).contains(&value),
            &format!("a time from {least:?} to {} s", most.as_secs()),
        )
    };
    let seconds = Duration::from_secs;
    let (minute, hour, year) = (seconds(60), seconds(3_600), seconds(365 * 86_400));
    between("api.wait_limit", api.wait_limit, seconds(1), hour)?;
    // A lease is renewed three times over; less than two seconds would not outlast a slow commit.
    between("worker.lease", worker.lease, seconds(2), hour)?;
    between("worker.poll", worker.poll, Duration::from_millis(10), minute)?;
    between("worker.shutdown_grace", worker.shutdown_grace, Duration::ZERO, hour)?;
    between("mail.smtp_timeout", mail.smtp_timeout, seconds(1), minute * 10)?;
    between("links.lifetime", links.lifetime, minute, year)?;

    check(
        "retention.archive_dir",
        config.retention.archive != ArchiveMode::File || !config.retention.archive_dir.is_empty(),
        "a directory, since retention.archive is \"file\"",
    )?;
    check(
        "mail.smtp_password",
        mail.smtp_user.is_empty() == mail.smtp_password.expose().is_empty(),
        "both mail.smtp_user and mail.smtp_password, or neither",
    )?;
    check(
        "links.base_url",
        ["https://", "http://"]
            .iter()
            .any(|scheme| links.base_url.len() > scheme.len() && links.base_url.starts_with(scheme)),
        "a URL that begins with https:// or http://",
    )?;
    check(
        "links.secret",
        matches!(links.secret.expose().len(), 0 | 16..),
        "at least 16 bytes; `openssl rand -hex 32` makes some",
    )?;
    check(
        "log.filter",
        EnvFilter::builder().parse(&log.filter).is_ok(),
        "a level (error, warn, info, debug, trace) or levels by module, such as \"info,causelist_queue=debug\"",
    )
}

/// A name, or a name and a number.
fn is_queue(text: &str) -> bool {
    let (name, most) = text.split_once(':').unwrap_or((text, "1"));
    is_queue_name(name) && most.parse().is_ok_and(|n: u16| (1..=1024).contains(&n))
}

fn is_queue_name(name: &str) -> bool {
    let later = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    (1..=63).contains(&name.len()) && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(later)
}

/// `host:port`, where the host is a name or an address (IPv6 in brackets).
fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host_is_good = match bare {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '/', ' ', '[', ']']),
        };
        host_is_good && port.parse::<u16>().is_ok()
    })
}
