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
use causelist_core::Clock;
use futures::future::BoxFuture;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service};

use crate::driver::{Held, Report, Shared};
use crate::run::{Ended, Runtime};
use crate::settle::{Outcome, Settled};
use crate::worker::WorkerOptions;

/// What travels through apalis: shared, since apalis may clone a task.
pub(crate) type Run = Arc<Held>;

#[derive(Debug)]
pub(crate) struct PgBackend {
    pub(crate) options: WorkerOptions,
    pub(crate) shared: Arc<Shared>,
    pub(crate) settle: SettleLayer,
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
        self.shared.next().map_or(Poll::Pending, |held| {
            let task = TaskBuilder::new(Arc::new(held))
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
    type Layer = SettleLayer;

    fn config(&self) -> &WorkerOptions {
        &self.options
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> SettleLayer {
        self.settle.clone()
    }
}

/// Outside of all other layers, so that whatever happens inside is reported.
#[derive(Debug, Clone)]
pub(crate) struct SettleLayer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) reports: UnboundedSender<Report>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl<S> Layer<S> for SettleLayer {
    type Service = SettleService<S>;
    fn layer(&self, inner: S) -> SettleService<S> {
        SettleService {
            inner,
            layer: self.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct SettleService<S> {
    inner: S,
    layer: SettleLayer,
}

impl<S> Service<Task<Run>> for SettleService<S>
where
    S: Service<Task<Run>, Response = Ended>,
    S::Error: Into<BoxDynError>,
    S::Future: Send + 'static,
{
    type Response = ();
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<(), BoxDynError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, task: Task<Run>) -> Self::Future {
        let run = Arc::clone(&task.args);
        let started_at = self.layer.clock.now();
        let begun = Instant::now();
        let SettleLayer { reports, shared, .. } = self.layer.clone();
        let inner = self.inner.call(task);
        Box::pin(async move {
            let job = &run.job;
            let ended = match inner.await {
                Ok(ended) => ended,
                // Only a fault of ours or of a layer gets here: what a job does ends in `Ended`.
                Err(error) => Ended::Settle(Settled {
                    id: job.id,
                    attempt: job.attempt,
                    keyed: job.keyed,
                    started_at,
                    outcome: Outcome::Retry(
                        Duration::from_secs(5),
                        format!("the worker could not run it: {}", error.into()),
                    ),
                }),
            };
            // A driver that is gone has given up its claims: nothing to tell it.
            let _ = reports.send(Report {
                id: job.id,
                fence: job.fence,
                kind: job.kind.clone(),
                queue: job.queue.clone(),
                ran: begun.elapsed(),
                ended,
            });
            shared.ended();
            Ok(())
        })
    }
}

/// The innermost service: runs a job by its kind.
#[derive(Debug, Clone)]
pub(crate) struct RunService(pub(crate) Arc<Runtime>);

impl Service<Task<Run>> for RunService {
    type Response = Ended;
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<Ended, BoxDynError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<Run>) -> Self::Future {
        let runtime = Arc::clone(&self.0);
        let run = Arc::clone(&task.args);
        Box::pin(async move { Ok(runtime.execute(&run.job, run.stop.clone(), run.lost.clone()).await) })
    }
}
