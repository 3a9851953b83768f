//! `causelist demo`: a practice with real looking data, from nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use causelist_core::{Clock, RunArgs, SystemClock};
use causelist_gst::{Found, Host, demo};
use causelist_notify::Secret;
use causelist_pg::{Cluster, Options, find_binaries_for};
use causelist_queue::{JobRecord, NewJob};
use clap::Args;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::enqueue::result_text;
use super::error::Failure;
use super::out::{Out, line};
use crate::app::{self, App};
use crate::config::{Config, MailMode};
use crate::roles::{self, Ports, Roles, Running};

/// The demo's five jobs, in the order in which they are shown.
const JOBS: [&str; 5] = [
    "check-sla-and-overdue",
    "send-hearing-reminders",
    "check-upcoming-deadlines",
    "automation-health-check",
    "analytics-snapshot",
];

/// How long one of the jobs may take at the start.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the demo can be told.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where the demo keeps its database and mail (default: the user's data directory)
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// The port of the API; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The seed of the practice's data
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the demo until it is stopped.
///
/// # Errors
/// When PostgreSQL can't be had or started, the database is somebody else's, or the port is taken.
pub async fn run(out: Out, config: Config, asked: DemoArgs, metrics: PrometheusHandle) -> Result<(), Failure> {
    let stop = roles::stop_on_signal()?;
    let dir = asked.data_dir.clone().unwrap_or_else(causelist_pg::default_data_dir);
    let mut config = configure(config, &asked, &dir);
    // First: links in messages name the port, and one that is taken should be told before anything
    // is loaded.
    let ports = Ports::bind(&config, Roles::ALL)
        .await
        .map_err(|e| Failure::input(format!("{e:#}. For the demo: --port <n>, or --port 0 for a free one")))?;
    let api = ports.api.as_ref().context("the API has a port")?.local_addr()?;
    config.links.base_url = format!("http://{api}");
    if !config.database.url.expose().is_empty() {
        say("using DATABASE_URL in place of a private PostgreSQL");
        return with_database(out, config, &asked, &dir, false, ports, metrics, stop)
            .await
            .map_err(|failure| match failure {
                Failure::Database(text) => Failure::Database(format!(
                    "{text}. This is the database of DATABASE_URL: unset it, and the demo brings its own"
                )),
                other => other,
            });
    }
    let cluster = start_postgres(&dir, &stop).await?;
    config.database.url = Secret::new(cluster.endpoint().url());
    let ended = with_database(out, config, &asked, &dir, true, ports, metrics, stop).await;
    say("stopping PostgreSQL");
    tokio::task::spawn_blocking(move || cluster.stop())
        .await
        .map_err(|e| Failure::Ran(e.to_string()))?
        .map_err(|e| Failure::Ran(e.to_string()))?;
    ended
}

/// The settings that the demo makes itself.
fn configure(mut config: Config, asked: &DemoArgs, dir: &Path) -> Config {
    config.api.listen = format!("127.0.0.1:{}", asked.port);
    config.admin.listen = "127.0.0.1:0".into();
    config.mail.mode = MailMode::Maildir;
    config.mail.maildir = dir.join("mail").display().to_string();
    config.mail.from = "Causelist <causelist@example.in>".into();
    // Whoever presses Ctrl-C waits for it.
    config.worker.shutdown_grace = config.worker.shutdown_grace.min(Duration::from_secs(5));
    config
}

/// Not given up half way: an `initdb` or a recovery that has begun is over in seconds, and what it
/// leaves is whole.
async fn start_postgres(dir: &Path, stop: &CancellationToken) -> Result<Cluster, Failure> {
    let bin = find_binaries_for(dir).map_err(|e| Failure::Database(e.to_string()))?;
    say(&format!("PostgreSQL {} in {}", bin.version(), dir.display()));
    let dir = dir.to_owned();
    let mut starting = tokio::task::spawn_blocking(move || Cluster::start(&bin, &dir, &Options::default()));
    let started = tokio::select! {
        started = &mut starting => started,
        () = stop.cancelled() => {
            say("stopping as soon as PostgreSQL has started");
            starting.await
        }
    };
    started
        .map_err(|e| Failure::Ran(e.to_string()))?
        .map_err(|e| Failure::Database(e.to_string()))
}

/// What the demo stands on when its roles start.
struct Ready {
    app: App,
    key: String,
}

#[expect(clippy::too_many_arguments, reason = "each is used once, here")]
async fn with_database(
    out: Out,
    config: Config,
    asked: &DemoArgs,
    dir: &Path,
    own: bool,
    ports: Ports,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> Result<(), Failure> {
    // What is given up here is a transaction, which the database rolls back.
    let Some(ready) = stop.run_until_cancelled(prepare(config, asked, dir, own)).await else {
        return Ok(());
    };
    let ready = ready?;
    let running = roles::start(&ready.app, Roles::ALL, ports, metrics, stop.clone())?;
    let shown = stop.run_until_cancelled(show(out, &ready, &running)).await;
    if matches!(shown, Some(Err(_))) {
        stop.cancel();
    }
    let ended = running.until_stopped().await;
    shown.unwrap_or(Ok(()))?;
    Ok(ended?)
}

async fn prepare(mut config: Config, asked: &DemoArgs, dir: &Path, own: bool) -> Result<Ready, Failure> {
    let pool = app::pool(&config)?;
    let host = app::host(&config)?;
    let found = host.found(&mut *pool.acquire().await?).await?;
    if !own {
        refuse_others(&pool, &host, &found).await?;
    }
    config.links.secret = Secret::new(link_secret(dir)?);
    say("migrating");
    causelist_queue::migrate(&pool).await?;
    if found == Found::Nothing {
        load_practice(&pool, &host, asked.seed).await?;
    } else {
        say("the practice is there already");
    }
    let key = demo_key(&pool).await?;
    let app = App::new(config, true).await?;
    Ok(Ready { app, key })
}

/// Runs the five jobs, and says what they did and where everything is.
async fn show(out: Out, ready: &Ready, running: &Running) -> Result<(), Failure> {
    let Ready { app, key } = ready;
    let url = format!("http://{}", running.api.context("the API listens")?);
    let database_url = app.config.database.url.expose();
    let mut done = Vec::new();
    for kind in JOBS {
        say(&format!("running {kind}"));
        done.push(run_once(app, kind).await?);
    }
    if out.json {
        let ready = json!({
            "url": url, "admin_url": format!("http://{}", running.admin), "api_key": key, "database_url": database_url,
        });
        line(&ready.to_string())?;
        for job in &done {
            line(
                &json!({ "job": job.kind, "state": job.state, "results": job.result, "error": job.error }).to_string(),
            )?;
        }
        return Ok(());
    }
    for job in &done {
        let name = app
            .registry
            .spec(&job.kind)
            .map_or(job.kind.as_str(), |s| s.display_name);
        let text = match &job.error {
            Some(error) if job.state != "done" => format!("  ended as {}: {error}", job.state),
            _ => result_text(job),
        };
        line(&format!("{name}\n{text}\n"))?;
    }
    line(&format!(
        "Ready.\n  API       {url}\n  API key   {key}\n  metrics   http://{}/metrics\n  mail      {}/new  (nothing leaves this machine)\n  database  {database_url}\n\nTry:\n  curl -X POST {url}/functions/v1/check-sla-and-overdue -H 'x-api-key: {key}'\n\nCtrl-C stops it; the next start finds its data again.",
        running.admin, app.config.mail.maildir
    ))?;
    Ok(())
}

/// Refuses a database that is somebody's, before anything is written to it: one whose host schema
/// holds more than the demo, or whose `causelist` schema has been at work for another schema.
async fn refuse_others(pool: &PgPool, host: &Host, found: &Found) -> Result<(), Failure> {
    let schema = host.schema();
    let refused = |what: &str| {
        Err(Failure::input(format!(
            "the database of DATABASE_URL has {what}; the demo won't touch it. Give it an empty database, or unset DATABASE_URL: it then brings its own"
        )))
    };
    match found {
        Found::Demo => Ok(()),
        Found::Foreign(names) => {
            let more = match names.len() {
                0..=5 => String::new(),
                n => format!(" and {} more", n - 5),
            };
            let names = names.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
            refused(&format!(
                "{names}{more} in schema {schema:?} that the demo did not make"
            ))
        }
        Found::Nothing => {
            let causelist: bool = sqlx::query_scalar("select to_regclass('causelist.job') is not null")
                .fetch_one(pool)
                .await?;
            // In a statement of its own: it names the table, which must be there.
            let at_work = causelist
                && sqlx::query_scalar("select exists (select from causelist.job)")
                    .fetch_one(pool)
                    .await?;
            if at_work {
                return refused(&format!(
                    "a Causelist at work in schema \"causelist\", and nothing of the demo's in schema {schema:?}"
                ));
            }
            Ok(())
        }
    }
}

/// Creates the host's tables and fills them.
async fn load_practice(pool: &PgPool, host: &Host, seed: u64) -> Result<(), Failure> {
    say("loading the practice");
    let mut tx = pool.begin().await?;
    host.create_tables(&mut tx).await?;
    let summary = demo::load(host, &mut tx, SystemClock.now(), seed)
        .await
        .map_err(|e| Failure::Ran(e.to_string()))?;
    tx.commit().await?;
    say(&format!(
        "{}: {} members, {} cases, {} tasks, {} hearings",
        summary.tenants.join(", "),
        summary.members,
        summary.cases,
        summary.tasks,
        summary.hearings
    ));
    Ok(())
}

/// A new operator's key; those of earlier starts end.
async fn demo_key(pool: &PgPool) -> Result<String, Failure> {
    sqlx::query("update causelist.api_key set revoked_at = now() where name = 'demo' and revoked_at is null")
        .execute(pool)
        .await?;
    Ok(causelist_api::create_key(pool, "demo", None).await?.text)
}

/// Kept in the data directory, so that links in yesterday's messages still hold.
fn link_secret(dir: &Path) -> Result<String, Failure> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = dir.join("link-secret");
    let fault = |e: std::io::Error| Failure::Ran(format!("{}: {e}", path.display()));
    match std::fs::read_to_string(&path) {
        Ok(secret) if secret.len() >= 32 => return Ok(secret),
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(fault(e)),
    }
    let secret = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    std::fs::create_dir_all(dir).map_err(fault)?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(&path)
        .and_then(|mut file| file.write_all(secret.as_bytes()))
        .map_err(fault)?;
    Ok(secret)
}

async fn run_once(app: &App, kind: &str) -> Result<JobRecord, Failure> {
    let spec = app
        .registry
        .spec(kind)
        .with_context(|| format!("{kind} is registered"))?;
    let args = RunArgs {
        executed_at: Some(app.clock.now()),
        dry_run: false,
    };
    let made = causelist_queue::enqueue(&mut *app.pool.acquire().await?, NewJob::with_spec(spec, json!(args))).await?;
    causelist_queue::notify_enqueued(&app.pool, spec.queue, &made).await;
    let finished = causelist_queue::wait_until_finished(&app.pool, made.id, PATIENCE).await?;
    let (job, _) = finished.ok_or_else(|| Failure::Ran(format!("{kind} did not finish within {PATIENCE:?}")))?;
    Ok(job)
}

fn say(text: &str) {
    eprintln!("causelist: {text}");
}
