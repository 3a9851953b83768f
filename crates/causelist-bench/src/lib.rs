//! Measures the queue beside the limit: a raw queue in PostgreSQL that keeps a history and has none
//! of the guarantees. Both run in turns over the same server, so that what else the machine does
//! touches both.

mod cpu;
mod limit;
mod ours;

use std::time::{Duration, Instant};

/// Jobs that may wait while both ends run.
const BACKLOG: u64 = 20_000;
/// Not counted at the start of what is measured over a time.
const WARM_UP: Duration = Duration::from_millis(1500);

/// Scratch entry for profiling.
///
/// # Errors
/// Any.
pub async fn scratch(url: &str, limit_url: &str, what: &str, postmaster: Option<u32>) -> anyhow::Result<()> {
    let n = 100_000;
    let pool = ours::pool(url, 12).await?;
    causelist_queue::migrate(&pool).await?;
    for _ in 0..3 {
        if what.contains("drain") {
            ours::clear(&pool).await?;
            let bulk = ours::enqueue(&pool, n, 5000, 1, |j, _| j, 54).await?;
            sqlx::raw_sql("vacuum analyze").execute(&pool).await?;
            let c = cpu::Cpu::now(postmaster);
            let t = Instant::now();
            let w = ours::Running::start(&pool, ours::fast(), ours::Seen::default());
            ours::until_idle(&pool).await?;
            let rate = n as f64 / t.elapsed().as_secs_f64();
            let per = cpu::Cpu::now(postmaster).per_job(c, n as f64);
            w.stop().await?;
            println!("ours  bulk {bulk:8.0} drain {rate:8.0} cpu {per:.1?}");
        }
        if what.contains("limit") {
            limit::clear(limit_url).await?;
            let bulk = limit::enqueue(limit_url, n, 5000, 1, 54).await?;
            limit::analyze(limit_url).await?;
            let c = cpu::Cpu::now(postmaster);
            let rate = limit::drain(limit_url).await?;
            let per = cpu::Cpu::now(postmaster).per_job(c, n as f64);
            println!("limit bulk {bulk:8.0} drain {rate:8.0} cpu {per:.1?}");
        }
        if what.contains("e2e") {
            ours::clear(&pool).await?;
            let c = cpu::Cpu::now(postmaster);
            let (rate, jobs) = ours::end_to_end(&pool, Duration::from_secs(8), 54).await?;
            let per = cpu::Cpu::now(postmaster).per_job(c, jobs);
            println!("ours  e2e {rate:8.0} cpu {per:.1?}");
            limit::clear(limit_url).await?;
            let c = cpu::Cpu::now(postmaster);
            let rate = limit::end_to_end(limit_url, Duration::from_secs(8), 54).await?;
            let per = cpu::Cpu::now(postmaster).per_job(c, rate * 9.5);
            println!("limit e2e {rate:8.0} cpu {per:.1?}");
        }
    }
    println!("rss {:?} peak {:?}", cpu::memory_mib(), cpu::peak_mib());
    Ok(())
}
