//! `causelist bench`: measured beside what it is measured against, in the same run.

mod queue;
mod sla;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use causelist_bench::{Measure, peer};
use causelist_pg::{Cluster, Options, find_binaries};
use clap::{Args, Subcommand};

use super::error::Failure;
use super::out::Out;
use crate::config::Config;

/// Measures the queue, in a private PostgreSQL that is removed at the end
///
/// Without a subcommand: enqueue, drain, end to end, pickup. What is measured runs in rounds, in
/// turns with the limit where one is asked for; the medians count.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchCommand {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    queue: QueueArgs,
}

#[derive(Debug, Args)]
struct QueueArgs {
    /// Beside a raw queue in PostgreSQL that keeps a history and has no guarantees
    #[arg(long)]
    against_limit: bool,
    /// Only these measures, separated by commas; `all` for all
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "single-1,single-8,bulk,drain,end-to-end,pickup,memory"
    )]
    only: Vec<String>,
    /// How often each is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Jobs of a drain and of a bulk enqueue
    #[arg(long, default_value_t = 100_000)]
    jobs: usize,
    /// How long enqueuing and running go on side by side
    #[arg(long, default_value_t = 25)]
    seconds: u64,
    /// Jobs that wait, or have ended, where a backlog or history is measured
    #[arg(long, default_value_t = 1_000_000)]
    large: usize,
    /// How long readers overlap, where that is measured, in minutes
    #[arg(long, default_value_t = 15)]
    minutes: u64,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The SLA check over many tasks, beside a plain UPDATE that marks the same rows
    Sla {
        /// Tasks in all; a sixth of them is overdue
        #[arg(long, default_value_t = 1_000_000)]
        tasks: i64,
        /// Tenants that they belong to
        #[arg(long, default_value_t = 100)]
        tenants: i64,
        /// How often each is run, in turns; the median counts
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// One part of a comparison with other queues, over the database `DB_URL`; see docs/benchmarks.md
    #[command(hide = true)]
    Peer {
        #[command(subcommand)]
        role: PeerRole,
    },
}

#[derive(Debug, Subcommand)]
enum PeerRole {
    /// Make the tables
    Setup,
    /// Enqueue so many
    Bulk { jobs: usize },
    /// Enqueue so many one by one
    Single { jobs: usize, connections: usize },
    /// Enqueue so many with pauses
    Lat { jobs: usize },
    /// Work until killed
    Work,
    /// Enqueue and work for a while
    #[command(name = "e2e")]
    EndToEnd,
}

/// Runs it.
///
/// # Errors
/// When PostgreSQL can't be had, or a run fails.
pub async fn run(out: Out, config: Config, command: BenchCommand) -> Result<(), Failure> {
    match command.what {
        Some(What::Peer { role }) => Ok(peer::run(match role {
            PeerRole::Setup => peer::Role::Setup,
            PeerRole::Bulk { jobs } => peer::Role::Bulk(jobs),
            PeerRole::Single { jobs, connections } => peer::Role::Single(jobs, connections.max(1)),
            PeerRole::Lat { jobs } => peer::Role::Lat(jobs),
            PeerRole::Work => peer::Role::Work,
            PeerRole::EndToEnd => peer::Role::EndToEnd,
        })
        .await?),
        Some(What::Sla { tasks, tenants, rounds }) => {
            if tasks < 1 || tenants < 1 || rounds < 1 {
                return Err(Failure::input("--tasks, --tenants and --rounds must be at least 1"));
            }
            let server = Server::start(Vec::new()).await?;
            let ended = sla::run(out, config, server.cluster.endpoint().url(), tasks, tenants, rounds).await;
            server.stop().await?;
            ended
        }
        None => {
            let args = command.queue;
            if args.rounds < 1 || args.jobs < 1000 || args.seconds < 1 || args.large < args.jobs {
                return Err(Failure::input(
                    "--rounds and --seconds must be at least 1, --jobs at least 1000, --large at least --jobs",
                ));
            }
            let measures = measures(&args.only)?;
            let server = Server::start(queue::settings()).await?;
            let ended = queue::run(out, &server, &args, measures).await;
            server.stop().await?;
            ended
        }
    }
}

fn measures(names: &[String]) -> Result<Vec<Measure>, Failure> {
    if names == ["all"] {
        return Ok(Measure::ALL.to_vec());
    }
    names
        .iter()
        .map(|n| n.trim().parse().map_err(|e| Failure::input(format!("--only {n}: {e}"))))
        .collect()
}

/// A private PostgreSQL in a temporary directory.
struct Server {
    cluster: Cluster,
    dir: std::path::PathBuf,
}

impl Server {
    async fn start(settings: Vec<(String, String)>) -> Result<Self, Failure> {
        let bin = find_binaries().map_err(|e| Failure::Database(e.to_string()))?;
        let dir = std::env::temp_dir().join(format!("causelist-bench-{}", std::process::id()));
        let place = dir.clone();
        let options = Options {
            settings,
            start_within: Duration::from_secs(60),
            ..Options::default()
        };
        let cluster = tokio::task::spawn_blocking(move || Cluster::start(&bin, &place, &options))
            .await
            .context("start PostgreSQL")?
            .map_err(|e| Failure::Database(e.to_string()))?;
        Ok(Self { cluster, dir })
    }

    fn postmaster(&self) -> Option<u32> {
        postmaster(&self.dir)
    }

    async fn stop(self) -> Result<(), Failure> {
        let Self { cluster, dir } = self;
        tokio::task::spawn_blocking(move || cluster.stop().and_then(|()| causelist_pg::remove(&dir)))
            .await
            .context("stop PostgreSQL")?
            .map_err(|e| Failure::Ran(e.to_string()))
    }
}

fn postmaster(dir: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(dir.join("data/postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok()
}
