//! The configuration: documented defaults, then a file, the environment and flags, the later
//! winning. Every value remembers where it came from.

mod check;
mod error;
mod layers;
mod nearest;
mod redact;
mod value;

use std::path::Path;
use std::time::Duration;

use causelist_notify::{Secret, SmtpTls};
use serde::{Deserialize, Serialize};

pub use error::ConfigError;
pub use layers::Source;
pub(crate) use value::parse_duration;

use layers::Layers;

/// The defaults, with a comment for every key: what `causelist config --defaults` prints.
pub const DEFAULTS: &str = include_str!("config/defaults.toml");

/// The whole configuration. What each key means is said in [`DEFAULTS`].
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    /// `[database]`
    pub database: Database,
    /// `[api]`
    pub api: Api,
    /// `[admin]`
    pub admin: Admin,
    /// `[worker]`
    pub worker: Worker,
    /// `[scheduler]`
    pub scheduler: Scheduler,
    /// `[queue]`
    pub queue: Queue,
    /// `[retention]`
    pub retention: Retention,
    /// `[mail]`
    pub mail: Mail,
    /// `[links]`
    pub links: Links,
    /// `[log]`
    pub log: Log,
    #[serde(skip)]
    layers: Layers,
}

/// Where the database is.
#[derive(Debug, Clone, Deserialize)]
pub struct Database {
    /// The URL; empty: none was given.
    pub url: Secret,
    /// The schema with the host's tables.
    pub app_schema: String,
    /// The most connections of this process.
    pub pool_size: u32,
    /// Whether a pooler in transaction mode stands before it.
    pub pooler: bool,
}

/// The HTTP API.
#[derive(Debug, Clone, Deserialize)]
pub struct Api {
    /// Where it listens.
    pub listen: String,
    /// How long a request may wait for the result of a run.
    #[serde(deserialize_with = "value::duration")]
    pub wait_limit: Duration,
    /// The largest request body, in KiB.
    pub body_limit_kib: usize,
}

/// Metrics and health.
#[derive(Debug, Clone, Deserialize)]
pub struct Admin {
    /// Where it listens.
    pub listen: String,
}

/// Running jobs.
#[derive(Debug, Clone, Deserialize)]
pub struct Worker {
    /// The queues, the first first.
    pub queues: Vec<String>,
    /// Jobs at the same time.
    pub concurrency: usize,
    /// Jobs in one claim, at most.
    pub batch: usize,
    /// How long a claim holds without renewal.
    #[serde(deserialize_with = "value::duration")]
    pub lease: Duration,
    /// How often to look for jobs.
    #[serde(deserialize_with = "value::duration")]
    pub poll: Duration,
    /// Whether to listen for wake-ups.
    pub listen: bool,
    /// How long running jobs may go on at shutdown.
    #[serde(deserialize_with = "value::duration")]
    pub shutdown_grace: Duration,
}

/// Firing schedules.
#[derive(Debug, Clone, Deserialize)]
pub struct Scheduler {
    /// Whether the role `all` does it.
    pub enabled: bool,
}

/// Limits of what may be enqueued.
#[derive(Debug, Clone, Deserialize)]
pub struct Queue {
    /// The largest arguments of a job, in KiB.
    pub payload_limit_kib: usize,
}

/// Where history goes when its time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArchiveMode {
    /// Nowhere.
    Off,
    /// Into tables beside the queue's.
    Table,
    /// Into files.
    File,
}

/// How long history is kept.
#[derive(Debug, Clone, Deserialize)]
pub struct Retention {
    /// Days that jobs and their attempts are kept.
    pub details_days: u32,
    /// Where they go then.
    pub archive: ArchiveMode,
    /// Where mode file writes; empty: it was not given.
    pub archive_dir: String,
}

/// How e-mail leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailMode {
    /// To a mail server.
    Smtp,
    /// Into a directory.
    Maildir,
    /// It stays in the ledger.
    Off,
}

/// E-mail. A text that is empty was not given.
#[derive(Debug, Clone, Deserialize)]
pub struct Mail {
    /// How it leaves.
    pub mode: MailMode,
    /// The mail server.
    pub smtp_host: String,
    /// Its port.
    pub smtp_port: u16,
    /// How the connection is protected.
    #[serde(deserialize_with = "value::smtp_tls")]
    pub smtp_tls: SmtpTls,
    /// Whom to log in as; empty: nobody.
    pub smtp_user: String,
    /// The login's password.
    pub smtp_password: Secret,
    /// How long each step may take.
    #[serde(deserialize_with = "value::duration")]
    pub smtp_timeout: Duration,
    /// The sender.
    pub from: String,
    /// Where mode maildir writes.
    pub maildir: String,
}

/// Links in messages.
#[derive(Debug, Clone, Deserialize)]
pub struct Links {
    /// What they begin with.
    pub base_url: String,
    /// What they are signed with; empty: it was not given.
    pub secret: Secret,
    /// How long they work.
    #[serde(deserialize_with = "value::duration")]
    pub lifetime: Duration,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Logs.
#[derive(Debug, Clone, Deserialize)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// What is logged.
    pub filter: String,
}

/// One value that is in force, safe to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// `section.key`
    pub key: String,
    /// The value as TOML, secrets redacted.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}

impl Config {
    /// Puts the layers together: the defaults, `file`, `env` (usually [`process_env`]), and `sets`,
    /// each `section.key=value`.
    ///
    /// # Errors
    /// When the file can't be read, a key is unknown, or a value won't do. The message names key,
    /// value, source and what was expected.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        sets: &[String],
    ) -> Result<Config, ConfigError> {
        let mut layers = Layers::of_defaults();
        if let Some(path) = file {
            layers.add_file(path)?;
        }
        layers.add_env(env)?;
        layers.add_sets(sets)?;
        check::numbers(&layers)?;
        let mut config: Config = layers.typed()?;
        config.layers = layers;
        check::all(&config)?;
        Ok(config)
    }

    /// Every key with its value, secrets redacted, and the value's source; by section.
    pub fn effective(&self) -> Vec<Setting> {
        self.layers
            .iter()
            .map(|(key, entry)| Setting {
                key: key.to_owned(),
                value: redact::shown(key, &entry.value),
                source: entry.source.clone(),
            })
            .collect()
    }

    /// Where the value of a key came from; `None` if there is no such key.
    pub fn source(&self, key: &str) -> Option<&Source> {
        self.layers.get(key).map(|entry| &entry.source)
    }
}

/// The environment of this process. What is not Unicode can't be a setting of ours.
pub fn process_env() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

#[cfg(test)]
mod tests;
