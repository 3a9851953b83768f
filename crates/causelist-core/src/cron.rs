//! Cron expressions and the instants they mean in a time zone.
//!
//! The expression is matched against wall-clock time by `croner`; which instant a wall-clock time
//! is, on the days when clocks change, is decided here:
//!
//! * An expression that names its hours (`0 8 * * *`) fires once for each time it names: a time that
//!   the clocks jump over fires at the jump, a time that comes twice fires the first time.
//! * An expression for every hour (`*/15 * * * *`, hours `*` or `*/n`) means a period: it fires
//!   whenever the wall clock matches, in a repeated hour too, and nothing is made up for a skipped one.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Duration, LocalResult, NaiveDateTime, Offset, TimeZone, Utc};
use chrono_tz::Tz;
use thiserror::Error;

/// A parsed cron expression: five fields, six with seconds first, or a nickname (`@daily`).
#[derive(Debug, Clone)]
pub struct Cron {
    text: String,
    pattern: croner::Cron,
    /// Names no hours: matches a period rather than times of the day.
    periodic: bool,
}

/// Why an expression or a zone was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CronError {
    /// Not a cron expression.
    #[error("cron {text:?}: {problem}; an example: \"0 8 * * 1-6\" (8:00 from Monday to Saturday)")]
    Syntax {
        /// The expression.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It matches no date at all.
    #[error("cron {text:?} never fires: there is no such date")]
    Never {
        /// The expression.
        text: String,
    },
    /// Not an IANA zone.
    #[error("zone {zone:?} is not known{}", hint.as_ref().map(|h| format!("; did you mean {h:?}?")).unwrap_or_else(|| "; use an IANA name such as \"Asia/Kolkata\"".into()))]
    Zone {
        /// The name.
        zone: String,
        /// A known name that is much like it.
        hint: Option<String>,
    },
}

/// Reads an IANA zone name.
///
/// # Errors
/// When there is no such zone; the error names one that is much like it.
pub fn parse_zone(name: &str) -> Result<Tz, CronError> {
    name.parse().map_err(|_| {
        let plain = |s: &str| s.to_ascii_lowercase().replace([' ', '-'], "_");
        let wanted = plain(name);
        let city = |s: &str| s.rsplit('/').next().map(str::to_owned).unwrap_or_default();
        let hint = chrono_tz::TZ_VARIANTS
            .iter()
            .map(|tz| tz.name())
            .find(|known| plain(known) == wanted || city(&plain(known)) == city(&wanted));
        CronError::Zone {
            zone: name.chars().take(64).collect(),
            hint: hint.map(str::to_owned),
        }
    })
}

impl FromStr for Cron {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        let text = text.trim();
        let shown: String = text.chars().take(100).collect();
        if text.len() > 200 {
            return Err(CronError::Syntax {
                text: shown,
                problem: "is longer than 200 characters".into(),
            });
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let hours = match (fields.as_slice(), text.starts_with('@')) {
            ([name], true) => {
                if name.eq_ignore_ascii_case("@hourly") {
                    "*"
                } else {
                    "0"
                }
            }
            ([_, hours, _, _, _], false) | ([_, _, hours, _, _, _], false) => hours,
            (other, _) => {
                return Err(CronError::Syntax {
                    text: shown,
                    problem: format!(
                        "has {} fields instead of five (or six, with seconds first)",
                        other.len()
                    ),
                });
            }
        };
        let periodic = hours.starts_with('*');
        let pattern = croner::Cron::from_str(text).map_err(|e| CronError::Syntax {
            text: shown.clone(),
            problem: e.to_string(),
        })?;
        let cron = Self {
            text: text.to_owned(),
            pattern,
            periodic,
        };
        // From a fixed date, so that the answer never depends on the day; 28 years hold every
        // combination of weekday and leap day.
        let base = DateTime::UNIX_EPOCH.naive_utc() + Duration::days(366 * 50);
        if cron
            .next_wall(base)
            .is_none_or(|next| next > base + Duration::days(366 * 40))
        {
            return Err(CronError::Never { text: shown });
        }
        Ok(cron)
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Cron {
    /// The schedule in words.
    #[must_use]
    pub fn describe(&self) -> String {
        self.pattern.describe()
    }

    /// The first instant after the given one.
    #[must_use]
    pub fn next_after(&self, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let offset_at = |t: DateTime<Utc>| {
            Duration::seconds(i64::from(
                zone.offset_from_utc_datetime(&t.naive_utc()).fix().local_minus_utc(),
            ))
        };
        // Walks from one stretch of constant offset to the next: within one, wall clock and instant
        // differ by a constant.
        let mut from = after;
        let mut offset = offset_at(after);
        loop {
            let mut candidate = (self.next_wall((from + offset).naive_utc())? - offset).and_utc();
            while !self.periodic && is_repeat(zone, candidate, offset) {
                candidate = (self.next_wall((candidate + offset).naive_utc())? - offset).and_utc();
            }
            let Some(change) = first_change(from, candidate, offset, &offset_at) else {
                return Some(candidate);
            };
            let new = offset_at(change);
            if !self.periodic && new > offset {
                // Wall-clock times from `change + offset` up to `change + new` do not exist.
                let gap_start = (change + offset).naive_utc();
                let skipped = self.next_wall(gap_start - Duration::seconds(1))?;
                if skipped < (change + new).naive_utc() && change > after {
                    return Some(change);
                }
            }
            // The change itself may match.
            from = change - Duration::seconds(1);
            if from < after {
                from = after;
            }
            offset = new;
        }
    }

    /// The instants after `after` and up to `until`, at most `limit` of them.
    pub fn between(
        &self,
        zone: Tz,
        after: DateTime<Utc>,
        until: DateTime<Utc>,
        limit: usize,
    ) -> impl Iterator<Item = DateTime<Utc>> + '_ {
        std::iter::successors(self.next_after(zone, after), move |last| self.next_after(zone, *last))
            .take_while(move |t| *t <= until)
            .take(limit)
    }

    fn next_wall(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        self.pattern.find_next_occurrence(&after, false).ok()
    }
}

/// Whether the instant is the second coming of its wall-clock time.
fn is_repeat(zone: Tz, at: DateTime<Utc>, offset: Duration) -> bool {
    match zone.from_local_datetime(&(at + offset).naive_utc()) {
        LocalResult::Ambiguous(first, second) => {
            let late = first.with_timezone(&Utc).max(second.with_timezone(&Utc));
            late == at
        }
        _ => false,
    }
}

/// The first instant in (from, to] at which another offset begins to hold.
fn first_change(
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    offset: Duration,
    offset_at: &impl Fn(DateTime<Utc>) -> Duration,
) -> Option<DateTime<Utc>> {
    // No zone changes its offset and back within a day.
    let mut same = from;
    loop {
        let step = (same + Duration::days(1)).min(to);
        if offset_at(step) != offset {
            let (mut low, mut high) = (same, step);
            while high - low > Duration::seconds(1) {
                let middle = low + Duration::seconds((high - low).num_seconds() / 2);
                if offset_at(middle) == offset {
                    low = middle
                } else {
                    high = middle
                }
            }
            // Offsets change on whole seconds.
            return Some(high - Duration::nanoseconds(i64::from(high.timestamp_subsec_nanos())));
        }
        if step >= to {
            return None;
        }
        same = step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().expect("a timestamp")
    }

    fn fires(cron: &str, zone: Tz, after: &str, until: &str) -> Vec<String> {
        let cron: Cron = cron.parse().expect("a cron expression");
        cron.between(zone, utc(after), utc(until), 100)
            .map(|t| t.format("%d %H:%M").to_string())
            .collect()
    }

    #[test]
    fn daily_in_kolkata_is_half_past_two_utc() {
        let got = fires(
            "0 8 * * *",
            Tz::Asia__Kolkata,
            "2026-11-23T00:00:00Z",
            "2026-11-25T00:00:00Z",
        );
        assert_eq!(got, ["23 02:30", "24 02:30"]);
    }

    #[test]
    fn a_time_that_is_jumped_over_fires_at_the_jump() {
        // London, 29 March 2026: 01:00 GMT becomes 02:00 BST.
        let got = fires(
            "30 1 * * *",
            Tz::Europe__London,
            "2026-03-28T00:00:00Z",
            "2026-03-31T00:00:00Z",
        );
        assert_eq!(got, ["28 01:30", "29 01:00", "30 00:30"]);
    }

    #[test]
    fn a_time_that_comes_twice_fires_once_at_the_first() {
        // London, 25 October 2026: 02:00 BST becomes 01:00 GMT.
        let got = fires(
            "30 1 * * *",
            Tz::Europe__London,
            "2026-10-24T12:00:00Z",
            "2026-10-26T12:00:00Z",
        );
        assert_eq!(got, ["25 00:30", "26 01:30"]);
        // Also when asked from between the two.
        let got = fires(
            "30 1 * * *",
            Tz::Europe__London,
            "2026-10-25T00:45:00Z",
            "2026-10-25T12:00:00Z",
        );
        assert!(got.is_empty());
    }

    #[test]
    fn a_period_goes_on_through_both_changes() {
        let spring = fires(
            "*/30 * * * *",
            Tz::Europe__London,
            "2026-03-29T00:00:00Z",
            "2026-03-29T02:00:00Z",
        );
        assert_eq!(spring, ["29 00:30", "29 01:00", "29 01:30", "29 02:00"]);
        let autumn = fires(
            "*/30 * * * *",
            Tz::Europe__London,
            "2026-10-24T23:30:00Z",
            "2026-10-25T02:00:00Z",
        );
        assert_eq!(autumn, ["25 00:00", "25 00:30", "25 01:00", "25 01:30", "25 02:00"]);
    }

    #[test]
    fn midnight_gaps_and_skipped_days() {
        // Beirut's clocks jump at midnight; Samoa left out 30 December 2011.
        let got = fires(
            "0 0 * * *",
            Tz::Asia__Beirut,
            "2026-03-28T00:00:00Z",
            "2026-03-30T00:00:00Z",
        );
        assert_eq!(got, ["28 22:00", "29 21:00"]);
        let got = fires(
            "0 12 * * *",
            Tz::Pacific__Apia,
            "2011-12-29T00:00:00Z",
            "2012-01-01T00:00:00Z",
        );
        assert_eq!(got, ["29 22:00", "30 10:00", "30 22:00", "31 22:00"]);
    }

    #[test]
    fn refuses_with_the_value_and_a_hint() {
        let refuse = |text: &str| text.parse::<Cron>().expect_err("must be refused").to_string();
        assert!(refuse("61 * * * *").contains("61 * * * *"));
        assert!(refuse("* * * *").contains("has 4 fields"));
        assert!(refuse("").contains("0 fields"));
        assert!(refuse("0 0 31 2 *").contains("never fires"));
        assert!(refuse(&"*".repeat(300)).contains("longer than 200"));
        let zone = |name: &str| parse_zone(name).expect_err("must be refused").to_string();
        assert!(zone("asia/kolkata").contains("\"Asia/Kolkata\""));
        assert!(zone("India/Kolkata").contains("\"Asia/Kolkata\""));
        assert!(zone("Mars/Olympus").contains("IANA"));
    }

    #[test]
    fn leap_days_are_found() {
        let cron: Cron = "0 0 29 2 *".parse().expect("fine");
        assert_eq!(
            cron.next_after(Tz::UTC, utc("2096-03-01T00:00:00Z")),
            Some(utc("2104-02-29T00:00:00Z"))
        );
    }
}
