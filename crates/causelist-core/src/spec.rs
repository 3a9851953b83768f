use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::RetryPolicy;

/// What is fixed about a kind of job. Everything that lists kinds (CLI, API, metrics, schedules)
/// reads it from here.
#[derive(Debug, Clone)]
pub struct KindSpec {
    /// The kind's name; stable for ever, since rows carry it.
    pub kind: &'static str,
    /// What people call it.
    pub display_name: &'static str,
    /// One sentence on what it does.
    pub description: &'static str,
    /// The queue its jobs wait in.
    pub queue: &'static str,
    /// Lower runs first.
    pub priority: i16,
    /// A run that takes longer is stopped and counts as failed.
    pub timeout: Duration,
    /// When and how often a failed run is repeated.
    pub retry: RetryPolicy,
    /// How long a run is expected to take, at most.
    pub expected: Duration,
    /// The schedule that is made for the kind; none for jobs that only others enqueue.
    pub schedule: Option<DefaultSchedule>,
}

/// A kind's default schedule.
#[derive(Debug, Clone, Copy)]
pub struct DefaultSchedule {
    /// Whether each tenant gets one, in its own zone; else one for the whole fleet, in UTC.
    pub per_tenant: bool,
    /// Five-field cron.
    pub cron: &'static str,
    /// How late an instant may still fire when schedulers were away.
    pub misfire_window: Duration,
    /// No success for this long means that something is wrong.
    pub stale_after: Duration,
}

impl KindSpec {
    /// A kind with the usual values: queue `default`, priority 0, a minute's time limit, the
    /// default retry policy, no schedule.
    #[must_use]
    pub const fn new(kind: &'static str, display_name: &'static str, description: &'static str) -> Self {
        Self {
            kind,
            display_name,
            description,
            queue: "default",
            priority: 0,
            timeout: Duration::from_secs(60),
            retry: RetryPolicy::DEFAULT,
            expected: Duration::from_secs(5),
            schedule: None,
        }
    }
}

/// The arguments that every planned job takes. The tenant is not among them: it is the job's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunArgs {
    /// The instant the run pretends to happen at. Absent: the moment the job was enqueued, so that
    /// a retry sees the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executed_at: Option<DateTime<Utc>>,
    /// Plan only: say what would happen, change nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl RunArgs {
    /// How far ahead of now a real run may pretend to be. What it did could not be undone: a task
    /// marked overdue as of next year stays so.
    pub const AHEAD: chrono::Duration = chrono::Duration::days(7);

    /// Refuses an instant that must be a mistake, naming it. For the edges: what is stored is run.
    ///
    /// # Errors
    /// What is wrong with it and what to do.
    pub fn check(&self, now: DateTime<Utc>) -> Result<(), String> {
        let Some(at) = self.executed_at else { return Ok(()) };
        if !(946_684_800..4_102_444_800).contains(&at.timestamp()) {
            return Err(format!("executedAt {at:?}: must lie between 2000 and 2100"));
        }
        if !self.dry_run && at > now + Self::AHEAD {
            return Err(format!(
                "executedAt {at:?}: a run can be at most 7 days ahead, since it can't be undone; preview it with dryRun"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_far_ahead_can_only_be_previewed() {
        let now: DateTime<Utc> = "2026-11-23T10:00:00Z".parse().expect("an instant");
        let run = |text: &str, dry_run| {
            let at = text.parse().expect("an instant");
            RunArgs {
                executed_at: Some(at),
                dry_run,
            }
            .check(now)
        };
        assert!(run("2026-11-24T10:00:00Z", false).is_ok());
        assert!(run("2025-01-15T10:30:00Z", false).is_ok());
        assert!(run("2027-11-24T10:00:00Z", false).is_err_and(|e| e.contains("2027-11-24")));
        assert!(run("2027-11-24T10:00:00Z", true).is_ok());
        assert!(run("9999-01-01T00:00:00Z", true).is_err_and(|e| e.contains("2100")));
        assert!(RunArgs::default().check(now).is_ok());
    }
}
