//! What every command and role stands on: settings, the database, the kinds of jobs.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use causelist_api::TenantKnown;
use causelist_core::{Clock, SystemClock};
use causelist_gst::{
    AnalyticsSnapshot, AutomationHealthCheck, CheckSlaAndOverdue, CheckUpcomingDeadlines, Host, SendHearingReminders,
};
use causelist_notify::{
    DeliverMessages, Letterhead, LinkSigner, Maildir, Mailer, SmtpSettings, SmtpTransport, SweepMessages, Transport,
};
use causelist_queue::retention::{Archive, Retention};
use causelist_queue::{Registry, States, WorkerOptions};
use futures::FutureExt;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::cli::Failure;
use crate::config::{ArchiveMode, Config, MailMode};
use crate::pooler;

/// Settings, database and kinds.
#[derive(Debug)]
pub struct App {
    /// The effective settings.
    pub config: Config,
    /// The database.
    pub pool: PgPool,
    /// Every kind this binary can run.
    pub registry: Registry,
    /// What jobs need.
    pub states: States,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Where the host application's tables are.
    pub host: Arc<Host>,
}

/// Every kind of job in the product.
#[must_use]
pub fn registry() -> Registry {
    Registry::default()
        .planned::<CheckSlaAndOverdue>()
        .planned::<SendHearingReminders>()
        .planned::<AnalyticsSnapshot>()
        .planned::<CheckUpcomingDeadlines>()
        .planned::<AutomationHealthCheck>()
        .job::<DeliverMessages>()
        .job::<SweepMessages>()
}

/// A pool over the configured database. It connects when first used.
///
/// # Errors
/// When there is no URL, or it can't be read.
pub fn pool(config: &Config) -> Result<PgPool, Failure> {
    let url = config.database.url.expose();
    if url.is_empty() {
        return Err(Failure::input(
            "no database is configured: set DATABASE_URL=postgres://user:password@host/database, or try `causelist demo`, which brings its own",
        ));
    }
    // The URL holds a password: the error must not quote it.
    let options = PgConnectOptions::from_str(url)
        .map_err(|_| {
            Failure::input("the database URL can't be read; it looks like postgres://user:password@host:5432/database")
        })?
        .application_name("causelist");
    let options = if config.database.pooler {
        pooler::options(options)
    } else {
        options
    };
    Ok(PgPoolOptions::new()
        .max_connections(config.database.pool_size)
        .acquire_timeout(Duration::from_secs(10))
        .connect_lazy_with(options))
}

/// The host application as configured.
///
/// # Errors
/// When the schema's name or the address of its pages is unusable.
pub fn host(config: &Config) -> Result<Host, Failure> {
    Host::new(&config.database.app_schema)
        .and_then(|host| host.with_base_url(&config.links.base_url))
        .map_err(|e| Failure::input(e.to_string()))
}

impl App {
    /// For roles that run jobs: everything. The database is waited for by the roles themselves, but
    /// must have this version's schema.
    ///
    /// # Errors
    /// When a setting is unusable, the database can't be reached or lacks migrations.
    pub async fn new(config: Config, runs_jobs: bool) -> Result<Self, Failure> {
        let pool = pool(&config)?;
        if config.database.pooler {
            pooler::check(&pool).await?;
        }
        let host = Arc::new(host(&config)?);
        let pending = causelist_queue::pending(&mut *pool.acquire().await?).await?;
        if !pending.is_empty() {
            return Err(Failure::Database(format!(
                "the database lacks {} of this version's migrations: run `causelist migrate`",
                pending.len()
            )));
        }
        // A role that may not is no reason to stay away: a worker that may comes by every hour.
        if let Err(error) = causelist_queue::keep_partitions(&pool).await {
            tracing::warn!(%error, "could not look after partitions");
        }
        let mut states = States::default().with::<Host>((*host).clone());
        // A worker that leaves the delivery queue to others needs no way for mail to leave.
        if runs_jobs && takes_mail(&config) {
            states = states.with(mailer(&config).map_err(|e| Failure::input(format!("{e:#}")))?);
        }
        Ok(Self {
            config,
            pool,
            registry: registry(),
            states,
            clock: Arc::new(SystemClock),
            host,
        })
    }

    /// Whether the host has an active tenant of an id.
    #[must_use]
    pub fn tenant_known(&self) -> Arc<TenantKnown> {
        let (pool, host) = (self.pool.clone(), Arc::clone(&self.host));
        Arc::new(move |tenant| {
            let (pool, host) = (pool.clone(), Arc::clone(&host));
            async move { host.is_active_tenant(&mut *pool.acquire().await?, tenant).await }.boxed()
        })
    }

    /// How the worker of this process works. Without a way for mail to leave it takes nothing from
    /// the delivery queue: messages stay reserved until a worker with one comes.
    #[must_use]
    pub fn worker_options(&self) -> WorkerOptions {
        let set = &self.config.worker;
        let mail = takes_mail(&self.config);
        let asked = set.queues.iter().map(|q| queue_and_most(q));
        let asked: Vec<(&str, Option<usize>)> = asked.filter(|(q, _)| mail || *q != DELIVERY).collect();
        WorkerOptions {
            name: std::env::var("HOSTNAME").unwrap_or_else(|_| "worker".into()),
            queues: asked.iter().map(|(queue, _)| (*queue).to_owned()).collect(),
            concurrency: set.concurrency,
            queue_concurrency: asked
                .iter()
                .filter_map(|(q, most)| Some(((*q).to_owned(), (*most)?)))
                .collect(),
            batch: set.batch,
            lease: set.lease,
            poll: set.poll,
            grace: set.shutdown_grace,
            listen: set.listen && !self.config.database.pooler,
        }
    }
}

/// How long the fleet's history is kept.
#[must_use]
pub fn retention(config: &Config) -> Retention {
    let set = &config.retention;
    Retention {
        details: Duration::from_secs(u64::from(set.details_days) * 86_400),
        archive: match set.archive {
            ArchiveMode::Off => Archive::Off,
            ArchiveMode::Table => Archive::Table,
            ArchiveMode::File => Archive::Files((&set.archive_dir).into()),
        },
    }
}

/// The queue of the jobs that hand off messages.
const DELIVERY: &str = "delivery";

fn takes_mail(config: &Config) -> bool {
    config.mail.mode != MailMode::Off && config.worker.queues.iter().any(|q| queue_and_most(q).0 == DELIVERY)
}

/// `name` or `name:most`; the settings were checked.
fn queue_and_most(text: &str) -> (&str, Option<usize>) {
    text.split_once(':')
        .map_or((text, None), |(name, most)| (name, most.parse().ok()))
}

fn mailer(config: &Config) -> anyhow::Result<Mailer> {
    let mail = &config.mail;
    let transport = match mail.mode {
        MailMode::Maildir if mail.maildir.is_empty() => {
            bail!("mail.maildir is not set: name the directory that mail is written into")
        }
        MailMode::Maildir => Transport::Maildir(Maildir::new(&mail.maildir)),
        MailMode::Smtp | MailMode::Off => Transport::Smtp(smtp(config)?),
    };
    if mail.from.is_empty() {
        bail!("mail.from is not set: name the sender, such as \"Causelist <jobs@example.org>\"");
    }
    let domain = mail.from.trim_end_matches('>').rsplit('@').next().unwrap_or_default();
    let letterhead = Letterhead::new(&mail.from, domain).with_context(|| format!("mail.from {:?}", mail.from))?;
    if config.links.secret.expose().is_empty() {
        bail!(
            "links.secret is not set: give it at least 16 random characters (`openssl rand -hex 32`); it signs the links in messages"
        );
    }
    let lifetime = chrono::Duration::from_std(config.links.lifetime).context("links.lifetime")?;
    let links = LinkSigner::new(&config.links.base_url, config.links.secret.clone(), lifetime)?;
    Ok(Mailer::new(transport, letterhead, links)?)
}

fn smtp(config: &Config) -> anyhow::Result<SmtpTransport> {
    let mail = &config.mail;
    if mail.smtp_host.is_empty() {
        bail!(
            "mail.smtp_host is not set: name the mail server, or set mail.mode to \"maildir\" to write mail into a directory"
        );
    }
    let login = (!mail.smtp_user.is_empty()).then(|| (mail.smtp_user.clone(), mail.smtp_password.clone()));
    Ok(SmtpTransport::new(SmtpSettings {
        host: mail.smtp_host.clone(),
        port: mail.smtp_port,
        tls: mail.smtp_tls,
        login,
        extra_root: None,
        timeout: mail.smtp_timeout,
    })?)
}
