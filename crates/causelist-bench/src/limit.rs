//! The limit: a queue in PostgreSQL with a history and nothing else. No kinds, keys, retries,
//! leases that end, no lookup of anything but by id. Whoever wants to be faster than this has to
//! leave PostgreSQL, or the history.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type};
use tokio_postgres::{Client, NoTls};

use crate::ours::Payload;

const TABLES: &str = "
drop table if exists jobs, ready, claims, runs;
create table jobs (
    id bigserial primary key, queue int not null default 1, kind int not null default 1,
    priority smallint not null default 0, created_at timestamptz not null default now(), payload jsonb not null);
create table ready (
    queue int not null, priority smallint not null, run_at timestamptz not null default now(), id bigint not null,
    attempt smallint not null default 0, primary key (queue, priority, run_at, id));
create table claims (
    batch bigint primary key generated always as identity, lease_by int, at timestamptz not null default now(),
    ids bigint[]);
create table runs (
    id bigint, attempt smallint, state smallint, lease_by int, started_at timestamptz, finished_at timestamptz)
    partition by range (id);
create table runs_1 partition of runs for values from (0) to (100000000);
create table runs_2 partition of runs for values from (100000000) to (200000000);
create index on runs using brin (id) with (pages_per_range = 16);";

const ENQUEUE: &str = "
with put as (insert into jobs (payload) select * from unnest($1::jsonb[]) returning id)
insert into ready (queue, priority, id) select 1, 0, id from put";

const CLAIM: &str = "
with picked as materialized (
    select ctid from ready where queue = 1 and run_at <= now()
    order by priority, run_at, id limit $1 for update skip locked),
taken as (
    delete from ready where ctid = any (array(select ctid from picked)) returning id, attempt),
held as (
    insert into claims (lease_by, ids) select $2::int4, array_agg(id) from taken having count(*) > 0 returning batch)
select taken.id, j.payload, taken.attempt, held.batch from held, taken join jobs j on j.id = taken.id";

const SETTLE: &str = "
with gone as (delete from claims where batch = $2 returning *)
insert into runs select id, 1, 2, gone.lease_by, gone.at, now() from gone, unnest($1::bigint[]) id";

/// JSON as it is, not written or read twice.
#[derive(Debug)]
struct Raw(Vec<u8>);

impl ToSql for Raw {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut tokio_postgres::types::private::BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&[1]);
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }
    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }
    tokio_postgres::types::to_sql_checked!();
}

struct RawIn<'a>(&'a [u8]);

impl<'a> FromSql<'a> for RawIn<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(RawIn(raw.get(1..).unwrap_or_default()))
    }
    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }
}

async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .context("connect to PostgreSQL")?;
    tokio::spawn(connection);
    Ok(client)
}

/// Empty tables.
pub(crate) async fn clear(url: &str) -> anyhow::Result<()> {
    let client = connect(url).await?;
    client.batch_execute(TABLES).await?;
    client.batch_execute("checkpoint").await?;
    Ok(())
}

/// As on our side.
pub(crate) async fn settle_down(url: &str) -> anyhow::Result<()> {
    let client = connect(url).await?;
    for statement in ["vacuum analyze", "checkpoint"] {
        client.batch_execute(statement).await?;
    }
    Ok(())
}

/// As on our side.
pub(crate) async fn enqueue(
    url: &str,
    count: usize,
    batch: usize,
    connections: usize,
    size: usize,
) -> anyhow::Result<f64> {
    let share = count / connections;
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(connect(url).await?);
    }
    let begun = Instant::now();
    let parts = clients.into_iter().enumerate().map(|(part, client)| {
        tokio::spawn(async move {
            let statement = client.prepare(ENQUEUE).await?;
            let mut done = 0;
            while done < share {
                let many = batch.min(share - done);
                put(&client, &statement, part * share + done, many, size).await?;
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

async fn put(
    client: &Client,
    statement: &tokio_postgres::Statement,
    from: usize,
    many: usize,
    size: usize,
) -> anyhow::Result<()> {
    let payloads: Vec<Raw> = (from..from + many)
        .map(|id| Ok(Raw(serde_json::to_vec(&Payload::new(id as u64, size))?)))
        .collect::<anyhow::Result<_>>()?;
    client.execute(statement, &[&payloads]).await?;
    Ok(())
}

/// How the workers of one measurement are steered and counted.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) done: AtomicU64,
    stop: AtomicBool,
    /// Ends when so many are done, or nothing is left.
    drain: Option<u64>,
}

const BATCH: i64 = 500;

async fn work(url: String, worker: i32, shared: Arc<Shared>) -> anyhow::Result<()> {
    let client = connect(&url).await?;
    let claim = client.prepare(CLAIM).await?;
    let settle = client.prepare(SETTLE).await?;
    let mut ended: Option<(Vec<i64>, i64)> = None;
    let mut misses = 0;
    loop {
        if shared.stop.load(Ordering::Relaxed) && ended.is_none() {
            return Ok(());
        }
        let args: [&(dyn ToSql + Sync); 2] = [&BATCH, &worker];
        // The settle of one batch and the claim of the next are on their way together.
        let rows = if let Some((ids, batch)) = ended.take() {
            let settled: [&(dyn ToSql + Sync); 2] = [&ids, &batch];
            let (done, rows) = futures::join!(client.execute(&settle, &settled), client.query(&claim, &args));
            done?;
            let done = shared.done.fetch_add(ids.len() as u64, Ordering::Relaxed) + ids.len() as u64;
            if shared.drain.is_some_and(|most| done >= most) {
                return Ok(());
            }
            rows?
        } else {
            client.query(&claim, &args).await?
        };
        let Some(first) = rows.first() else {
            misses += 1;
            if shared.drain.is_some() && misses > 3 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        };
        misses = 0;
        let batch: i64 = first.get(3);
        let mut ids = Vec::with_capacity(rows.len());
        let mut jobs = tokio::task::JoinSet::new();
        for row in &rows {
            ids.push(row.get::<_, i64>(0));
            let payload: Payload = serde_json::from_slice(row.get::<_, RawIn<'_>>(1).0)?;
            jobs.spawn(async move {
                tokio::task::yield_now().await;
                drop(payload);
            });
        }
        while jobs.join_next().await.is_some() {}
        ended = Some((ids, batch));
    }
}

fn start(url: &str, shared: &Arc<Shared>) -> tokio::task::JoinSet<anyhow::Result<()>> {
    let mut workers = tokio::task::JoinSet::new();
    for worker in 1..=2 {
        workers.spawn(work(url.to_owned(), worker, Arc::clone(shared)));
    }
    workers
}

/// Runs so many of what was enqueued; gives jobs per second.
pub(crate) async fn drain(url: &str, jobs: usize) -> anyhow::Result<f64> {
    let shared = Arc::new(Shared {
        drain: Some(jobs as u64),
        ..Shared::default()
    });
    let begun = Instant::now();
    let mut workers = start(url, &shared);
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok(shared.done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64())
}

/// Enqueues and runs side by side for `time`; gives jobs settled per second, and in all.
pub(crate) async fn end_to_end(url: &str, time: Duration, size: usize) -> anyhow::Result<(f64, f64)> {
    let shared = Arc::new(Shared::default());
    let mut workers = start(url, &shared);
    let producer = {
        let (url, shared) = (url.to_owned(), Arc::clone(&shared));
        tokio::spawn(async move {
            let client = connect(&url).await?;
            let statement = client.prepare(ENQUEUE).await?;
            let mut made = 0_usize;
            while !shared.stop.load(Ordering::Relaxed) {
                if made as u64 > shared.done.load(Ordering::Relaxed) + crate::BACKLOG {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                put(&client, &statement, made, 500, size).await?;
                made += 500;
            }
            anyhow::Ok(())
        })
    };
    tokio::time::sleep(crate::WARM_UP).await;
    let (before, begun) = (shared.done.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(time).await;
    let rate = (shared.done.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
    shared.stop.store(true, Ordering::Relaxed);
    producer.await.context("the producer")??;
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok((rate, shared.done.load(Ordering::Relaxed) as f64))
}
