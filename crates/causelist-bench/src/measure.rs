//! What can be measured, and how each is.

use std::time::{Duration, Instant};

use causelist_queue::{NewJob, limits};
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use crate::cpu::Cpu;
use crate::ours::{self, Running, Seen};
use crate::report::Row;
use crate::{Plan, limit, peer, trials};

macro_rules! measures {
    ($($(#[$doc:meta])* $variant:ident $name:literal $unit:literal $words:literal;)*) => {
        /// Something that can be measured.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Measure { $(#[doc = $words] $variant,)* }

        impl Measure {
            /// All, in the order of a full run.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name on the command line and in reports.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// In words.
            #[must_use]
            pub fn words(self) -> &'static str {
                match self { $(Self::$variant => $words,)* }
            }

            /// Of its figures.
            #[must_use]
            pub fn unit(self) -> &'static str {
                match self { $(Self::$variant => $unit,)* }
            }
        }
    };
}

measures! {
    Single1 "single-1" "jobs/s" "enqueue one by one, 1 connection";
    Single8 "single-8" "jobs/s" "enqueue one by one, 8 connections";
    Bulk "bulk" "jobs/s" "enqueue 5000 at a time";
    Drain "drain" "jobs/s" "drain, one worker";
    Drain4 "drain-4" "jobs/s" "drain, four worker processes";
    EndToEnd "end-to-end" "jobs/s" "enqueue and run side by side";
    EndToEnd1k "end-to-end-1k" "jobs/s" "enqueue and run, payloads of 1 KB";
    Keys "keys" "jobs/s" "enqueue and run, each with a key";
    Traces "traces" "jobs/s" "enqueue and run, each with a trace";
    TenantLimits "tenant-limits" "jobs/s" "enqueue and run, a limit per tenant";
    Features "features" "jobs/s" "enqueue and run, keys, traces and limits";
    Backlog "backlog" "jobs/s" "drain, first of a large backlog";
    History "history" "jobs/s" "drain, after a large history";
    Pickup "pickup" "ms" "from enqueue to start, idle worker (p50, p99)";
    Memory "memory" "MiB" "memory of a worker process (idle, loaded)";
    Crash "crash" "s" "from SIGKILL until its jobs run again (p50, p99)";
    Flood "flood" "ms" "99 tenants' p99 start delay, alone and beside a flood";
    Readers "readers" "ms" "from enqueue to start, beside long readers (p50, p99)";
}

impl std::str::FromStr for Measure {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|m| m.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|m| m.name()).collect();
            format!("no such measure; there are {}", names.join(", "))
        })
    }
}

/// Bytes of a payload's text: the size that peers were measured with, and a large one.
const SMALL: usize = 54;
const LARGE: usize = 1000;
/// Tenants among which jobs with a tenant are spread.
const TENANTS: u64 = 100;

/// What the jobs of a measurement have besides their arguments.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    pub(crate) keys: bool,
    pub(crate) traces: bool,
    /// Tenants that the jobs belong to in turns; 0: nobody's.
    pub(crate) tenants: u64,
}

impl Load {
    pub(crate) fn put_on(self, mut job: NewJob, id: u64) -> NewJob {
        if self.keys {
            job = job.key(&format!("bench-{id}"));
        }
        if self.traces {
            job = job.trace(Some(format!("00-{:032x}-{:016x}-01", u128::from(id) + 1, id + 1)));
        }
        if self.tenants > 0 {
            job = job.tenant(Uuid::from_u128(u128::from(id % self.tenants) + 1));
        }
        job
    }
}

const PLAIN: Load = Load {
    keys: false,
    traces: false,
    tenants: 0,
};

/// A limit that holds nobody back: what it costs to have one.
pub(crate) async fn limit_each_tenant(pool: &PgPool) -> anyhow::Result<()> {
    let rule = limits::Rule {
        kind: None,
        scope: limits::Scope::Each,
        max_running: Some(1_000_000),
        rate: None,
    };
    Ok(limits::set(pool, &rule).await?)
}

/// One run's means.
pub(crate) struct Bench {
    pub(crate) plan: Plan,
    pub(crate) pool: PgPool,
}

impl Bench {
    /// Takes one figure of each side.
    pub(crate) async fn take(&self, row: &mut Row) -> anyhow::Result<()> {
        let jobs = self.plan.jobs;
        // fsync bounds these: fewer say the same.
        let singles = (jobs / 20).clamp(1000, 10_000);
        match row.measure {
            Measure::Single1 => self.enqueue(row, singles / 4, 1, 1).await,
            Measure::Single8 => self.enqueue(row, singles, 1, 8).await,
            Measure::Bulk => self.enqueue(row, jobs, 5000, 1).await,
            Measure::Drain => self.drain(row, jobs).await,
            Measure::Drain4 => self.drain_four(row).await,
            Measure::EndToEnd => self.end_to_end(row, PLAIN, SMALL).await,
            Measure::EndToEnd1k => self.end_to_end(row, PLAIN, LARGE).await,
            Measure::Keys => self.end_to_end(row, Load { keys: true, ..PLAIN }, SMALL).await,
            Measure::Traces => self.end_to_end(row, Load { traces: true, ..PLAIN }, SMALL).await,
            Measure::TenantLimits => {
                self.limited(
                    row,
                    Load {
                        tenants: TENANTS,
                        ..PLAIN
                    },
                )
                .await
            }
            Measure::Features => {
                self.limited(
                    row,
                    Load {
                        keys: true,
                        traces: true,
                        tenants: TENANTS,
                    },
                )
                .await
            }
            Measure::Backlog => self.drain(row, self.plan.large).await,
            Measure::History => self.history(row).await,
            Measure::Pickup => self.pickup(row).await,
            Measure::Memory => self.memory(row).await,
            Measure::Crash => Self::two(
                row,
                trials::crash(&self.pool, &self.plan.program, &self.plan.url, 5).await?,
            ),
            Measure::Flood => {
                let time = Duration::from_secs(10);
                Self::two(row, trials::flood(&self.pool, self.plan.large, time).await?)
            }
            Measure::Readers => Self::two(row, trials::readers(&self.pool, &self.plan.url, self.plan.long).await?),
        }
    }

    fn two(row: &mut Row, (first, second): (f64, f64)) -> anyhow::Result<()> {
        row.ours.push(first);
        row.more.push(second);
        Ok(())
    }

    fn cpu(&self) -> Cpu {
        Cpu::now(self.plan.postmaster)
    }

    fn ours(&self, row: &mut Row, figure: f64, since: Cpu, jobs: f64) {
        row.ours.push(figure);
        let (server, client) = self.cpu().per_job(since, jobs);
        row.server_us.extend(server);
        row.client_us.extend(client);
    }

    fn limit(&self, row: &mut Row, figure: f64, since: Cpu, jobs: f64) {
        row.limit.push(figure);
        let (server, client) = self.cpu().per_job(since, jobs);
        row.limit_server_us.extend(server);
        row.limit_client_us.extend(client);
    }

    async fn enqueue(&self, row: &mut Row, jobs: usize, batch: usize, connections: usize) -> anyhow::Result<()> {
        ours::clear(&self.pool).await?;
        let cpu = self.cpu();
        let rate = ours::enqueue(&self.pool, jobs, batch, connections, PLAIN, SMALL).await?;
        self.ours(row, rate, cpu, jobs as f64);
        if let Some(url) = &self.plan.limit_url {
            limit::clear(url).await?;
            let cpu = self.cpu();
            let rate = limit::enqueue(url, jobs, batch, connections, SMALL).await?;
            self.limit(row, rate, cpu, jobs as f64);
        }
        Ok(())
    }

    /// The first `plan.jobs` of `waiting` jobs.
    async fn drain(&self, row: &mut Row, waiting: usize) -> anyhow::Result<()> {
        let jobs = self.plan.jobs.min(waiting);
        ours::clear(&self.pool).await?;
        ours::enqueue(&self.pool, waiting, 5000, 1, PLAIN, SMALL).await?;
        ours::settle_down(&self.pool).await?;
        self.drain_now(row, jobs).await?;
        if let Some(url) = &self.plan.limit_url {
            limit::clear(url).await?;
            limit::enqueue(url, waiting, 5000, 1, SMALL).await?;
            limit::settle_down(url).await?;
            let cpu = self.cpu();
            let rate = limit::drain(url, jobs).await?;
            self.limit(row, rate, cpu, jobs as f64);
        }
        Ok(())
    }

    async fn drain_now(&self, row: &mut Row, jobs: usize) -> anyhow::Result<()> {
        let cpu = self.cpu();
        let begun = Instant::now();
        let worker = Running::start(&self.pool, ours::fast(), Seen::default());
        while worker.jobs() < jobs as u64 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let left: bool = sqlx::query_scalar("select exists (select from causelist.ready)")
            .fetch_one(&self.pool)
            .await?;
        // Of a whole drain the settles count as well.
        if !left {
            ours::until_idle(&self.pool).await?;
        }
        let rate = worker.jobs() as f64 / begun.elapsed().as_secs_f64();
        let ran = worker.jobs() as f64;
        self.ours(row, rate, cpu, ran);
        worker.stop().await
    }

    async fn history(&self, row: &mut Row) -> anyhow::Result<()> {
        ours::clear(&self.pool).await?;
        ours::enqueue(&self.pool, self.plan.large, 5000, 1, PLAIN, SMALL).await?;
        let worker = Running::start(&self.pool, ours::fast(), Seen::default());
        ours::until_idle(&self.pool).await?;
        worker.stop().await?;
        ours::enqueue(&self.pool, self.plan.jobs, 5000, 1, PLAIN, SMALL).await?;
        ours::settle_down(&self.pool).await?;
        self.drain_now(row, self.plan.jobs).await?;
        if let Some(url) = &self.plan.limit_url {
            limit::clear(url).await?;
            limit::enqueue(url, self.plan.large, 5000, 1, SMALL).await?;
            limit::drain(url, self.plan.large).await?;
            limit::enqueue(url, self.plan.jobs, 5000, 1, SMALL).await?;
            limit::settle_down(url).await?;
            let cpu = self.cpu();
            let rate = limit::drain(url, self.plan.jobs).await?;
            self.limit(row, rate, cpu, self.plan.jobs as f64);
        }
        Ok(())
    }

    async fn drain_four(&self, row: &mut Row) -> anyhow::Result<()> {
        ours::clear(&self.pool).await?;
        ours::enqueue(&self.pool, self.plan.jobs, 5000, 1, PLAIN, SMALL).await?;
        ours::settle_down(&self.pool).await?;
        let workers = peer::Workers::start(&self.plan.program, &self.plan.url, 4)?;
        ours::until_idle(&self.pool).await?;
        let end = ours::now_us();
        let first = workers.first_start().await?;
        row.ours
            .push(self.plan.jobs as f64 / (end.saturating_sub(first) as f64 / 1e6));
        workers.stop().await;
        Ok(())
    }

    async fn end_to_end(&self, row: &mut Row, load: Load, size: usize) -> anyhow::Result<()> {
        ours::clear(&self.pool).await?;
        let cpu = self.cpu();
        let (rate, jobs) = ours::end_to_end(&self.pool, self.plan.time, load, size).await?;
        self.ours(row, rate, cpu, jobs);
        if let Some(url) = &self.plan.limit_url {
            limit::clear(url).await?;
            let cpu = self.cpu();
            let (rate, jobs) = limit::end_to_end(url, self.plan.time, size).await?;
            self.limit(row, rate, cpu, jobs);
        }
        Ok(())
    }

    async fn limited(&self, row: &mut Row, load: Load) -> anyhow::Result<()> {
        limit_each_tenant(&self.pool).await?;
        let done = self.end_to_end(row, load, SMALL).await;
        limits::remove(&self.pool, None, limits::Scope::Each).await?;
        done
    }

    async fn pickup(&self, row: &mut Row) -> anyhow::Result<()> {
        ours::clear(&self.pool).await?;
        let worker = Running::start(&self.pool, causelist_queue::WorkerOptions::default(), Seen::waiting());
        // Until it listens.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let mut db = self.pool.acquire().await?;
        for id in 0..500_u64 {
            ours::enqueue_one(&self.pool, &mut db, id, SMALL).await?;
            tokio::time::sleep(Duration::from_millis(10 + id * 7 % 10)).await;
        }
        ours::until_idle(&self.pool).await?;
        let mut waits = worker.seen.take_waits();
        worker.stop().await?;
        let p50 = trials::percentile(&mut waits, 0.5);
        Self::two(row, (p50, trials::percentile(&mut waits, 0.99)))
    }

    async fn memory(&self, row: &mut Row) -> anyhow::Result<()> {
        ours::clear(&self.pool).await?;
        let workers = peer::Workers::start(&self.plan.program, &self.plan.url, 1)?;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        row.ours.extend(workers.memory_mib("VmRSS:"));
        ours::enqueue(&self.pool, self.plan.jobs, 5000, 1, PLAIN, SMALL).await?;
        ours::until_idle(&self.pool).await?;
        row.more.extend(workers.memory_mib("VmHWM:"));
        workers.stop().await;
        Ok(())
    }
}
