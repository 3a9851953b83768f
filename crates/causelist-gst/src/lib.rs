//! The GST litigation practice: the host application's tables, the five scheduled jobs over them,
//! a demo practice, and the checks of a host. SQL over the host's tables is in this crate alone.

pub mod demo;
pub mod doctor;
mod host;
mod jobs;
mod tenants;

pub use doctor::{Finding, Severity, check_host};
pub use host::{Host, HostError};
pub use jobs::{
    AnalyticsSnapshot, AutomationHealthCheck, CheckSlaAndOverdue, CheckUpcomingDeadlines, SendHearingReminders,
};
pub use tenants::Found;
