//! The command line.

mod bench;
mod dead;
mod demo;
mod doctor;
mod enqueue;
mod error;
mod jobs;
mod keys;
mod limits;
mod out;
mod queues;
mod schedules;

use std::path::PathBuf;

use causelist_core::SystemClock;
use causelist_queue::Limits;
use clap::{Args, Parser, Subcommand};
use serde_json::json;

pub use error::Failure;
use out::{Out, table};

use crate::app::{self, App};
use crate::config::{Config, process_env};
use crate::roles::{self, Ports, Roles};

/// Durable background jobs for a GST litigation practice
#[derive(Debug, Parser)]
#[command(
    name = "causelist",
    version,
    after_help = "Exit codes: 0 well, 1 it ran and ended badly, 2 bad input (nothing was done), 3 the database could not be used.\n\nExamples:\n  causelist demo\n  causelist run check-sla-and-overdue --dry-run\n  causelist jobs list --state dead\n  causelist schedules preview \"0 8 * * 1-6\" --zone Asia/Kolkata"
)]
pub struct Cli {
    /// A TOML file with settings (`causelist config` lists them)
    #[arg(long, global = true, env = "CAUSELIST_CONFIG")]
    config: Option<PathBuf>,
    /// JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    /// One setting, over file and environment, such as worker.concurrency=4; may be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A private PostgreSQL, a practice with data, and every role: see it work
    Demo(demo::DemoArgs),
    /// API, worker and scheduler in one process
    All {
        #[command(flatten)]
        api: ApiFlags,
        #[command(flatten)]
        worker: WorkerFlags,
        #[command(flatten)]
        admin: AdminFlags,
    },
    /// Serve HTTP
    Api {
        #[command(flatten)]
        api: ApiFlags,
        #[command(flatten)]
        admin: AdminFlags,
    },
    /// Run jobs
    Worker {
        #[command(flatten)]
        worker: WorkerFlags,
        #[command(flatten)]
        admin: AdminFlags,
    },
    /// Fire schedules; any number of them may run
    Scheduler {
        #[command(flatten)]
        admin: AdminFlags,
    },
    /// Bring Causelist's schema up to this version
    Migrate,
    /// Say what is wrong, and how to mend it
    Doctor,
    /// Enqueue a job of any kind
    Enqueue(enqueue::EnqueueArgs),
    /// Run one of the practice's jobs, or preview it
    Run(enqueue::RunCommand),
    /// Look at jobs and act on them
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// Look at schedules and act on them
    #[command(subcommand)]
    Schedules(schedules::SchedulesCommand),
    /// Look at queues, make, pause and resume them, limit jobs
    #[command(subcommand)]
    Queues(queues::QueuesCommand),
    /// Make, list and revoke API keys
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    Bench(bench::BenchCommand),
    /// Show the effective settings and where each comes from
    Config,
}

#[derive(Debug, Default, Args)]
struct ApiFlags {
    /// Where the API listens (api.listen); port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

#[derive(Debug, Default, Args)]
struct AdminFlags {
    /// Where metrics and health are (admin.listen)
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
}

#[derive(Debug, Default, Args)]
struct WorkerFlags {
    /// The queues to take jobs from, with commas; "delivery:2" for two jobs of it at most (worker.queues)
    #[arg(long)]
    queues: Option<String>,
    /// How many jobs run at the same time (worker.concurrency)
    #[arg(long)]
    concurrency: Option<String>,
}

impl Command {
    /// The settings that its flags stand for, as `--set` takes them.
    fn settings(&self) -> Vec<String> {
        let (api, worker, admin) = match self {
            Self::All { api, worker, admin } => (Some(api), Some(worker), Some(admin)),
            Self::Api { api, admin } => (Some(api), None, Some(admin)),
            Self::Worker { worker, admin } => (None, Some(worker), Some(admin)),
            Self::Scheduler { admin } => (None, None, Some(admin)),
            _ => (None, None, None),
        };
        [
            ("api.listen", api.and_then(|f| f.listen.clone())),
            ("admin.listen", admin.and_then(|f| f.admin_listen.clone())),
            ("worker.queues", worker.and_then(|f| f.queues.clone())),
            ("worker.concurrency", worker.and_then(|f| f.concurrency.clone())),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", value?)))
        .collect()
    }
}

impl Cli {
    /// Whether failures are told as JSON too.
    #[must_use]
    pub fn json(&self) -> bool {
        self.json
    }

    /// Runs the command.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(self) -> Result<(), Failure> {
        let out = Out { json: self.json };
        let sets: Vec<String> = self.set.iter().cloned().chain(self.command.settings()).collect();
        let config =
            Config::load(self.config.as_deref(), process_env(), &sets).map_err(|e| Failure::input(e.to_string()))?;
        crate::telemetry::install(&config).map_err(|e| Failure::input(format!("{e:#}")))?;
        match self.command {
            Command::Demo(asked) => {
                let metrics = metrics()?;
                Box::pin(demo::run(out, config, asked, metrics)).await
            }
            Command::All { .. } => {
                let roles = Roles {
                    scheduler: config.scheduler.enabled,
                    ..Roles::ALL
                };
                Box::pin(serve(config, roles)).await
            }
            Command::Api { .. } => Box::pin(serve(config, Roles::API)).await,
            Command::Worker { .. } => Box::pin(serve(config, Roles::WORKER)).await,
            Command::Scheduler { .. } => Box::pin(serve(config, Roles::SCHEDULER)).await,
            Command::Migrate => migrate(out, &config).await,
            Command::Doctor => doctor::run(&app::pool(&config)?, out, &config, &app::registry()).await,
            Command::Enqueue(asked) => {
                let limits = Limits {
                    payload: config.queue.payload_limit_kib * 1024,
                    ..Limits::default()
                };
                enqueue::enqueue(&app::pool(&config)?, out, &app::registry(), limits, &SystemClock, asked).await
            }
            Command::Run(asked) => {
                let host = app::host(&config)?;
                enqueue::run(&app::pool(&config)?, out, &app::registry(), &host, &SystemClock, asked).await
            }
            Command::Jobs(command) => jobs::run(&app::pool(&config)?, out, &SystemClock, command).await,
            Command::Schedules(schedules::SchedulesCommand::Preview {
                cron,
                zone,
                count,
                from,
            }) => schedules::preview(out, &SystemClock, &cron, &zone, count, from),
            Command::Schedules(command) => schedules::run(&app::pool(&config)?, out, &SystemClock, command).await,
            Command::Queues(command) => queues::run(&app::pool(&config)?, out, command).await,
            Command::Keys(command) => keys::run(&app::pool(&config)?, out, command).await,
            Command::Bench(command) => Box::pin(bench::run(out, config, command)).await,
            Command::Config => show_config(out, &config),
        }
    }
}

fn metrics() -> Result<metrics_exporter_prometheus::PrometheusHandle, Failure> {
    causelist_api::install_metrics().map_err(|e| Failure::Ran(e.to_string()))
}

async fn serve(config: Config, which: Roles) -> Result<(), Failure> {
    let stop = roles::stop_on_signal()?;
    let metrics = metrics()?;
    let Some(app) = stop.run_until_cancelled(App::new(config, which.worker)).await else {
        return Ok(());
    };
    let app = app?;
    let ports = Ports::bind(&app.config, which).await?;
    let running = roles::start(&app, which, ports, metrics, stop)?;
    if let Some(api) = running.api {
        tracing::info!(address = %api, "the API listens");
    }
    tracing::info!(address = %running.admin, "metrics and health are served");
    running.until_stopped().await?;
    Ok(())
}

async fn migrate(out: Out, config: &Config) -> Result<(), Failure> {
    let pool = app::pool(config)?;
    let pending = causelist_queue::pending(&mut *pool.acquire().await?).await?;
    causelist_queue::migrate(&pool).await?;
    let names: Vec<_> = pending
        .iter()
        .map(|(version, name)| format!("{version:04} {name}"))
        .collect();
    out.show(&json!({ "applied": names }), |_| {
        if names.is_empty() {
            "The schema is up to date.".into()
        } else {
            format!("Applied {}.", names.join(", "))
        }
    })?;
    Ok(())
}

fn show_config(out: Out, config: &Config) -> Result<(), Failure> {
    let settings = config.effective();
    out.show(&settings, |settings| {
        let rows: Vec<_> = settings
            .iter()
            .map(|s| vec![s.key.clone(), s.value.clone(), s.source.to_string()])
            .collect();
        table(&["KEY", "VALUE", "FROM"], &rows)
    })?;
    Ok(())
}
