//! The day's figures of each practice, kept for trends, with what is unusual about them.
//!
//! Reads tasks, hearings, cases, documents and the snapshots of the seven days before; writes
//! `analytics_snapshots` for the tenant's local date: `daily_snapshot` (one object) and a row per
//! metric (`{"value": n}`). Values that are there already are not written again.

use std::time::Duration;

use causelist_core::{DefaultSchedule, JobError, KindSpec, RunArgs};
use causelist_queue::{JobCx, PlannedJob, db_error};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};

use super::effects::{audit, per_tenant, with_audit};
use crate::Host;

const SCOPE: &str = include_str!("sql/scope.sql");
const SOURCE: &str = include_str!("sql/analytics.source.sql");
const WRITE: &str = include_str!("sql/snapshot.write.sql");

/// The job's arguments.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AnalyticsSnapshot(pub RunArgs);

impl PlannedJob for AnalyticsSnapshot {
    /// What the report will be.
    type Plan = Value;
    /// `metricsCount` (six per practice), `anomalyDetected`, and per tenant its local date, metrics
    /// and anomalies (`metric`, `value`, `baseline`, `deviation` in per cent; null from nought).
    type Report = Value;

    fn spec() -> KindSpec {
        KindSpec {
            queue: "practice",
            timeout: Duration::from_secs(60),
            expected: Duration::from_secs(30),
            schedule: Some(DefaultSchedule {
                per_tenant: true,
                cron: "59 23 * * *",
                // The day's figures can't be taken much after the day.
                misfire_window: Duration::from_secs(6 * 3600),
                stale_after: Duration::from_secs(36 * 3600),
            }),
            ..KindSpec::new(
                "analytics-snapshot",
                "Analytics Snapshot",
                "Records the day's figures of the practice and points out unusual ones.",
            )
        }
    }

    fn run_args(&self) -> &RunArgs {
        &self.0
    }

    async fn plan(&self, cx: &JobCx, db: &mut PgConnection) -> Result<Value, JobError> {
        let host = cx.state::<Host>()?;
        query(
            &host,
            cx,
            db,
            &format!("with {SCOPE}, {SOURCE} select result from found"),
        )
        .await
    }

    async fn apply(&self, cx: &JobCx, db: &mut PgConnection) -> Result<Value, JobError> {
        let host = cx.state::<Host>()?;
        let report = query(
            &host,
            cx,
            db,
            &format!("with {SCOPE}, {SOURCE}, {WRITE} select result from found"),
        )
        .await?;
        let skipped = audit(&host, cx, db, Self::spec().kind, &per_tenant(&report)).await?;
        Ok(with_audit(report, skipped))
    }
}

async fn query(host: &Host, cx: &JobCx, db: &mut PgConnection, sql: &str) -> Result<Value, JobError> {
    sqlx::query_scalar(AssertSqlSafe(host.sql(sql)))
        .bind(cx.tenant())
        .bind(cx.now())
        .fetch_one(db)
        .await
        .map_err(db_error)
}
