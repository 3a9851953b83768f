//! `causelist demo`: a practice with real looking data, from nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use causelist_core::{Clock, RunArgs, SystemClock};
use causelist_gst::demo;
use causelist_notify::Secret;
use causelist_pg::{Cluster, Options, find_binaries_for};
use causelist_queue::{JobRecord, NewJob};
use clap::Args;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use sqlx::PgPool;

use super::enqueue::result_text;
use super::error::Failure;
use super::out::{Out, line};
use crate::app::{self, App};
use crate::config::{Config, MailMode};
use crate::roles::{self, Roles};

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
/// When PostgreSQL can't be had or started, or the port is taken.
pub async fn run(out: Out, config: Config, asked: DemoArgs, metrics: PrometheusHandle) -> Result<(), Failure> {
    let dir = asked.data_dir.clone().unwrap_or_else(causelist_pg::default_data_dir);
    let own = config.database.url.expose().is_empty();
    let cluster = if own { Some(start_postgres(&dir).await?) } else { None };
    let ended = tokio::select! {
        ended = with_database(out, config, &asked, &dir, cluster.as_ref(), metrics) => ended,
        // While it starts; once it works, the roles see to the signal.
        signal = first_signal() => signal.map_err(|e| Failure::Ran(e.to_string())),
    };
    if let Some(cluster) = cluster {
        say("stopping PostgreSQL");
        tokio::task::spawn_blocking(move || cluster.stop())
            .await
            .map_err(|e| Failure::Ran(e.to_string()))?
            .map_err(|e| Failure::Ran(e.to_string()))?;
    }
    ended
}

/// Never returns once the roles have been asked to stop: they end the demo in good order.
async fn first_signal() -> std::io::Result<()> {
    roles::stop_signal().await?;
    tokio::time::sleep(Duration::from_secs(60)).await;
    Ok(())
}

async fn start_postgres(dir: &Path) -> Result<Cluster, Failure> {
    let bin = find_binaries_for(dir).map_err(|e| Failure::Database(e.to_string()))?;
    say(&format!("PostgreSQL {} in {}", bin.version(), dir.display()));
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || Cluster::start(&bin, &dir, &Options::default()))
        .await
        .map_err(|e| Failure::Ran(e.to_string()))?
        .map_err(|e| Failure::Database(e.to_string()))
}

async fn with_database(
    out: Out,
    mut config: Config,
    asked: &DemoArgs,
    dir: &Path,
    cluster: Option<&Cluster>,
    metrics: PrometheusHandle,
) -> Result<(), Failure> {
    if let Some(cluster) = cluster {
        config.database.url = Secret::new(cluster.endpoint().url());
    }
    let database_url = config.database.url.expose().to_owned();
    config.api.listen = format!("127.0.0.1:{}", asked.port);
    config.admin.listen = "127.0.0.1:0".into();
    let mail = dir.join("mail");
    config.mail.mode = MailMode::Maildir;
    config.mail.maildir = mail.display().to_string();
    config.mail.from = "Causelist <causelist@example.in>".into();
    config.links.base_url = format!("http://127.0.0.1:{}", asked.port);
    config.links.secret = Secret::new(link_secret(dir)?);
    let pool = app::pool(&config)?;
    say("migrating");
    causelist_queue::migrate(&pool).await?;
    load_practice(&pool, &config, asked.seed).await?;
    let key = demo_key(&pool).await?;
    let app = App::new(config, true).await?;
    let running = roles::start(&app, Roles::ALL, metrics).await?;
    let url = format!("http://{}", running.api.context("the API listens")?);
    let mut done = Vec::new();
    for kind in JOBS {
        say(&format!("running {kind}"));
        done.push(run_once(&app, kind).await?);
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
    } else {
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
            running.admin,
            mail.display()
        ))?;
    }
    running.until_stopped().await?;
    Ok(())
}

/// Creates the host's tables and fills them, unless an earlier start did. A database that holds
/// somebody's real tables is refused.
async fn load_practice(pool: &PgPool, config: &Config, seed: u64) -> Result<(), Failure> {
    let host = app::host(config)?;
    let mut tx = pool.begin().await?;
    if host.has_tables(&mut tx).await? {
        if !host.holds_only_the_demo(&mut tx).await? {
            return Err(Failure::input(format!(
                "the database has tables in schema {:?} that are not the demo's; the demo won't touch them. Give it an empty database, or none",
                host.schema()
            )));
        }
        say("the practice is there already");
        return Ok(());
    }
    say("loading the practice");
    host.create_tables(&mut tx).await?;
    let summary = demo::load(&host, &mut tx, SystemClock.now(), seed)
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
    causelist_queue::notify_ready(&app.pool, spec.queue).await;
    let finished = causelist_queue::wait_until_finished(&app.pool, made.id, PATIENCE).await?;
    let (job, _) = finished.ok_or_else(|| Failure::Ran(format!("{kind} did not finish within {PATIENCE:?}")))?;
    Ok(job)
}

fn say(text: &str) {
    eprintln!("causelist: {text}");
}
