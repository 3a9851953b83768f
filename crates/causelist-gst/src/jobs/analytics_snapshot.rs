//! The day's figures of each practice, kept for trends, with what is unusual about them.
//!
//! Reads tasks, hearings, cases, documents and the snapshots of the seven days before; writes
//! `analytics_snapshots` for the tenant's local date: `daily_snapshot` (one object) and a row per
//! metric (`{"value": n}`). A run for an instant that is recorded already writes nothing, whatever has
//! changed since; one for a later instant of the same day replaces what has changed.

use std::time::Duration;

use causelist_core::{DefaultSchedule, JobError, KindSpec, RunArgs};
use causelist_queue::{JobCx, PlannedJob};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;

use super::run::{read, write};

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
        let sql = format!("with {SCOPE}, {SOURCE} select result from found");
        read(cx, db, &sql, &[]).await
    }

    async fn apply(&self, cx: &JobCx, db: &mut PgConnection) -> Result<Value, JobError> {
        let sql = format!("with {SCOPE}, {SOURCE}, {WRITE} select result from found");
        write(cx, db, Self::spec().kind, &sql, &[]).await
    }
}
