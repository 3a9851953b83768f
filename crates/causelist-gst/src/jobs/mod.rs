//! The five scheduled jobs, a file each.

mod analytics_snapshot;
mod automation_health_check;
mod check_sla_and_overdue;
mod check_upcoming_deadlines;
mod effects;
mod run;
mod send_hearing_reminders;

pub use analytics_snapshot::AnalyticsSnapshot;
pub use automation_health_check::AutomationHealthCheck;
pub use check_sla_and_overdue::CheckSlaAndOverdue;
pub use check_upcoming_deadlines::CheckUpcomingDeadlines;
pub use send_hearing_reminders::SendHearingReminders;
