//! Not how fast, but how well under trouble: a worker that is killed, a tenant's flood, readers that
//! keep vacuum from its work.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causelist_core::{JobError, KindSpec};
use causelist_queue::{Job, JobCx, NewJob, WorkerOptions, db_error, enqueue_many, fair};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

use crate::ours::{self, Running, Seen};
use crate::peer;

/// A job that takes its time and then has an effect, under its fence.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Slow {
    /// In ms.
    pause: u64,
}

impl Job for Slow {
    type Report = ();
    fn spec() -> KindSpec {
        KindSpec::new("bench-slow", "Slow", "Waits, then writes a row under its fence.")
    }
    async fn run(&self, cx: &JobCx) -> Result<(), JobError> {
        sqlx::query("insert into bench_start values ($1, $2, clock_timestamp())")
            .bind(cx.job_id())
            .bind(i32::from(cx.attempt()))
            .execute(cx.pool())
            .await
            .map_err(db_error)?;
        tokio::time::sleep(Duration::from_millis(self.pause)).await;
        let mut tx = cx.begin().await?;
        sqlx::query("insert into bench_effect values ($1)")
            .bind(cx.job_id())
            .execute(&mut *tx)
            .await
            .map_err(db_error)?;
        tx.complete(&()).await
    }
}

/// The share of the waits below which the given share of them lies, in ms.
pub(crate) fn percentile(waits: &mut [u64], share: f64) -> f64 {
    waits.sort_unstable();
    let i = ((waits.len() as f64 * share) as usize).min(waits.len().saturating_sub(1));
    waits.get(i).map_or(f64::NAN, |us| *us as f64 / 1000.0)
}

/// Kills a worker process in the middle of its jobs, `kills` times, with another to take them over. Gives the time from the
/// kill until its jobs ran again, in s: the median and the 99th percentile. Fails if any effect took
/// place twice or not at all.
pub(crate) async fn crash(pool: &PgPool, program: &Path, url: &str, kills: usize) -> anyhow::Result<(f64, f64)> {
    sqlx::raw_sql(
        "drop table if exists bench_start, bench_effect; create table bench_start (job bigint, attempt int, at timestamptz);
         create table bench_effect (job bigint)",
    )
    .execute(pool)
    .await?;
    let mut waits: Vec<f64> = Vec::new();
    for _ in 0..kills {
        ours::clear(pool).await?;
        sqlx::raw_sql("truncate bench_start, bench_effect")
            .execute(pool)
            .await?;
        let jobs: Vec<NewJob> = (0..200)
            .map(|_| NewJob::of(&Slow { pause: 1500 }))
            .collect::<Result<_, _>>()?;
        let mut doomed = peer::Workers::start_small(program, url)?;
        enqueue_many(&mut *pool.acquire().await?, &jobs).await?;
        // Until it is in the middle of them.
        loop {
            let begun: i64 = sqlx::query_scalar("select count(*) from bench_start")
                .fetch_one(pool)
                .await?;
            if begun >= 20 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (held, killed): (Vec<i64>, chrono::DateTime<chrono::Utc>) = {
            doomed.kill();
            sqlx::query_as("select coalesce(array_agg(i), '{}'), clock_timestamp() from causelist.claim, unnest(ids) i")
                .fetch_one(pool)
                .await?
        };
        let rescuer = peer::Workers::start_small(program, url)?;
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let done: i64 = sqlx::query_scalar("select count(*) from bench_effect")
                .fetch_one(pool)
                .await?;
            if done >= 200 && ours::idle(pool).await? {
                break;
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "after the kill only {done} of 200 jobs took effect in 120 s"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (effects, distinct): (i64, i64) = sqlx::query_as("select count(*), count(distinct job) from bench_effect")
            .fetch_one(pool)
            .await?;
        anyhow::ensure!(
            effects == 200 && distinct == 200,
            "200 jobs had {effects} effects, of {distinct} jobs"
        );
        // Those that ran when it was killed; the unstarted wait for slots besides.
        let again: Vec<f64> = sqlx::query_scalar(
            "select date_part('epoch', min(s.at) - $2)::float8 from bench_start s
             where s.at > $2 and s.job = any ($1) and exists (
                 select from bench_start b where b.job = s.job and b.at <= $2) group by s.job",
        )
        .bind(&held)
        .bind(killed)
        .fetch_all(pool)
        .await?;
        waits.extend(again);
        rescuer.stop().await;
    }
    anyhow::ensure!(!waits.is_empty(), "no running job was hit by a kill");
    waits.sort_by(f64::total_cmp);
    let at = |share: f64| waits[((waits.len() as f64 * share) as usize).min(waits.len() - 1)];
    Ok((at(0.5), at(0.99)))
}

/// The 99th percentile of the start delay of 99 tenants with 10 jobs a second each, in ms: alone, and
/// beside one tenant with a backlog of `flood` jobs. In a fair queue; each job takes 2 ms.
pub(crate) async fn flood(pool: &PgPool, flood: usize, time: Duration) -> anyhow::Result<(f64, f64)> {
    ours::clear(pool).await?;
    fair::set_fair(pool, "default", true).await?;
    let options = WorkerOptions {
        concurrency: 32,
        batch: 100,
        ..WorkerOptions::default()
    };
    let measured = async {
        let worker = Running::start(pool, options.clone(), Seen::slow(Duration::from_millis(2)));
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let alone = others(pool, &worker.seen, time).await?;
        let mut db = pool.acquire().await?;
        let tenant = Uuid::from_u128(1);
        for from in (0..flood).step_by(5000) {
            let jobs: Vec<NewJob> = (from..(from + 5000).min(flood))
                .map(|id| Ok(ours::quiet_job(id as u64)?.tenant(tenant)))
                .collect::<anyhow::Result<_>>()?;
            enqueue_many(&mut db, &jobs).await?;
        }
        drop(db);
        let left: i64 = sqlx::query_scalar("select count(*) from causelist.ready")
            .fetch_one(pool)
            .await?;
        let beside = others(pool, &worker.seen, time).await?;
        let end: i64 = sqlx::query_scalar("select count(*) from causelist.ready")
            .fetch_one(pool)
            .await?;
        anyhow::ensure!(
            end > 0,
            "the flood of {flood} ({left} left at the start) was over before the measurement: ask for more"
        );
        worker.stop().await?;
        anyhow::Ok((alone, beside))
    }
    .await;
    ours::clear(pool).await?;
    fair::set_fair(pool, "default", false).await?;
    measured
}

async fn others(pool: &PgPool, seen: &Arc<Seen>, time: Duration) -> anyhow::Result<f64> {
    seen.take_waits();
    let mut put = 0;
    let begun = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut id = 0;
    while begun.elapsed() < time {
        tick.tick().await;
        let jobs: Vec<NewJob> = (2..=100)
            .map(|tenant| {
                id += 1;
                Ok(ours::job(id, 54)?.tenant(Uuid::from_u128(tenant)))
            })
            .collect::<anyhow::Result<_>>()?;
        put += jobs.len();
        enqueue_many(&mut *pool.acquire().await?, &jobs).await?;
        causelist_queue::notify_ready(pool, "default").await;
    }
    // All of them count, however late.
    let mut waits = Vec::new();
    let patience = Instant::now() + Duration::from_secs(60);
    while waits.len() < put {
        anyhow::ensure!(
            Instant::now() < patience,
            "{} of {put} jobs have not started",
            put - waits.len()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
        waits.extend(seen.take_waits());
    }
    Ok(percentile(&mut waits, 0.99))
}

/// Reads in transactions of 120 s, for ever.
async fn read_on(url: String, late: Duration) -> sqlx::Result<()> {
    tokio::time::sleep(late).await;
    loop {
        let mut db = PgConnection::connect(&url).await?;
        sqlx::raw_sql("begin isolation level repeatable read; select count(*) from causelist.ready")
            .execute(&mut db)
            .await?;
        tokio::time::sleep(Duration::from_secs(120)).await;
        sqlx::raw_sql("commit").execute(&mut db).await?;
    }
}

/// 800 jobs a second for `time`, while readers of 120 s overlap: gives the median and the 99th
/// percentile of the time from enqueue to start, in ms. Fails if a backlog is left.
pub(crate) async fn readers(pool: &PgPool, url: &str, time: Duration) -> anyhow::Result<(f64, f64)> {
    ours::clear(pool).await?;
    let worker = Running::start(pool, WorkerOptions::default(), Seen::waiting());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let begun = Instant::now();
    let mut reading = tokio::task::JoinSet::new();
    for late in [0, 60] {
        reading.spawn(read_on(url.to_owned(), Duration::from_secs(late)));
    }
    // Four enqueuers of 200 a second.
    let mut enqueuers = tokio::task::JoinSet::new();
    for part in 0..4_u64 {
        let pool = pool.clone();
        enqueuers.spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(5));
            let mut id = part;
            let mut db = pool.acquire().await?;
            while begun.elapsed() < time {
                tick.tick().await;
                ours::enqueue_one(&pool, &mut db, id, 54).await?;
                id += 4;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = enqueuers.join_next().await {
        ended??;
    }
    let left: i64 = sqlx::query_scalar("select count(*) from causelist.ready")
        .fetch_one(pool)
        .await?;
    anyhow::ensure!(left < 800, "a backlog grew: {left} jobs are left");
    reading.abort_all();
    ours::until_idle(pool).await?;
    let mut waits = worker.seen.take_waits();
    worker.stop().await?;
    let asked = time.as_secs_f64() * 800.0;
    anyhow::ensure!(
        waits.len() as f64 >= asked * 0.99,
        "only {} of {asked} jobs were enqueued in time: the machine is too slow for the trial",
        waits.len()
    );
    Ok((percentile(&mut waits, 0.5), percentile(&mut waits, 0.99)))
}
