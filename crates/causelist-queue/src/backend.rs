//! The apalis backend: hands over what the driver has claimed, and tells the driver how each ended.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::error::BoxDynError;
use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::task_id::{RandomId, TaskId};
use apalis_core::worker::context::WorkerContext;
use futures::future::{BoxFuture, join_all};
use tokio_util::sync::CancellationToken;
use tower::Service;
use tower::layer::util::Identity;

use crate::bundle::{Bundle, Held};
use crate::driver::{Report, Shared};
use crate::run::{Ended, Runtime};
use crate::worker::WorkerOptions;

/// What travels through apalis: shared, since apalis may clone a task.
pub(crate) type Run = Arc<Bundle>;

#[derive(Debug)]
pub(crate) struct PgBackend {
    pub(crate) options: WorkerOptions,
    pub(crate) shared: Arc<Shared>,
    pub(crate) closing: CancellationToken,
}

impl Backend for PgBackend {
    type Task = Task<Run>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Option<Result<Task<Run>, Infallible>>> {
        // Registered first: what is added between the look and the registration would wake nobody.
        self.shared.waker.register(cx.waker());
        self.shared.next().map_or(Poll::Pending, |bundle| {
            let task = TaskBuilder::new(Arc::new(bundle))
                .task_id(TaskId::String(String::new()))
                .build();
            Poll::Ready(Some(Ok(task)))
        })
    }

    /// Called when no job runs any more: lets the driver flush its settles and end.
    fn poll_close(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        self.shared.waker.register(cx.waker());
        self.closing.cancel();
        if self.shared.flushed.load(Ordering::Acquire) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }
}

impl BackendConfig for PgBackend {
    type Args = Run;
    type Id = RandomId;
    type Kind = Ephemeral;
    type Config = WorkerOptions;
    type Layer = Identity;

    fn config(&self) -> &WorkerOptions {
        &self.options
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}

/// Runs a bundle, and reports each of its jobs when that has ended. Whatever a job does ends in an
/// [`Ended`], so that there is nothing for a layer around this to see.
#[derive(Debug, Clone)]
pub(crate) struct RunService {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) shared: Arc<Shared>,
}

impl RunService {
    async fn run(self, bundle: Run) {
        let begun = Instant::now();
        if bundle.batch {
            let ends = self.runtime.execute_batch(&bundle).await;
            for (held, ended) in bundle.jobs.iter().zip(ends) {
                self.tell(held, begun.elapsed(), ended);
            }
            self.shared.ended();
        } else if let [held] = bundle.jobs.as_slice() {
            self.run_one(held).await;
        } else {
            join_all(bundle.jobs.iter().map(|held| self.run_one(held))).await;
        }
    }

    async fn run_one(&self, held: &Held) {
        let begun = Instant::now();
        let ended = self.runtime.execute(held).await;
        self.tell(held, begun.elapsed(), ended);
        self.shared.ended();
    }

    fn tell(&self, held: &Held, ran: Duration, ended: Ended) {
        self.shared.report(Report {
            id: held.job.id,
            fence: held.job.fence,
            kind: Arc::clone(&held.job.kind),
            queue: Arc::clone(&held.job.queue),
            ran,
            ended,
        });
    }
}

impl Service<Task<Run>> for RunService {
    type Response = ();
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<(), BoxDynError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<Run>) -> Self::Future {
        let run = self.clone().run(Arc::clone(&task.args));
        Box::pin(async move {
            run.await;
            Ok(())
        })
    }
}
