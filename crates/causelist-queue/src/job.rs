//! What a job is: its arguments as a serde type, and what it does with them.

use std::future::Future;

use causelist_core::{JobError, KindSpec, RunArgs};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::PgConnection;

use crate::JobCx;

/// A kind of job. The value is its arguments; clients and settings come from
/// [`JobCx::state`]. The report is stored as the job's result.
pub trait Job: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What the run reports.
    type Report: Serialize + Send;

    /// What is fixed about the kind.
    fn spec() -> KindSpec;

    /// Runs once. It may be repeated after a crash: database effects belong into
    /// [`JobCx::begin`], which ties them to the lease.
    fn run(&self, cx: &JobCx) -> impl Future<Output = Result<Self::Report, JobError>> + Send;
}

/// A job whose effects are all rows, so that they can be shown before they happen.
///
/// `plan` runs in a READ ONLY transaction: a dry run cannot write, whatever its code does. `apply`
/// runs in the transaction that also checks the lease and records the job as done: its effects
/// take place exactly once, or not at all. Both should use the same query text as their source.
pub trait PlannedJob: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What would change and who would be told: counts and first rows.
    type Plan: Serialize + Send;
    /// What did change: the kind's documented result.
    type Report: Serialize + Send;

    /// What is fixed about the kind.
    fn spec() -> KindSpec;

    /// The instant and the dry-run flag among the arguments.
    fn run_args(&self) -> &RunArgs;

    /// Says what would happen at [`JobCx::now`].
    fn plan(&self, cx: &JobCx, db: &mut PgConnection) -> impl Future<Output = Result<Self::Plan, JobError>> + Send;

    /// Makes it happen.
    fn apply(&self, cx: &JobCx, db: &mut PgConnection) -> impl Future<Output = Result<Self::Report, JobError>> + Send;
}
