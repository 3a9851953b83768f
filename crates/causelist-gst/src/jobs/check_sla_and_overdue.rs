//! Marks tasks overdue, notices SLA targets that are near or missed, and escalates.
//!
//! Reads tasks, cases, escalation rules and the people of each practice. Writes `tasks.status`, one
//! event per (task, due date) and per (task, target, level), `escalation_events`, and messages to
//! those escalated to. One statement for all tenants: no task ever passes through this process.

use std::time::Duration;

use causelist_core::{DefaultSchedule, JobError, KindSpec, RunArgs};
use causelist_queue::{JobCx, PlannedJob};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;

use super::run::{read, write};

const SCOPE: &str = include_str!("sql/scope.sql");
const PEOPLE: &str = include_str!("sql/people.sql");
const SOURCE: &str = include_str!("sql/check_sla.source.sql");
const LETTER: &str = include_str!("sql/letter.sql");
const TELL: &str = include_str!("sql/tell.sql");
const PLAN: &str = include_str!("sql/check_sla.plan.sql");
const APPLY: &str = include_str!("sql/check_sla.apply.sql");

/// The counts of the report, each summed over the tenants.
const COUNTS: [&str; 7] = [
    "overdueTasks",
    "slaViolations",
    "rulesTriggered",
    "warnings",
    "criticals",
    "notificationsSent",
    "failedNotifications",
];

/// The job's arguments.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CheckSlaAndOverdue(pub RunArgs);

impl PlannedJob for CheckSlaAndOverdue {
    /// What the report will be, with the first tasks: what would become of each, who would be told.
    type Plan = Value;
    /// `overdueTasks` (newly marked), `slaViolations`, `warnings`, `criticals` (newly noticed),
    /// `rulesTriggered` (escalations opened), `notificationsSent` (messages new in the ledger),
    /// `failedNotifications` (people who can't be told, with reasons in `notTold`); the same per
    /// tenant in `tenants`.
    type Report = Value;

    fn spec() -> KindSpec {
        KindSpec {
            queue: "practice",
            timeout: Duration::from_secs(300),
            expected: Duration::from_secs(5),
            schedule: Some(DefaultSchedule {
                per_tenant: true,
                cron: "*/15 * * * *",
                misfire_window: Duration::from_secs(3600),
                stale_after: Duration::from_secs(1800),
            }),
            ..KindSpec::new(
                "check-sla-and-overdue",
                "SLA & Overdue Check",
                "Marks overdue tasks, notices SLA targets that are near or missed, and escalates.",
            )
        }
    }

    fn run_args(&self) -> &RunArgs {
        &self.0
    }

    async fn plan(&self, cx: &JobCx, db: &mut PgConnection) -> Result<Value, JobError> {
        read(
            cx,
            db,
            &format!("with {SCOPE}, {PEOPLE}, {SOURCE}, {LETTER}, {PLAN}"),
            &COUNTS,
        )
        .await
    }

    async fn apply(&self, cx: &JobCx, db: &mut PgConnection) -> Result<Value, JobError> {
        let sql = format!("with {SCOPE}, {PEOPLE}, {SOURCE}, {LETTER}, {TELL}, {APPLY}");
        write(cx, db, Self::spec().kind, &sql, &COUNTS).await
    }
}
