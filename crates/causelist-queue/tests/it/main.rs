//! Conformance of the queue, over a real PostgreSQL.

mod crash;
mod enqueue;
mod fixture;
mod outcomes;
mod schedule;
mod shutdown;
