//! Tells members what falls due: one message a day, the urgent first.
//!
//! Reads open tasks and scheduled hearings due within 24 hours, and statutory deadlines due in 7, 3,
//! 1 and 0 days of the tenant's zone. Writes one `deadline_approaching` event per entity and
//! deadline, and one digest per member, local day and channel: a later run of the same day adds
//! nothing to a digest, so the items that it finds in addition are in the next day's.

use std::time::Duration;

use causelist_core::{DefaultSchedule, JobError, KindSpec, RunArgs};
use causelist_queue::{JobCx, PlannedJob};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;

use super::run::{read, write};

const SCOPE: &str = include_str!("sql/scope.sql");
const PEOPLE: &str = include_str!("sql/people.sql");
const SOURCE: &str = include_str!("sql/deadlines.source.sql");
const LETTER: &str = include_str!("sql/letter.sql");
const TELL: &str = include_str!("sql/tell.sql");
const EVENT: &str = include_str!("sql/deadlines.event.sql");
const RESULT: &str = include_str!("sql/deadlines.result.sql");
const FIRST: &str = include_str!("sql/deadlines.first.sql");

/// The counts of the report, each summed over the tenants.
const COUNTS: [&str; 5] = [
    "upcomingTasks",
    "upcomingHearings",
    "upcomingStatutoryDeadlines",
    "notificationsSent",
    "failedNotifications",
];

/// The job's arguments.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CheckUpcomingDeadlines(pub RunArgs);

impl PlannedJob for CheckUpcomingDeadlines {
    /// What the report will be, with the first items and who would read of each.
    type Plan = Value;
    /// `upcomingTasks`, `upcomingHearings`, `upcomingStatutoryDeadlines` (found due, told or not),
    /// `notificationsSent` (messages new in the ledger),
    /// `failedNotifications` (people who can't be told, and items that are nobody's, with reasons in
    /// `notTold`); the same per tenant in `tenants`.
    type Report = Value;

    fn spec() -> KindSpec {
        KindSpec {
            queue: "practice",
            timeout: Duration::from_secs(60),
            expected: Duration::from_secs(8),
            schedule: Some(DefaultSchedule {
                per_tenant: true,
                cron: "0 9 * * *",
                misfire_window: Duration::from_secs(6 * 3600),
                stale_after: Duration::from_secs(36 * 3600),
            }),
            ..KindSpec::new(
                "check-upcoming-deadlines",
                "Deadline Alerts",
                "Tells members once a day what falls due within 24 hours, and which statutory deadlines are near.",
            )
        }
    }

    fn run_args(&self) -> &RunArgs {
        &self.0
    }

    async fn plan(&self, cx: &JobCx, db: &mut PgConnection) -> Result<Value, JobError> {
        let sql = format!(
            "with {SCOPE}, {PEOPLE}, {SOURCE}, {LETTER}, told as (select * from letter)
             {RESULT} {FIRST}"
        );
        read(cx, db, &sql, &COUNTS).await
    }

    async fn apply(&self, cx: &JobCx, db: &mut PgConnection) -> Result<Value, JobError> {
        let sql = format!(
            "with {SCOPE}, {PEOPLE}, {SOURCE}, {LETTER}, {TELL}, told as (select * from reserved), {EVENT}
             {RESULT} 'mail', (select jsonb_agg(to_jsonb(m)) from mail m))"
        );
        write(cx, db, Self::spec().kind, &sql, &COUNTS).await
    }
}
