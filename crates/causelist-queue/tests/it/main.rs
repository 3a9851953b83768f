//! Conformance of the queue, over a real PostgreSQL.

#![expect(clippy::expect_used, reason = "a test says by panicking what did not hold")]

mod batch;
mod crash;
mod dead;
mod enqueue;
mod fair;
mod family;
mod fixture;
mod limits;
mod model;
mod outcomes;
mod progress;
mod quarantine;
mod queues;
mod races;
mod retention;
mod roles;
mod schedule;
mod shutdown;
mod sql;
