//! Measures the queue beside the limit: a raw queue in PostgreSQL that keeps a history and has none
//! of the guarantees. Both run in turns over the same server, so that what else the machine does
//! touches both.

mod cpu;
mod limit;
mod measure;
mod ours;
pub mod peer;
mod report;
mod trials;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

pub use measure::Measure;
pub use report::{Report, Row, median};

/// Jobs that may wait while enqueuing and running go on side by side.
const BACKLOG: u64 = 20_000;
/// Not counted at the start of what is measured over a time.
const WARM_UP: Duration = Duration::from_millis(1500);

/// What to measure, and how long.
#[derive(Debug, Clone)]
pub struct Plan {
    /// An empty database for the queue.
    pub url: String,
    /// An empty database of the same server for the limit; none: the queue alone.
    pub limit_url: Option<String>,
    /// The postmaster's process id, for its CPU time; it must run on this machine.
    pub postmaster: Option<u32>,
    /// This program, to start workers as processes of their own: `<program> bench peer work`.
    pub program: PathBuf,
    /// In this order.
    pub measures: Vec<Measure>,
    /// How often each is measured; the median counts.
    pub rounds: usize,
    /// Jobs of a drain and of a bulk enqueue.
    pub jobs: usize,
    /// How long enqueuing and running go on side by side.
    pub time: Duration,
    /// Jobs that wait, or have ended, before what is measured with a backlog or a history.
    pub large: usize,
    /// How long readers overlap, where that is measured.
    pub long: Duration,
}

/// Measures all of it; `progress` is told what comes next.
///
/// # Errors
/// When the database can't be reached or a worker fails: no figure is better than a wrong one.
pub async fn run(plan: &Plan, progress: impl Fn(&str)) -> anyhow::Result<Report> {
    anyhow::ensure!(plan.rounds > 0 && plan.jobs >= 1000, "at least one round of 1000 jobs");
    let pool = ours::pool(&plan.url, 12).await?;
    causelist_queue::migrate(&pool).await.context("migrate the database")?;
    let bench = measure::Bench {
        plan: plan.clone(),
        pool,
    };
    let mut rows: Vec<Row> = plan.measures.iter().map(|m| Row::new(*m)).collect();
    for round in 1..=plan.rounds {
        for row in &mut rows {
            progress(&format!("round {round} of {}: {}", plan.rounds, row.measure.words()));
            bench.take(row).await.with_context(|| row.measure.name().to_owned())?;
        }
    }
    Ok(Report {
        jobs: plan.jobs,
        rounds: plan.rounds,
        seconds: plan.time.as_secs_f64(),
        large: plan.large,
        rows,
    })
}
