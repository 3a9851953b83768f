//! Reminds owner, advocate and client of the hearings of today and tomorrow that have not begun.
//!
//! Reads scheduled hearings dated in each tenant's own zone, their cases, courts and clients, and
//! the members' preferences. Writes ledger rows (one per hearing, hearing date, T-n, recipient and
//! channel, ever; a hearing moved to another date is reminded of anew) and in-app notifications.
//! A member's `reminder_days` widen or narrow the days; quiet hours hold mail back until they end.

use std::time::Duration;

use causelist_core::{DefaultSchedule, JobError, KindSpec, RunArgs};
use causelist_queue::{JobCx, PlannedJob};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;

use super::run::{read, write};

const SCOPE: &str = include_str!("sql/scope.sql");
const PEOPLE: &str = include_str!("sql/people.sql");
const SOURCE: &str = include_str!("sql/hearings.source.sql");
const LETTER: &str = include_str!("sql/letter.sql");
const TELL: &str = include_str!("sql/tell.sql");
const RESULT: &str = include_str!("sql/hearings.result.sql");
const FIRST: &str = include_str!("sql/hearings.first.sql");

/// The counts of the report, each summed over the tenants.
const COUNTS: [&str; 3] = ["hearingsProcessed", "notificationsSent", "failedNotifications"];

/// The job's arguments.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SendHearingReminders(pub RunArgs);

impl PlannedJob for SendHearingReminders {
    /// What the report will be, with the first hearings and who would hear of each.
    type Plan = Value;
    /// `hearingsProcessed` (dated today and tomorrow, begun or not),
    /// `notificationsSent` (messages new in the ledger, one per recipient and channel),
    /// `failedNotifications` (recipients who can't be told, with reasons in `notTold`); the same
    /// per tenant in `tenants`. A second run processes the same hearings and sends nothing.
    type Report = Value;

    fn spec() -> KindSpec {
        KindSpec {
            queue: "practice",
            timeout: Duration::from_secs(60),
            expected: Duration::from_secs(15),
            schedule: Some(DefaultSchedule {
                per_tenant: true,
                cron: "0 8 * * *",
                // Later than that, today's first hearings have begun.
                misfire_window: Duration::from_secs(4 * 3600),
                stale_after: Duration::from_secs(36 * 3600),
            }),
            ..KindSpec::new(
                "send-hearing-reminders",
                "Hearing Reminders",
                "Reminds owner, advocate and client of the hearings of today and tomorrow.",
            )
        }
    }

    fn run_args(&self) -> &RunArgs {
        &self.0
    }

    async fn plan(&self, cx: &JobCx, db: &mut PgConnection) -> Result<Value, JobError> {
        let sql =
            format!("with {SCOPE}, {PEOPLE}, {SOURCE}, {LETTER}, told as (select * from letter) {RESULT} {FIRST}");
        read(cx, db, &sql, &COUNTS).await
    }

    async fn apply(&self, cx: &JobCx, db: &mut PgConnection) -> Result<Value, JobError> {
        let sql = format!(
            "with {SCOPE}, {PEOPLE}, {SOURCE}, {LETTER}, {TELL}, told as (select * from reserved)
             {RESULT} 'mail', (select jsonb_agg(to_jsonb(m)) from mail m))"
        );
        write(cx, db, Self::spec().kind, &sql, &COUNTS).await
    }
}
