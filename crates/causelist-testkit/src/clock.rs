use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use causelist_core::Clock;
use chrono::{DateTime, TimeDelta, Utc};

/// A clock that stands still until a test turns it. Clones show the same time.
#[derive(Debug, Clone)]
pub struct TurnedClock(Arc<AtomicI64>);

impl TurnedClock {
    /// A clock that shows this instant (whole microseconds, as PostgreSQL keeps them).
    pub fn at(instant: DateTime<Utc>) -> TurnedClock {
        TurnedClock(Arc::new(AtomicI64::new(instant.timestamp_micros())))
    }

    /// As [`TurnedClock::at`], from text such as `2025-01-15T10:30:00Z`. Panics on other text.
    pub fn at_text(instant: &str) -> TurnedClock {
        match DateTime::parse_from_rfc3339(instant) {
            Ok(instant) => TurnedClock::at(instant.with_timezone(&Utc)),
            Err(e) => panic!("{instant:?} is no instant such as 2025-01-15T10:30:00Z: {e}"),
        }
    }

    /// Turns the clock to an instant, forwards or back.
    pub fn set(&self, instant: DateTime<Utc>) {
        self.0.store(instant.timestamp_micros(), Ordering::SeqCst);
    }

    /// Turns the clock by a span and returns what it shows then.
    pub fn advance(&self, by: TimeDelta) -> DateTime<Utc> {
        let micros = by.num_microseconds().unwrap_or(i64::MAX);
        instant_of(self.0.fetch_add(micros, Ordering::SeqCst).saturating_add(micros))
    }
}

impl Clock for TurnedClock {
    fn now(&self) -> DateTime<Utc> {
        instant_of(self.0.load(Ordering::SeqCst))
    }
}

fn instant_of(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_what_it_was_turned_to() {
        let clock = TurnedClock::at_text("2025-01-15T10:30:00+05:30");
        let other = clock.clone();
        assert_eq!(other.now().to_rfc3339(), "2025-01-15T05:00:00+00:00");
        assert_eq!(clock.advance(TimeDelta::minutes(90)), other.now());
        assert_eq!(other.now().to_rfc3339(), "2025-01-15T06:30:00+00:00");
        clock.set(DateTime::UNIX_EPOCH);
        assert_eq!(other.now(), DateTime::UNIX_EPOCH);
    }
}
