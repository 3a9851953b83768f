//! The five jobs: their numbers against counts by hand, dry runs, repetitions, and the boundaries.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod analytics;
mod by_hand;
mod deadlines;
mod fixture;
mod health;
mod hearings;
mod host;
mod repeat;
mod sla;
