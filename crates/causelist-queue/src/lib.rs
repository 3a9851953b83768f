//! The durable queue: everything that touches Causelist's queue tables in PostgreSQL, and the
//! apalis backend and worker over them. It knows nothing of any particular job.
//!
//! A job's state is where its row is. `enqueue` writes `job` and `ready` (or `scheduled`); a worker
//! claims a batch out of `ready` into one `claim` row, whose id is the *fence*; settling removes the
//! job from the claim and appends an `attempt`. Whoever no longer finds the claim row has lost the
//! lease and writes nothing. A job under a limit goes through `waiting` before it is ready. See
//! `migrations/0001_queue.sql` for the tables.

mod admit;
mod backend;
mod batch;
mod bundle;
mod claim;
mod copy;
mod cursor;
mod cx;
mod dead;
mod driver;
mod enqueue;
mod error;
pub mod fair;
mod family;
mod job;
mod jobs;
mod json;
mod lease;
pub mod limits;
mod line;
mod meters;
mod migrate;
mod progress;
mod quarantine;
pub mod queues;
mod ready;
mod registry;
pub mod retention;
mod run;
pub mod schedule;
mod settle;
pub mod stats;
pub mod testing;
mod upkeep;
mod wake;
mod worker;

pub use batch::{Batch, BatchJob, BatchTx};
pub use cx::{FencedTx, JobCx, States};
pub use dead::{
    DEAD_REASONS, DeadCause, DeadFilter, KeyTaken, Retried, count_dead, dead_causes, purge_dead, retry_dead,
};
pub use enqueue::{Enqueued, Hold, Limits, NewJob, enqueue, enqueue_many};
pub use error::{EnqueueError, db_error, db_refusal};
pub use job::{Job, PlannedJob};
pub use jobs::{
    AttemptRecord, CancelEffect, Children, JobFilter, JobRecord, STATES, cancel, list, show, wait_until_finished,
};
pub use migrate::{applied, keep_partitions, migrate, pending};
pub use progress::Progress;
pub use registry::Registry;
pub use wake::{notify_enqueued, notify_ready};
pub use worker::{Worker, WorkerFailed, WorkerOptions};
