//! A worker, or an enqueuer, as a process of its own that others can start and read: what a harness
//! drives that compares queues. What it prints is a line each: `R <jobs per second>`,
//! `C <now> <jobs started> <first start>` and `L <wait>`, in µs.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use causelist_queue::{WorkerOptions, migrate};

use crate::measure::Load;
use crate::ours::{self, Running, Seen, now_us};

/// What such a process is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Make the tables.
    Setup,
    /// Enqueue so many, as fast as can be.
    Bulk(usize),
    /// Enqueue so many one by one, over so many connections.
    Single(usize, usize),
    /// Enqueue so many with a pause after each, for the time until they start.
    Lat(usize),
    /// Work until killed.
    Work,
    /// Enqueue and work for a while.
    EndToEnd,
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn set(name: &str) -> bool {
    std::env::var_os(name).is_some()
}

/// Does it. The database is `DB_URL`; further settings come from the environment too, see
/// docs/benchmarks.md.
///
/// # Errors
/// When the database can't be reached or something fails there.
pub async fn run(role: Role) -> anyhow::Result<()> {
    let url = std::env::var("DB_URL").context("DB_URL must name the database")?;
    let size = number("DATA", 54);
    let load = Load {
        keys: set("KEYS"),
        traces: set("TRACE"),
        tenants: number("TENANTS", 0) as u64,
    };
    let connections = match role {
        Role::Single(_, connections) => connections + 1,
        _ => number("CONNS", 10).max(2),
    };
    let pool = ours::pool(&url, u32::try_from(connections)?).await?;
    match role {
        Role::Setup => {
            migrate(&pool).await?;
            if set("LIMITS") {
                crate::measure::limit_each_tenant(&pool).await?;
            }
        }
        Role::Bulk(jobs) => {
            let rate = ours::enqueue(&pool, jobs, number("CHUNK", 5000), 1, load, size).await?;
            println!("R {rate:.1}");
        }
        Role::Single(jobs, connections) => {
            let rate = ours::enqueue_singly(&pool, jobs, connections, size).await?;
            println!("R {rate:.1}");
        }
        Role::Lat(jobs) => {
            let mut db = pool.acquire().await?;
            for id in 0..jobs as u64 {
                ours::enqueue_one(&pool, &mut db, id, size).await?;
                tokio::time::sleep(Duration::from_millis(10 + id * 7 % 10)).await;
            }
        }
        Role::Work => work(&pool).await?,
        Role::EndToEnd => {
            let time = Duration::from_secs(number("SECS", 25) as u64);
            let (rate, _) = ours::end_to_end(&pool, time, load, size).await?;
            println!("R {rate:.1}");
        }
    }
    Ok(())
}

async fn work(pool: &sqlx::PgPool) -> anyhow::Result<()> {
    let options = WorkerOptions {
        concurrency: number("CONC", 500),
        batch: number("BATCH", 500),
        poll: Duration::from_millis(number("POLL", 1000) as u64),
        ..WorkerOptions::default()
    };
    let waits = set("LAT");
    let seen = if waits { Seen::waiting() } else { Seen::default() };
    let worker = Running::start(pool, options, seen);
    let mut told = 0;
    let mut out = std::io::stdout();
    while !worker.is_over() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if waits {
            for wait in worker.seen.take_waits() {
                writeln!(out, "L {wait}")?;
            }
        }
        let jobs = worker.jobs();
        if jobs != told {
            told = jobs;
            writeln!(
                out,
                "C {} {jobs} {}",
                now_us(),
                worker.seen.first.load(Ordering::Relaxed)
            )?;
            out.flush()?;
        }
    }
    worker.stop().await
}

/// Workers as processes of their own.
#[derive(Debug)]
pub(crate) struct Workers {
    children: Vec<Child>,
    /// The first start of a job in any of them, in µs since the epoch.
    first: Arc<Mutex<Option<u64>>>,
}

impl Workers {
    /// One with the slots of a real worker.
    pub(crate) fn start_small(program: &Path, url: &str) -> anyhow::Result<Self> {
        Self::start_with(program, url, 1, &[("CONC", "20"), ("BATCH", "50"), ("CONNS", "22")])
    }

    /// Without a word to it.
    pub(crate) fn kill(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn start(program: &Path, url: &str, many: usize) -> anyhow::Result<Self> {
        Self::start_with(program, url, many, &[])
    }

    fn start_with(program: &Path, url: &str, many: usize, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let first: Arc<Mutex<Option<u64>>> = Arc::default();
        let mut children = Vec::new();
        for _ in 0..many {
            let mut child = Command::new(program)
                .args(["bench", "peer", "work"])
                .env("DB_URL", url)
                .envs(settings.iter().copied())
                .stdout(Stdio::piped())
                .spawn()
                .with_context(|| format!("start {}", program.display()))?;
            let lines = child.stdout.take().context("its output")?;
            let first = Arc::clone(&first);
            std::thread::spawn(move || {
                for line in BufReader::new(lines).lines().map_while(Result::ok) {
                    let at = line.split_whitespace().nth(3).and_then(|t| t.parse::<u64>().ok());
                    if let (true, Some(at)) = (line.starts_with("C "), at) {
                        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                        *first = Some(first.map_or(at, |f| f.min(at)));
                    }
                }
            });
            children.push(child);
        }
        Ok(Self { children, first })
    }

    pub(crate) async fn first_start(&self) -> anyhow::Result<u64> {
        for _ in 0..500 {
            if let Some(at) = *self.first.lock().unwrap_or_else(PoisonError::into_inner) {
                return Ok(at);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::bail!("no worker process told of a job within 5 s")
    }

    /// Of the first of them, where the system tells.
    pub(crate) fn memory_mib(&self, line: &str) -> Option<f64> {
        let child = self.children.first()?;
        crate::cpu::memory_mib(&child.id().to_string(), line)
    }

    pub(crate) async fn stop(mut self) {
        self.kill();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.kill();
    }
}
