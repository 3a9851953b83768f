//! Batch jobs: the arguments of many jobs in one call, for what is cheaper together: one SMTP
//! connection, one statement.

use std::future::Future;
use std::ops::{Deref, DerefMut};

use causelist_core::{JobError, KindSpec};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{PgConnection, Postgres, Transaction};

use crate::JobCx;
use crate::error::db_error;
use crate::family;
use crate::settle::settle_in;

/// A kind of which one call runs many jobs. Each of them is a job of its own: with its own attempts,
/// outcome, result and place among the dead letters.
pub trait BatchJob: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What each job reports.
    type Report: Serialize + Send;

    /// The most jobs in one call.
    const MOST: usize;

    /// What is fixed about the kind. The time limit is that of a call.
    fn spec() -> KindSpec;

    /// Runs them; gives one end for each, in their order. The calls of a worker take what it has
    /// claimed: anything from one job to [`BatchJob::MOST`].
    fn run(batch: &Batch<'_, Self>) -> impl Future<Output = Vec<Result<Self::Report, JobError>>> + Send
    where
        Self: Sized;
}

/// The jobs of one call. They were claimed together: they keep or lose their lease together.
#[derive(Debug)]
pub struct Batch<'a, J> {
    jobs: Vec<(J, &'a JobCx)>,
}

impl<'a, J> Batch<'a, J> {
    pub(crate) fn new(jobs: Vec<(J, &'a JobCx)>) -> Self {
        Self { jobs }
    }

    /// The jobs, each with its context. A context's [`JobCx::cancelled`] fires for its job alone when
    /// somebody cancels it; whether to leave it out then is the call's choice.
    #[must_use]
    pub fn jobs(&self) -> &[(J, &'a JobCx)] {
        &self.jobs
    }

    /// Begins a transaction that completes all jobs of the call, or none.
    ///
    /// # Errors
    /// When the database can't be reached.
    pub async fn begin(&self) -> Result<BatchTx<'_>, JobError> {
        let cxs: Vec<&JobCx> = self.jobs.iter().map(|(_, cx)| *cx).collect();
        let Some(first) = cxs.first() else {
            return Err(JobError::Permanent("a batch without jobs has nothing to commit".into()));
        };
        let tx = first.pool.begin().await.map_err(db_error)?;
        Ok(BatchTx { cxs, tx })
    }
}

/// A transaction under the fence of a batch. Dropped, it rolls back.
#[derive(Debug)]
pub struct BatchTx<'a> {
    cxs: Vec<&'a JobCx>,
    tx: Transaction<'static, Postgres>,
}

impl BatchTx<'_> {
    /// Commits the writes together with the completion of every job; `reports` in the jobs' order.
    ///
    /// # Errors
    /// [`JobError::LeaseLost`] when any of them is no longer held; [`JobError::Permanent`] when there
    /// are not as many reports as jobs. Nothing was written then.
    pub async fn complete<R: Serialize + Sync>(mut self, reports: &[R]) -> Result<(), JobError> {
        if reports.len() != self.cxs.len() {
            return Err(JobError::Permanent(format!(
                "{} reports for {} jobs: give one for each",
                reports.len(),
                self.cxs.len()
            )));
        }
        let mut batch = Vec::with_capacity(reports.len());
        for (cx, report) in self.cxs.iter().zip(reports) {
            let result = serde_json::to_value(report)
                .map_err(|e| JobError::Permanent(format!("the report can't be written as JSON: {e}")))?;
            batch.push(cx.done(result).await);
        }
        let fence = self.cxs.first().map_or(0, |cx| cx.fence);
        let recorded = settle_in(&mut self.tx, fence, &batch).await.map_err(db_error)?;
        if recorded.jobs != batch.len() as u64 {
            return Err(JobError::LeaseLost);
        }
        self.tx.commit().await.map_err(db_error)?;
        for cx in &self.cxs {
            cx.committed().await;
        }
        if let Some(first) = self.cxs.first() {
            family::finish_after(&first.pool, recorded.parents).await;
        }
        Ok(())
    }
}

impl Deref for BatchTx<'_> {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.tx
    }
}

impl DerefMut for BatchTx<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}
