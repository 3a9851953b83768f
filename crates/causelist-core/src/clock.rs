use std::fmt::Debug;

use chrono::{DateTime, Utc};

/// Where "now" comes from. Everything that decides by the time of day takes a clock, so that tests
/// can turn it. Leases are not decided here: they live by the database's clock alone.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The current instant.
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}
