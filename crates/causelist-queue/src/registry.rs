//! Which kinds this process knows, and how to run each from its stored arguments.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;

use causelist_core::{JobError, KindSpec};
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::batch::{Batch, BatchJob};
use crate::cx::JobCx;
use crate::error::db_error;
use crate::job::{Job, PlannedJob};

type RunFn = dyn for<'a> Fn(&'a mut JobCx, &'a str) -> BoxFuture<'a, Result<Value, JobError>> + Send + Sync;
type BatchFn = dyn for<'a> Fn(&'a [JobCx], &'a [&'a str]) -> BoxFuture<'a, Vec<Result<Value, JobError>>> + Send + Sync;
type CheckFn = dyn Fn(&Value) -> Result<(), String> + Send + Sync;

/// How a kind is run.
#[derive(Clone)]
pub(crate) enum Run {
    Each(Arc<RunFn>),
    /// At most so many in one call.
    Batch(usize, Arc<BatchFn>),
}

/// A kind that can be run.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) spec: Arc<KindSpec>,
    pub(crate) run: Run,
    check: Arc<CheckFn>,
    planned: bool,
}

/// The kinds a process knows. Adding a job to the product is one line here-with.
#[derive(Clone, Default)]
pub struct Registry(BTreeMap<&'static str, Entry>);

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Registry {
    /// Adds a simple job.
    #[must_use]
    pub fn job<J: Job>(self) -> Self {
        let run: Arc<RunFn> = Arc::new(|cx, args| {
            Box::pin(async move {
                let job: J = decode(args)?;
                to_value(&job.run(cx).await?)
            })
        });
        self.add::<J>(J::spec(), false, Run::Each(run))
    }

    /// Adds a batch job.
    #[must_use]
    pub fn batch<J: BatchJob>(self) -> Self {
        let run: Arc<BatchFn> = Arc::new(|cxs, args| Box::pin(run_batch::<J>(cxs, args)));
        self.add::<J>(J::spec(), false, Run::Batch(J::MOST.max(1), run))
    }

    /// Adds a planned job.
    #[must_use]
    pub fn planned<J: PlannedJob>(self) -> Self {
        let run: Arc<RunFn> = Arc::new(|cx, args| {
            Box::pin(async move {
                let job: J = decode(args)?;
                run_planned(&job, cx).await
            })
        });
        self.add::<J>(J::spec(), true, Run::Each(run))
    }

    fn add<J: DeserializeOwned>(mut self, spec: KindSpec, planned: bool, run: Run) -> Self {
        let check = |args: &Value| J::deserialize(args).map(drop).map_err(|e| e.to_string());
        self.0.insert(
            spec.kind,
            Entry {
                spec: Arc::new(spec),
                run,
                check: Arc::new(check),
                planned,
            },
        );
        self
    }

    /// The kinds that run many in one call, and how many at most.
    pub(crate) fn batches(&self) -> HashMap<&'static str, usize> {
        let most = |e: &Entry| match e.run {
            Run::Each(_) => None,
            Run::Batch(most, _) => Some(most),
        };
        self.0.iter().filter_map(|(kind, e)| Some((*kind, most(e)?))).collect()
    }

    pub(crate) fn get(&self, kind: &str) -> Option<&Entry> {
        self.0.get(kind)
    }

    /// The kinds, by name.
    pub fn specs(&self) -> impl Iterator<Item = &KindSpec> {
        self.0.values().map(|e| e.spec.as_ref())
    }

    /// What is fixed about one kind.
    #[must_use]
    pub fn spec(&self, kind: &str) -> Option<&KindSpec> {
        self.0.get(kind).map(|e| e.spec.as_ref())
    }

    /// Whether the kind is a planned job: takes `executedAt` and `dryRun`.
    #[must_use]
    pub fn is_planned(&self, kind: &str) -> bool {
        self.0.get(kind).is_some_and(|e| e.planned)
    }

    /// Whether a kind's arguments can be read; unknown kinds pass, since another worker may know
    /// them.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check_args(&self, kind: &str, args: &Value) -> Result<(), String> {
        self.0.get(kind).map_or(Ok(()), |e| (e.check)(args))
    }
}

fn decode<J: DeserializeOwned>(args: &str) -> Result<J, JobError> {
    serde_json::from_str(args).map_err(|e| JobError::Permanent(format!("the arguments can't be read: {e}")))
}

fn to_value<R: serde::Serialize>(report: &R) -> Result<Value, JobError> {
    serde_json::to_value(report).map_err(|e| JobError::Permanent(format!("the report can't be written as JSON: {e}")))
}

/// A batch's run: arguments that can't be read are left out of the call, and end their own job only.
async fn run_batch<J: BatchJob>(cxs: &[JobCx], args: &[&str]) -> Vec<Result<Value, JobError>> {
    let mut ends = Vec::with_capacity(cxs.len());
    let mut jobs = Vec::with_capacity(cxs.len());
    for (cx, args) in cxs.iter().zip(args) {
        ends.push(match decode::<J>(args) {
            Ok(job) => {
                jobs.push((job, cx));
                None
            }
            Err(error) => Some(Err(error)),
        });
    }
    let count = jobs.len();
    let mut ran = if jobs.is_empty() {
        Vec::new()
    } else {
        J::run(&Batch::new(jobs)).await
    };
    if ran.len() != count {
        let text = format!(
            "the call gave {} ends for {count} jobs: it must give one for each",
            ran.len()
        );
        ran = (0..count).map(|_| Err(JobError::Permanent(text.clone()))).collect();
    }
    let mut ran = ran.into_iter();
    ends.into_iter()
        .map(|end| end.unwrap_or_else(|| ran.next().map_or(Err(JobError::LeaseLost), |end| to_value(&end?))))
        .collect()
}

/// A planned job's run. Row-level security is turned off for the transaction: for a role that is
/// subject to it, PostgreSQL then refuses the query instead of silently hiding rows, so that a job
/// never takes "not visible" for "not there".
async fn run_planned<J: PlannedJob>(job: &J, cx: &mut JobCx) -> Result<Value, JobError> {
    let args = *job.run_args();
    if let Some(at) = args.executed_at {
        cx.now = at;
    }
    let cx: &JobCx = cx;
    let mut tx = cx.begin().await?;
    let mode = if args.dry_run {
        "set transaction isolation level repeatable read, read only; "
    } else {
        ""
    };
    // What the time limit gives up, PostgreSQL gives up too: else the statement would go on there and
    // keep its connection from the others.
    let limit = cx.timeout.as_millis().max(1);
    let set = format!("{mode}set local row_security = off; set local statement_timeout = {limit}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(set))
        .execute(&mut *tx)
        .await
        .map_err(db_error)?;
    if args.dry_run {
        let plan: Pin<Box<dyn Future<Output = _> + Send + '_>> = Box::pin(job.plan(cx, &mut tx));
        let plan = plan.await?;
        return Ok(serde_json::json!({ "dryRun": true, "executedAt": cx.now(), "plan": to_value(&plan)? }));
    }
    let report = to_value(&job.apply(cx, &mut tx).await?)?;
    tx.complete(&report).await?;
    Ok(report)
}
