//! What every part of a firm is made with: its dice, its clock, its calendar.

use chrono::{DateTime, Days, Duration, LocalResult, NaiveDate, NaiveTime, TimeZone, Utc};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use super::firm::DemoTenant;

/// One firm being made.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) firm: DemoTenant,
    pub(super) now: DateTime<Utc>,
    /// The firm's local date.
    pub(super) today: NaiveDate,
    rng: StdRng,
}

impl Scene {
    pub(super) fn new(firm: DemoTenant, now: DateTime<Utc>, seed: u64) -> Self {
        // Each firm has dice of its own: a change to one leaves the others as they were.
        let rng = StdRng::seed_from_u64(seed ^ firm.id.as_u64_pair().1.rotate_left(17));
        Self {
            firm,
            now,
            today: now.with_timezone(&firm.zone).date_naive(),
            rng,
        }
    }

    /// A fresh id.
    pub(super) fn id(&mut self) -> Uuid {
        uuid::Builder::from_random_bytes(self.rng.random()).into_uuid()
    }

    /// A whole number in `from..to`.
    pub(super) fn number(&mut self, from: i64, to: i64) -> i64 {
        self.rng.random_range(from..to)
    }

    /// True in `percent` of a hundred throws.
    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }

    /// One of them.
    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.rng.random_range(0..from.len())]
    }

    /// One of them, each as often as its weight says.
    pub(super) fn weighted<T: Copy>(&mut self, from: &[(T, u32)]) -> T {
        let mut throw = self.rng.random_range(0..from.iter().map(|(_, weight)| weight).sum());
        let mut chosen = from[0].0;
        for (value, weight) in from {
            chosen = *value;
            if throw < *weight {
                break;
            }
            throw -= weight;
        }
        chosen
    }

    /// `count` of `from`, none twice, in any order.
    pub(super) fn draw<T: Copy>(&mut self, from: &[T], count: usize) -> Vec<T> {
        let mut left = from.to_vec();
        (0..count.min(left.len()))
            .map(|_| left.swap_remove(self.rng.random_range(0..left.len())))
            .collect()
    }

    /// An instant between `from` and `to` minutes from now (negative: ago).
    pub(super) fn minutes(&mut self, from: i64, to: i64) -> DateTime<Utc> {
        self.now + Duration::minutes(self.number(from, to))
    }

    /// The firm's local date so many days from today.
    pub(super) fn day(&self, days: i64) -> NaiveDate {
        let distance = Days::new(days.unsigned_abs());
        if days < 0 {
            self.today - distance
        } else {
            self.today + distance
        }
    }

    /// A time of the firm's day, so many days from today. Where clocks skip it, an hour later.
    pub(super) fn at(&self, days: i64, hour: u32, minute: u32) -> DateTime<Utc> {
        let time = NaiveTime::from_hms_opt(hour, minute, 0).unwrap_or_default();
        let local = self.day(days).and_time(time);
        match self.firm.zone.from_local_datetime(&local) {
            LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => at.to_utc(),
            LocalResult::None => (local + Duration::hours(1))
                .and_local_timezone(self.firm.zone)
                .earliest()
                .map_or(self.now, |at| at.to_utc()),
        }
    }
}
