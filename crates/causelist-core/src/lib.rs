//! What every other crate of Causelist agrees on: job outcomes and errors, retry policy, the
//! description of a kind, cron and time-zone maths, ids and the clock. No I/O.

mod clock;
pub mod cron;
mod error;
mod retry;
mod spec;

pub use clock::{Clock, SystemClock};
pub use error::JobError;
pub use retry::RetryPolicy;
pub use spec::{DefaultSchedule, KindSpec, RunArgs};

/// A job's id: opaque, ordered by the time of enqueue, at most 2^53.
pub type JobId = i64;

/// A tenant's id, as the host application knows it.
pub type TenantId = uuid::Uuid;
