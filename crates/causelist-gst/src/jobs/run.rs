//! How a plan's query and its application's are run.

use causelist_core::JobError;
use causelist_queue::{JobCx, db_error};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};

use super::effects::{audit, deliver, per_tenant, take_mail, total, with_audit};
use crate::Host;

/// These queries have many short steps: compiling them takes longer than running them.
const NO_JIT: &str = "set local jit = off";

/// Two applications of a kind that touch the same tenant follow each other, so that the second sees
/// what the first did. One tenant's waits for nobody else's, only for one of the whole fleet.
const LOCK: &str = "
select case when $2::uuid is null
       then pg_advisory_xact_lock(hashtextextended('causelist ' || $1, 0))
       else pg_advisory_xact_lock_shared(hashtextextended('causelist ' || $1, 0)) end,
       case when $2::uuid is not null
       then pg_advisory_xact_lock(hashtextextended('causelist ' || $1 || ' ' || $2, 0)) end";

/// Runs a plan's query: `$1` is the tenant or null, `$2` the instant. The answer has the `tenants`
/// with their counts, and gets the sums.
pub(super) async fn read(cx: &JobCx, db: &mut PgConnection, sql: &str, counts: &[&str]) -> Result<Value, JobError> {
    let host = cx.state::<Host>()?;
    sqlx::query(NO_JIT).execute(&mut *db).await.map_err(db_error)?;
    let plan = sqlx::query_scalar(AssertSqlSafe(host.sql(sql)))
        .persistent(false)
        .bind(cx.tenant())
        .bind(cx.now())
        .fetch_one(db)
        .await
        .map_err(db_error)?;
    Ok(total(plan, counts))
}

/// Runs an application's query (`$3` is the job's id), asks for the delivery of its `mail`, and
/// writes the host's audit rows.
pub(super) async fn write(
    cx: &JobCx,
    db: &mut PgConnection,
    kind: &str,
    sql: &str,
    counts: &[&str],
) -> Result<Value, JobError> {
    let host = cx.state::<Host>()?;
    sqlx::query(NO_JIT).execute(&mut *db).await.map_err(db_error)?;
    sqlx::query(LOCK)
        .bind(kind)
        .bind(cx.tenant())
        .execute(&mut *db)
        .await
        .map_err(db_error)?;
    let report: Value = sqlx::query_scalar(AssertSqlSafe(host.sql(sql)))
        .persistent(false)
        .bind(cx.tenant())
        .bind(cx.now())
        .bind(cx.job_id())
        .fetch_one(&mut *db)
        .await
        .map_err(db_error)?;
    let mut report = total(report, counts);
    deliver(db, &take_mail(&mut report)?).await?;
    let skipped = audit(&host, cx, db, kind, &per_tenant(&report)).await?;
    Ok(with_audit(report, skipped))
}
