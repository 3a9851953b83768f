//! Schedules: which instants are due, each fired once, whatever the number of schedulers.
//!
//! Every scheduler replica is equal. At each tick it takes due rows of `schedule` with SKIP LOCKED,
//! works out their instants in the schedule's zone, and writes fire rows and jobs in one
//! transaction. The primary key of `schedule_fire` makes an instant fire once even where two
//! replicas worked on the same row.

mod admin;
mod scheduler;
mod tick;

pub use admin::{ScheduleRecord, ensure_defaults, list, pause, preview, resume, show};
pub use scheduler::{Scheduler, TICK};
pub use tick::{Ticked, tick};

use causelist_core::cron::{Cron, CronError, parse_zone};
use chrono_tz::Tz;

/// The zone of a tenant that has none of its own.
pub const DEFAULT_ZONE: &str = "Asia/Kolkata";

/// The cron expression and the zone of a schedule row.
fn parse(cron: &str, zone: &str) -> Result<(Cron, Tz), CronError> {
    Ok((cron.parse()?, parse_zone(zone)?))
}
