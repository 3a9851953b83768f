//! Enqueue by COPY: what [`crate::enqueue_many`] does with many jobs that differ in more than their
//! arguments.

use causelist_core::JobId;
use sqlx::{Connection, PgConnection, Postgres, Transaction};

use crate::enqueue::{Enqueued, NewJob, job_id};
use crate::error::EnqueueError;

/// Fewer are not worth its five statements.
pub(crate) const LEAST: usize = 200;
/// Jobs in one COPY: what is on its way is held in memory.
const CHUNK: usize = 10_000;

/// Enqueues jobs that were checked, have neither key nor parent, and no limit or fair queue; in the
/// caller's transaction (or, on a bare connection, in one of its own), all or none.
pub(crate) async fn enqueue(db: &mut PgConnection, jobs: &[NewJob]) -> Result<Vec<Enqueued>, EnqueueError> {
    let mut tx = db.begin().await?;
    let mut out = Vec::with_capacity(jobs.len());
    for chunk in jobs.chunks(CHUNK) {
        copy_chunk(&mut tx, chunk, &mut out).await?;
    }
    tx.commit().await?;
    Ok(out)
}

async fn copy_chunk(
    tx: &mut Transaction<'_, Postgres>,
    jobs: &[NewJob],
    out: &mut Vec<Enqueued>,
) -> Result<(), EnqueueError> {
    let many = i64::try_from(jobs.len()).unwrap_or(i64::MAX);
    let ids: Vec<(JobId, i64)> = sqlx::query_as(concat!(
        "select ",
        job_id!(),
        ", (select (date_part('epoch', clock_timestamp()) * 1e6)::bigint) from generate_series(1, $1)"
    ))
    .bind(many)
    .fetch_all(&mut **tx)
    .await?;
    let mut rows = Rows::new();
    for (job, (id, _)) in jobs.iter().zip(&ids) {
        rows.begin(9);
        rows.field(&id.to_be_bytes());
        rows.field(job.kind.as_bytes());
        rows.field(job.queue.as_bytes());
        rows.field(&job.priority.to_be_bytes());
        rows.maybe(job.tenant.as_ref().map(|t| t.as_bytes().as_slice()));
        // The binary form of jsonb: a version, then the text.
        rows.field(&[&[1], job.args.0.as_bytes()].concat());
        rows.field(&job.max_attempts.to_be_bytes());
        rows.maybe(job.trace.as_deref().map(str::as_bytes));
        rows.field(&[0]);
    }
    rows.send(
        tx,
        "copy causelist.job (id, kind, queue, priority, tenant, args, max_attempts, trace, keyed) from stdin binary",
    )
    .await?;
    let mut ready = Rows::new();
    let mut later = Rows::new();
    for (job, (id, now)) in jobs.iter().zip(&ids) {
        let run_at = job.run_at.map(|at| at.timestamp_micros());
        if let Some(at) = run_at.filter(|at| at > now) {
            later.begin(6);
            later.field(&(at - EPOCH_2000).to_be_bytes());
            later.field(&id.to_be_bytes());
            later.field(job.queue.as_bytes());
            later.field(&job.priority.to_be_bytes());
            later.field(&0_i16.to_be_bytes());
            later.field(b"run_at");
        } else {
            ready.begin(5);
            ready.field(job.queue.as_bytes());
            ready.field(&job.priority.to_be_bytes());
            ready.field(&run_at.unwrap_or(*now).to_be_bytes());
            ready.field(&id.to_be_bytes());
            ready.field(&0_i16.to_be_bytes());
        }
        out.push(Enqueued::new(*id, false));
    }
    ready
        .send(
            tx,
            "copy causelist.ready (queue, priority, rank, id, attempt) from stdin binary",
        )
        .await?;
    later
        .send(
            tx,
            "copy causelist.scheduled (run_at, id, queue, priority, attempt, reason) from stdin binary",
        )
        .await
}

/// 2000-01-01, from which PostgreSQL counts, in µs since 1970.
const EPOCH_2000: i64 = 946_684_800_000_000;

/// Rows in COPY's binary format.
struct Rows {
    bytes: Vec<u8>,
    any: bool,
}

impl Rows {
    fn new() -> Self {
        let mut bytes = b"PGCOPY\n\xff\r\n\0".to_vec();
        // No flags, no extension of the header.
        bytes.extend_from_slice(&[0; 8]);
        Self { bytes, any: false }
    }

    fn begin(&mut self, fields: i16) {
        self.any = true;
        self.bytes.extend_from_slice(&fields.to_be_bytes());
    }

    fn field(&mut self, value: &[u8]) {
        // A field is bounded by the limit of the arguments, far below 2 GiB.
        let size = i32::try_from(value.len()).unwrap_or(i32::MAX);
        self.bytes.extend_from_slice(&size.to_be_bytes());
        self.bytes.extend_from_slice(value);
    }

    fn maybe(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.field(value),
            None => self.bytes.extend_from_slice(&(-1_i32).to_be_bytes()),
        }
    }

    async fn send(mut self, db: &mut PgConnection, statement: &str) -> Result<(), EnqueueError> {
        if !self.any {
            return Ok(());
        }
        self.bytes.extend_from_slice(&(-1_i16).to_be_bytes());
        let mut copy = db.copy_in_raw(statement).await?;
        if let Err(error) = copy.send(self.bytes).await {
            // The server's own reason is that of the end.
            copy.abort("the client failed").await?;
            return Err(error.into());
        }
        copy.finish().await?;
        Ok(())
    }
}
