//! Retention: weeks of history that have passed their time go as whole partitions, into an archive
//! first where one is wanted; small old rows go in batches. A week that holds anything unfinished
//! stays, whatever its age.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use serde::Serialize;
use sqlx::{FromRow, PgConnection, PgPool};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use crate::upkeep::SWEEP_EVERY;

/// How long history is kept, and what becomes of it then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// Jobs and their attempts go when the week they were enqueued in ended longer ago than this.
    pub details: Duration,
    /// Where they go.
    pub archive: Archive,
}

impl Default for Retention {
    /// 30 days, and no archive.
    fn default() -> Self {
        Self {
            details: Duration::from_secs(30 * 86_400),
            archive: Archive::Off,
        }
    }
}

/// Where old weeks go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Archive {
    /// Nowhere: they are dropped.
    Off,
    /// Into the schema `causelist_archive`, as tables of their own.
    Table,
    /// Into `<partition>.csv` files in this directory.
    Files(PathBuf),
}

/// What became of a week that had passed its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct Week {
    /// ISO year and week, such as `2026w07`.
    pub week: String,
    /// dropped, archived, kept, or busy: the tables were in use for too long, try again.
    pub outcome: String,
    /// Why it was kept.
    pub reason: Option<String>,
}

/// Why history could not be looked after. Nothing that was not archived has been dropped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetentionError {
    /// The database refused or couldn't be reached.
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    /// The archive can't be written.
    #[error("the archive {} can't be written: {source}. Mend it, or set retention.archive", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        source: std::io::Error,
    },
}

/// Lets go of the weeks that have passed their time. Of several callers at once one does it and the
/// others get an empty answer.
///
/// # Errors
/// See [`RetentionError`].
pub async fn drop_old(pool: &PgPool, retention: &Retention) -> Result<Vec<Week>, RetentionError> {
    let to_table = match &retention.archive {
        Archive::Files(dir) => return drop_to_files(pool, retention.details, dir).await,
        Archive::Table => true,
        Archive::Off => false,
    };
    let weeks = sqlx::query_as(
        "select week, outcome, reason from causelist.drop_old_partitions(make_interval(secs => $1), $2) order by week",
    )
    .bind(retention.details.as_secs_f64())
    .bind(to_table)
    .fetch_all(pool)
    .await?;
    Ok(weeks)
}

/// Week by week, each in a transaction of its own: write both files, make them durable, drop the
/// partitions, commit. A crash before the commit leaves the partitions, and files that the next try
/// replaces.
async fn drop_to_files(pool: &PgPool, keep: Duration, dir: &Path) -> Result<Vec<Week>, RetentionError> {
    let mut told: Vec<Week> = Vec::new();
    let mut tried: HashSet<String> = HashSet::new();
    loop {
        let mut tx = pool.begin().await?;
        // Held to the commit, so that nobody writes a file anew from a week that another has dropped.
        let alone: bool = sqlx::query_scalar("select pg_try_advisory_xact_lock(7205759403792794)")
            .fetch_one(&mut *tx)
            .await?;
        if !alone {
            return Ok(told);
        }
        let old: Vec<(String, i64, i64, Option<String>)> =
            sqlx::query_as("select week, lo, hi, reason from causelist.old_weeks(make_interval(secs => $1))")
                .bind(keep.as_secs_f64())
                .fetch_all(&mut *tx)
                .await?;
        let next = old
            .iter()
            .find(|(week, _, _, reason)| reason.is_none() && !tried.contains(week));
        let Some((week, lo, hi, _)) = next else {
            told.extend(
                old.into_iter()
                    .filter(|(week, ..)| !tried.contains(week))
                    .map(|(week, _, _, reason)| Week {
                        week,
                        outcome: "kept".into(),
                        reason,
                    }),
            );
            told.sort_by(|a, b| a.week.cmp(&b.week));
            return Ok(told);
        };
        tried.insert(week.clone());
        for (table, id) in [("job", "id"), ("attempt", "job_id")] {
            let sql = format!("select * from causelist.{table} where {id} >= {lo} and {id} < {hi} order by {id}");
            write_file(&mut tx, dir, &format!("{table}_{week}.csv"), &sql).await?;
        }
        let done: Vec<Week> = sqlx::query_as(
            "select week, case outcome when 'dropped' then 'archived' else outcome end as outcome, reason
             from causelist.drop_old_partitions(make_interval(secs => $1), false, $2)",
        )
        .bind(keep.as_secs_f64())
        .bind(week)
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        told.extend(done);
    }
}

/// Writes the rows of a query as CSV with a header, under a passing name until they are on the disk.
/// Only the owner may read the file: arguments may name people.
async fn write_file(db: &mut PgConnection, dir: &Path, name: &str, sql: &str) -> Result<(), RetentionError> {
    let path = dir.join(name);
    let part = dir.join(format!("{name}.part"));
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |source| RetentionError::File { path, source }
    };
    // One reading of the file, whatever the session's settings.
    sqlx::query("select set_config('timezone', 'UTC', true), set_config('datestyle', 'ISO', true)")
        .execute(&mut *db)
        .await?;
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&part).await.map_err(fault(&part))?;
    let statement = format!("copy ({sql}) to stdout with (format csv, header)");
    let mut rows = db.copy_out_raw(&statement).await?;
    let mut written = Ok(());
    while let Some(bytes) = rows.next().await {
        let bytes = bytes?;
        // With a full disk, the rest is read all the same: the connection is of use again after it.
        if written.is_ok() {
            written = file.write_all(&bytes).await;
        }
    }
    drop(rows);
    written.map_err(fault(&part))?;
    file.flush().await.map_err(fault(&part))?;
    file.sync_all().await.map_err(fault(&part))?;
    drop(file);
    tokio::fs::rename(&part, &path).await.map_err(fault(&path))?;
    // The name is durable when the directory is.
    let open = tokio::fs::File::open(dir).await.map_err(fault(dir))?;
    open.sync_all().await.map_err(fault(dir))
}

/// Rows that nothing reads any more, in batches, each of which is found by an index. Events and
/// messages are not among them: they are what keeps a job from telling the same twice, and a task may
/// stay open for years.
const OLD_ROWS: [&str; 3] = [
    "delete from causelist.schedule_fire where ctid = any (array(
         select ctid from causelist.schedule_fire
         where fired_at < now() - interval '90 days' and instant < now() - interval '90 days'
         limit $1 for update skip locked))",
    "delete from causelist.audit_mark where ctid = any (array(
         select ctid from causelist.audit_mark where created_at < now() - interval '90 days'
         limit $1 for update skip locked))",
    // An expired key refuses nothing; who enqueues with it takes it over if it comes first.
    "delete from causelist.job_key where ctid = any (array(
         select ctid from causelist.job_key where expires_at <= clock_timestamp()
         limit $1 for update skip locked))",
];

/// Deletes schedule fires and audit marks older than 90 days, and expired keys; says how many rows
/// that were.
///
/// # Errors
/// When the database can't be reached.
pub async fn drop_old_rows(pool: &PgPool) -> sqlx::Result<u64> {
    const BATCH: i64 = 1000;
    let mut gone = 0;
    for sql in OLD_ROWS {
        loop {
            let rows = sqlx::query(sql).bind(BATCH).execute(pool).await?.rows_affected();
            gone += rows;
            if rows < BATCH.unsigned_abs() {
                break;
            }
        }
    }
    Ok(gone)
}

/// Looks after history every hour, until `over`.
pub(crate) async fn keep(pool: PgPool, retention: Retention, over: CancellationToken) {
    loop {
        match drop_old_rows(&pool).await {
            Ok(0) => {}
            Ok(rows) => tracing::info!(rows, "deleted old fires, marks and expired keys"),
            Err(error) => tracing::warn!(%error, "could not delete old rows"),
        }
        // What was not to be had is tried for again: most transactions are short.
        for last in [false, false, false, false, true] {
            if !look_after_weeks(&pool, &retention, last).await {
                break;
            }
            tokio::select! {
                () = over.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(2)) => {}
            }
        }
        tokio::select! {
            () = over.cancelled() => return,
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
    }
}

/// Once; says whether to try again soon: a week was busy, or the database said no.
async fn look_after_weeks(pool: &PgPool, retention: &Retention, last: bool) -> bool {
    let weeks = match drop_old(pool, retention).await {
        Ok(weeks) => weeks,
        Err(error) => {
            tracing::warn!(%error, "could not let go of old weeks");
            return true;
        }
    };
    let mut busy = false;
    for Week { week, outcome, reason } in weeks {
        match outcome.as_str() {
            "busy" => {
                busy = true;
                if last {
                    tracing::warn!(week, reason, "an old week could not be let go; tried again in an hour");
                }
            }
            "kept" => tracing::info!(week, reason, "an old week stays: it holds unfinished jobs"),
            _ => tracing::info!(week, outcome, "an old week of history has gone"),
        }
    }
    busy
}
