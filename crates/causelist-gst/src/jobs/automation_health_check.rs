//! Whether each practice's automation rules do their work, and who must hear of it if not.
//!
//! Reads `automation_logs` of the last 24 hours and `automation_rules`; writes the snapshot
//! `automation_health` for the tenant's local date, once per instant, and tells the admins: CRITICAL for a rule that
//! succeeds in less than 80 % of its executions, WARNING for one that is switched on and was not
//! triggered for 48 hours, INFO for less than 95 % overall. Each at most once a day.

use std::time::Duration;

use causelist_core::{DefaultSchedule, JobError, KindSpec, RunArgs};
use causelist_queue::{JobCx, PlannedJob};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;

use super::run::{read, write};

const SCOPE: &str = include_str!("sql/scope.sql");
const PEOPLE: &str = include_str!("sql/people.sql");
const SOURCE: &str = include_str!("sql/health.source.sql");
const LETTER: &str = include_str!("sql/letter.sql");
const TELL: &str = include_str!("sql/tell.sql");
const WRITE: &str = include_str!("sql/snapshot.write.sql");
const RESULT: &str = include_str!("sql/health.result.sql");

/// The job's arguments.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AutomationHealthCheck(pub RunArgs);

impl PlannedJob for AutomationHealthCheck {
    /// What the report will be, with the first messages.
    type Plan = Value;
    /// `totalRules`, `successRate` (per cent; null when nothing was executed), `degradedRules` (more
    /// than a fifth of their executions failed), `inactiveRules`, `notificationsSent`,
    /// `failedNotifications` with reasons in `notTold`, and the same per tenant with names.
    type Report = Value;

    fn spec() -> KindSpec {
        KindSpec {
            queue: "practice",
            timeout: Duration::from_secs(60),
            expected: Duration::from_secs(5),
            schedule: Some(DefaultSchedule {
                per_tenant: true,
                cron: "0 7 * * *",
                misfire_window: Duration::from_secs(12 * 3600),
                stale_after: Duration::from_secs(36 * 3600),
            }),
            ..KindSpec::new(
                "automation-health-check",
                "Automation Health Check",
                "Checks that automation rules succeed and are still in use, and alerts the admins.",
            )
        }
    }

    fn run_args(&self) -> &RunArgs {
        &self.0
    }

    async fn plan(&self, cx: &JobCx, db: &mut PgConnection) -> Result<Value, JobError> {
        let sql = format!(
            "with {SCOPE}, {PEOPLE}, {SOURCE}, {LETTER}, told as (select * from letter)
             {RESULT}
             'first', (select coalesce(jsonb_agg(x.line), '[]') from (
                 select jsonb_build_object('tenant', l.tenant, 'who', l.data ->> 'recipientName', 'channel', l.channel,
                                           'subject', l.data ->> 'title') as line
                 from letter l order by l.tenant, l.data ->> 'title', l.recipient, l.channel limit 20) x))"
        );
        read(cx, db, &sql, &[]).await
    }

    async fn apply(&self, cx: &JobCx, db: &mut PgConnection) -> Result<Value, JobError> {
        let sql = format!(
            "with {SCOPE}, {PEOPLE}, {SOURCE}, {LETTER}, {TELL}, {WRITE}, told as (select * from reserved)
             {RESULT}
             'mail', (select coalesce(jsonb_agg(to_jsonb(m)), '[]') from mail m))"
        );
        write(cx, db, Self::spec().kind, &sql, &[]).await
    }
}
