//! The ledger and the channels against a real PostgreSQL and real SMTP conversations.
#![expect(clippy::expect_used, reason = "a test that meets an error has failed")]

mod channels;
mod crashes;
mod faults;
mod fixture;
mod outcomes;
mod privacy;
mod volume;
