//! Where a worker's next claim from a queue begins. What was claimed leaves dead entries at the front of
//! `ready` until vacuum may remove them, which a long reader prevents; a claim from the start walks over
//! all of them. So it begins where the last one came to, and only now and then at the start.

use std::time::{Duration, Instant};

use crate::claim::{Claimed, Start};

/// Jobs may become visible this much later than their place in the order says, in µs: it is decided
/// before the enqueuing transaction commits. Who takes longer is found by the next sweep.
const LAG: i64 = 200_000;
/// A sweep may take this share of the time.
const SHARE: u32 = 20;
/// The longest that a job may wait for a sweep, while a sweep takes less than 50 ms: what commits late,
/// comes back at its old place, or has a higher priority than what is claimed now. Slower sweeps take half
/// of the time at most.
const LONGEST: Duration = Duration::from_secs(1);

/// One for each queue that a worker takes from.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    /// What the last claim came to.
    at: Option<Start>,
    /// When the next sweep is due.
    due: Option<Instant>,
}

impl Cursor {
    /// Where to begin now.
    pub(crate) fn start(&self, now: Instant) -> Start {
        match (self.at, self.due) {
            (Some(at), Some(due)) if now < due => at,
            _ => Start::FIRST,
        }
    }

    /// A claim of `jobs` that began at `start` has ended.
    pub(crate) fn claimed(&mut self, start: Start, jobs: &[Claimed], began: Instant, now: Instant) {
        if start == Start::FIRST {
            let took = now - began;
            self.due = Some(now + (took * SHARE).min(LONGEST).max(took));
        }
        if let Some(last) = jobs.last() {
            self.at = Some(Start {
                priority: last.priority,
                rank: last.rank.saturating_sub(LAG),
            });
        }
    }

    /// A claim that began at `start` has failed. If it was a sweep, it may have been too slow: the place
    /// that the last claim came to is tried before the next one.
    pub(crate) fn failed(&mut self, start: Start, now: Instant) {
        if start == Start::FIRST {
            self.due = Some(now + LONGEST);
        }
    }

    /// When to look again, after a claim that began at `start` and found all that was there: none,
    /// if it began at the first.
    pub(crate) fn sweep_at(&self, start: Start) -> Option<Instant> {
        (start != Start::FIRST).then_some(self.due).flatten()
    }
}
