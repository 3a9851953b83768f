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
