//! Our side: the queue as its users drive it, with a job that does nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use causelist_core::{JobError, KindSpec, SystemClock};
use causelist_queue::{Job, JobCx, NewJob, Registry, States, Worker, WorkerOptions, enqueue_many, notify_enqueued};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use crate::measure::Load;

/// What both sides' jobs carry: the size that the peers were measured with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Payload {
    /// When it was enqueued, in µs since the epoch.
    pub(crate) ts: u64,
    pub(crate) id: u64,
    pub(crate) data: String,
}

impl Payload {
    pub(crate) fn new(id: u64, size: usize) -> Self {
        Self {
            ts: now_us(),
            id,
            data: "causelist".chars().cycle().take(size).collect(),
        }
    }
}

pub(crate) fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

/// What the jobs of this process tell.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) jobs: AtomicU64,
    /// When the first ran, in µs since the epoch.
    pub(crate) first: AtomicU64,
    /// How long each took from enqueue to start, in µs, where that is asked for.
    pub(crate) waits: Option<std::sync::Mutex<Vec<u64>>>,
    /// How long each is to take.
    pause: Duration,
}

impl Seen {
    /// That notes how long each job took to start.
    pub(crate) fn waiting() -> Self {
        Self {
            waits: Some(std::sync::Mutex::default()),
            ..Self::default()
        }
    }

    /// The same, of jobs that take a while.
    pub(crate) fn slow(pause: Duration) -> Self {
        Self {
            pause,
            ..Self::waiting()
        }
    }

    pub(crate) fn take_waits(&self) -> Vec<u64> {
        let Some(waits) = &self.waits else { return Vec::new() };
        std::mem::take(&mut waits.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct Noop(Payload);

impl Job for Noop {
    type Report = ();
    fn spec() -> KindSpec {
        KindSpec::new(
            "bench-noop",
            "Nothing",
            "Does nothing, so that the queue's own cost shows.",
        )
    }
    async fn run(&self, cx: &JobCx) -> Result<(), JobError> {
        let seen = cx.state::<Arc<Seen>>()?;
        if seen.jobs.fetch_add(1, Ordering::Relaxed) == 0 {
            seen.first.store(now_us(), Ordering::Relaxed);
        }
        if let Some(waits) = seen.waits.as_ref().filter(|_| self.0.ts > 0)
            && let Ok(mut waits) = waits.lock()
        {
            waits.push(now_us().saturating_sub(self.0.ts));
        }
        if !seen.pause.is_zero() {
            tokio::time::sleep(seen.pause).await;
        }
        Ok(())
    }
}

pub(crate) async fn pool(url: &str, connections: u32) -> anyhow::Result<PgPool> {
    PgPoolOptions::new()
        .max_connections(connections)
        .min_connections(connections)
        .connect(url)
        .await
        .context("connect to PostgreSQL")
}

/// One job of the measurement.
pub(crate) fn job(id: u64, size: usize) -> anyhow::Result<NewJob> {
    Ok(NewJob::of(&Noop(Payload::new(id, size)))?)
}

/// One whose wait nobody measures.
pub(crate) fn quiet_job(id: u64) -> anyhow::Result<NewJob> {
    Ok(NewJob::of(&Noop(Payload {
        ts: 0,
        ..Payload::new(id, 54)
    }))?)
}

/// Enqueues `count` jobs, `batch` in each transaction, over `connections` connections side by side;
/// gives jobs per second.
pub(crate) async fn enqueue(
    pool: &PgPool,
    count: usize,
    batch: usize,
    connections: usize,
    load: Load,
    size: usize,
) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let share = count / connections;
    let parts = (0..connections).map(|part| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut db = pool.acquire().await?;
            let mut done = 0;
            while done < share {
                let many = batch.min(share - done);
                let jobs: Vec<NewJob> = (0..many)
                    .map(|i| {
                        let id = (part * share + done + i) as u64;
                        Ok(load.put_on(job(id, size)?, id))
                    })
                    .collect::<anyhow::Result<_>>()?;
                enqueue_many(&mut db, &jobs).await?;
                done += many;
            }
            anyhow::Ok(())
        })
    });
    for part in futures::future::join_all(parts).await {
        part.context("enqueue")??;
    }
    Ok((share * connections) as f64 / begun.elapsed().as_secs_f64())
}

/// One job, told to the workers at once: for the time until it starts.
pub(crate) async fn enqueue_one(pool: &PgPool, db: &mut PgConnection, id: u64, size: usize) -> anyhow::Result<()> {
    let job = job(id, size)?;
    let queue = job.queue_name().to_owned();
    let made = causelist_queue::enqueue(db, job).await?;
    notify_enqueued(pool, &queue, &made).await;
    Ok(())
}

/// As [`enqueue_one`], so many over so many connections; gives jobs per second.
pub(crate) async fn enqueue_singly(
    pool: &PgPool,
    count: usize,
    connections: usize,
    size: usize,
) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let share = count / connections;
    let parts = (0..connections).map(|part| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut db = pool.acquire().await?;
            for i in 0..share {
                enqueue_one(&pool, &mut db, (part * share + i) as u64, size).await?;
            }
            anyhow::Ok(())
        })
    });
    for part in futures::future::join_all(parts).await {
        part.context("enqueue")??;
    }
    Ok((share * connections) as f64 / begun.elapsed().as_secs_f64())
}

/// A worker of this process.
pub(crate) struct Running {
    pub(crate) seen: Arc<Seen>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), causelist_queue::WorkerFailed>>,
}

impl Running {
    pub(crate) fn start(pool: &PgPool, options: WorkerOptions, seen: Seen) -> Self {
        let seen = Arc::new(seen);
        let stop = CancellationToken::new();
        let worker = Worker::new(
            pool.clone(),
            Registry::default().job::<Noop>().job::<crate::trials::Slow>(),
            States::default().with(Arc::clone(&seen)),
            Arc::new(SystemClock),
            options,
        );
        let token = stop.clone();
        Self {
            seen,
            stop,
            task: tokio::spawn(async move { worker.run(token).await }),
        }
    }

    pub(crate) fn jobs(&self) -> u64 {
        self.seen.jobs.load(Ordering::Relaxed)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await.context("the worker")?.context("the worker")
    }
}

/// The options that did best in a drain of jobs that do nothing.
pub(crate) fn fast() -> WorkerOptions {
    WorkerOptions {
        name: "bench".into(),
        concurrency: 500,
        batch: 500,
        ..WorkerOptions::default()
    }
}

/// Whether everything is settled.
pub(crate) async fn idle(pool: &PgPool) -> anyhow::Result<bool> {
    Ok(sqlx::query_scalar(
        "select not exists (select from causelist.ready) and not exists (select from causelist.claim)",
    )
    .fetch_one(pool)
    .await?)
}

/// Waits until everything is settled.
pub(crate) async fn until_idle(pool: &PgPool) -> anyhow::Result<()> {
    while !idle(pool).await? {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Empties the queue and its history.
pub(crate) async fn clear(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::raw_sql("truncate causelist.job, causelist.attempt, causelist.ready, causelist.scheduled, causelist.claim, causelist.job_key")
        .execute(pool)
        .await?;
    settle_down(pool).await
}

/// Statistics, and nothing left to be written.
pub(crate) async fn settle_down(pool: &PgPool) -> anyhow::Result<()> {
    for statement in ["vacuum analyze", "checkpoint"] {
        sqlx::raw_sql(statement).execute(pool).await?;
    }
    Ok(())
}

/// Enqueues and runs side by side for `time`; gives jobs run per second, and in all.
pub(crate) async fn end_to_end(pool: &PgPool, time: Duration, load: Load, size: usize) -> anyhow::Result<(f64, f64)> {
    let running = Running::start(pool, fast(), Seen::default());
    let stop = CancellationToken::new();
    let producer = {
        let (pool, seen, stop) = (pool.clone(), Arc::clone(&running.seen), stop.clone());
        tokio::spawn(async move {
            let mut db = pool.acquire().await?;
            let mut made = 0_u64;
            while !stop.is_cancelled() {
                if made > seen.jobs.load(Ordering::Relaxed) + crate::BACKLOG {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                let jobs: Vec<NewJob> = (made..made + 500)
                    .map(|id| Ok(load.put_on(job(id, size)?, id)))
                    .collect::<anyhow::Result<_>>()?;
                enqueue_many(&mut db, &jobs).await?;
                made += 500;
            }
            anyhow::Ok(())
        })
    };
    tokio::time::sleep(crate::WARM_UP).await;
    let (before, begun) = (running.jobs(), Instant::now());
    tokio::time::sleep(time).await;
    let rate = (running.jobs() - before) as f64 / begun.elapsed().as_secs_f64();
    stop.cancel();
    producer.await.context("the producer")??;
    until_idle(pool).await?;
    let jobs = running.jobs() as f64;
    running.stop().await?;
    Ok((rate, jobs))
}
