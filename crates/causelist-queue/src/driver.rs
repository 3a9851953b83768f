//! The driver: a task beside the apalis worker that owns claim, settle and lease renewal, so that
//! polling the worker never waits for the database.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use causelist_core::JobId;
use futures::task::AtomicWaker;
use sqlx::PgPool;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::claim::{self, Claimed};
use crate::run::Ended;
use crate::settle::{Settled, settle};
use crate::worker::WorkerOptions;

/// A claimed job on its way to, or in, its run.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) job: Claimed,
    /// Somebody wants it stopped.
    pub(crate) stop: CancellationToken,
    /// The lease is over or nearly so: it must not write any more.
    pub(crate) lost: CancellationToken,
}

/// What the settle layer tells the driver.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) id: JobId,
    pub(crate) fence: i64,
    pub(crate) kind: String,
    pub(crate) queue: String,
    pub(crate) ran: Duration,
    pub(crate) ended: Ended,
}

/// One claim that this worker holds.
#[derive(Debug)]
struct Lease {
    /// When it ends by our own, earlier, reckoning: counted from before the claim was sent.
    deadline: Instant,
    /// The last renewal did not find its row.
    missed: bool,
    jobs: HashMap<JobId, Tokens>,
}

#[derive(Debug, Clone)]
struct Tokens {
    stop: CancellationToken,
    lost: CancellationToken,
}

/// What driver, renewal and backend share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Claimed, not started.
    buffer: Mutex<VecDeque<Held>>,
    /// The backend's task, to be woken when the buffer fills or all is flushed.
    pub(crate) waker: AtomicWaker,
    leases: Mutex<HashMap<i64, Lease>>,
    /// Something became ready, or a slot came free.
    pub(crate) wake: Arc<Notify>,
    /// Set when the driver has flushed its last settle.
    pub(crate) flushed: AtomicBool,
}

impl Shared {
    pub(crate) fn new(wake: Arc<Notify>) -> Self {
        Self {
            buffer: Mutex::default(),
            waker: AtomicWaker::new(),
            leases: Mutex::default(),
            wake,
            flushed: AtomicBool::new(false),
        }
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<i64, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn buffer(&self) -> MutexGuard<'_, VecDeque<Held>> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job to start.
    pub(crate) fn next(&self) -> Option<Held> {
        self.buffer().pop_front()
    }

    /// Jobs claimed and not settled.
    pub(crate) fn in_flight(&self) -> usize {
        self.leases().values().map(|l| l.jobs.len()).sum()
    }

    fn add(&self, jobs: Vec<Claimed>, deadline: Instant) {
        let mut leases = self.leases();
        let mut buffer = self.buffer();
        for job in jobs {
            let tokens = Tokens {
                stop: CancellationToken::new(),
                lost: CancellationToken::new(),
            };
            let lease = leases.entry(job.fence).or_insert_with(|| Lease {
                deadline,
                missed: false,
                jobs: HashMap::new(),
            });
            lease.jobs.insert(job.id, tokens.clone());
            buffer.push_back(Held {
                job,
                stop: tokens.stop,
                lost: tokens.lost,
            });
        }
        drop((leases, buffer));
        self.waker.wake();
    }

    fn forget(&self, fence: i64, id: JobId) {
        let mut leases = self.leases();
        if let Some(lease) = leases.get_mut(&fence) {
            lease.jobs.remove(&id);
            if lease.jobs.is_empty() {
                leases.remove(&fence);
            }
        }
    }

    /// Gives up a claim: its jobs may write nothing more.
    fn lose(&self, fence: i64) {
        let Some(lease) = self.leases().remove(&fence) else {
            return;
        };
        self.buffer().retain(|h| h.job.fence != fence);
        tracing::warn!(
            fence,
            jobs = lease.jobs.len(),
            "the lease was lost; its jobs are stopped"
        );
        for tokens in lease.jobs.values() {
            tokens.lost.cancel();
        }
        self.wake.notify_one();
    }
}

/// Renews every held claim three times per lease, and lets go of those that could not be renewed
/// before their lease ends: by then another worker may have their jobs.
pub(crate) async fn keep_leases(pool: PgPool, shared: Arc<Shared>, lease: Duration, stop: CancellationToken) {
    let period = lease / 3;
    let mut next = tokio::time::interval(period);
    next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = next.tick() => {}
        }
        let (fences, ids): (Vec<i64>, Vec<JobId>) = {
            let leases = shared.leases();
            (
                leases.keys().copied().collect(),
                leases.values().flat_map(|l| l.jobs.keys().copied()).collect(),
            )
        };
        if fences.is_empty() {
            continue;
        }
        let sent = Instant::now();
        match tokio::time::timeout(period, claim::renew(&pool, &fences, &ids, lease)).await {
            Ok(Ok(renewed)) => {
                // A row is also gone when its last jobs were settled while the renewal was on its
                // way: only one that is missing twice is lost.
                let mut gone = Vec::new();
                for (fence, held) in shared.leases().iter_mut().filter(|(f, _)| fences.contains(f)) {
                    if renewed.held.contains(fence) {
                        held.deadline = sent + lease;
                        held.missed = false;
                    } else if std::mem::replace(&mut held.missed, true) {
                        gone.push(*fence);
                    }
                    for id in &renewed.cancel {
                        if let Some(tokens) = held.jobs.get(id) {
                            tokens.stop.cancel();
                        }
                    }
                }
                for fence in gone {
                    shared.lose(fence);
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "could not renew leases"),
            Err(_) => tracing::warn!("renewing leases took longer than {period:?}"),
        }
        let margin = lease / 6;
        let over: Vec<i64> = {
            let leases = shared.leases();
            leases
                .iter()
                .filter(|(_, l)| l.deadline < Instant::now() + margin)
                .map(|(f, _)| *f)
                .collect()
        };
        for fence in over {
            shared.lose(fence);
        }
    }
}

/// Claims what fits, settles what ended, until the worker has closed.
pub(crate) struct Driver {
    pub(crate) pool: PgPool,
    pub(crate) id: Uuid,
    pub(crate) options: WorkerOptions,
    pub(crate) shared: Arc<Shared>,
    pub(crate) reports: mpsc::UnboundedReceiver<Report>,
    /// No further claims; give back what has not started.
    pub(crate) shutdown: CancellationToken,
    /// The worker has stopped: flush and end.
    pub(crate) closing: CancellationToken,
}

impl Driver {
    pub(crate) async fn run(mut self) {
        let mut pending: HashMap<i64, Vec<Settled>> = HashMap::new();
        let mut backoff = Duration::from_millis(100);
        let mut released = false;
        // More may be ready than the last claim could take.
        let mut hungry = true;
        loop {
            let waiting_to_settle = !pending.is_empty();
            tokio::select! {
                biased;
                report = self.reports.recv() => {
                    let Some(report) = report else { break };
                    self.take(report, &mut pending);
                    while let Ok(report) = self.reports.try_recv() {
                        self.take(report, &mut pending);
                    }
                }
                () = self.shutdown.cancelled(), if !released => {}
                () = self.closing.cancelled(), if !waiting_to_settle => break,
                () = tokio::time::sleep(backoff), if waiting_to_settle => {}
                () = self.shared.wake.notified() => hungry = true,
                () = tokio::time::sleep(self.options.poll) => hungry = true,
            }
            if self.shutdown.is_cancelled() && !released {
                self.release_unstarted().await;
                released = true;
            }
            if self.flush(&mut pending).await {
                backoff = Duration::from_millis(100);
            } else {
                backoff = (backoff * 2).min(Duration::from_secs(2));
                continue;
            }
            if hungry && !self.shutdown.is_cancelled() {
                hungry = self.fill().await;
            }
        }
        self.flush(&mut pending).await;
        self.shared.flushed.store(true, Ordering::Release);
        self.shared.waker.wake();
    }

    fn take(&self, report: Report, pending: &mut HashMap<i64, Vec<Settled>>) {
        let outcome = match &report.ended {
            Ended::Completed => "done",
            Ended::Settle(settled) => settled.outcome.word(),
            Ended::Lost => "lost",
        };
        metrics::counter!("causelist_jobs_finished_total",
            "kind" => report.kind.clone(), "queue" => report.queue, "outcome" => outcome)
        .increment(1);
        metrics::histogram!("causelist_job_run_seconds", "kind" => report.kind).record(report.ran.as_secs_f64());
        match report.ended {
            Ended::Settle(settled) => pending.entry(report.fence).or_default().push(settled),
            Ended::Completed => self.shared.forget(report.fence, report.id),
            Ended::Lost => {
                metrics::counter!("causelist_stale_settles_total").increment(1);
                self.shared.forget(report.fence, report.id);
            }
        }
    }

    /// Settles all that is pending; false when the database did not let it.
    async fn flush(&self, pending: &mut HashMap<i64, Vec<Settled>>) -> bool {
        let mut all = true;
        for (fence, batch) in std::mem::take(pending) {
            let result = match self.pool.acquire().await {
                Ok(mut db) => settle(&mut db, fence, &batch).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(recorded) => {
                    let stale = batch.len() as u64 - recorded.min(batch.len() as u64);
                    if stale > 0 {
                        tracing::warn!(fence, stale, "settles refused: the lease had been lost");
                        metrics::counter!("causelist_stale_settles_total").increment(stale);
                    }
                    for settled in &batch {
                        self.shared.forget(fence, settled.id);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, fence, "could not settle; trying again");
                    all = false;
                    // After the lease's end its jobs are another worker's: nothing more to settle.
                    if self.shared.leases().contains_key(&fence) {
                        pending.insert(fence, batch);
                    }
                }
            }
        }
        all
    }

    /// Claims from each queue in turn as much as there are slots. Whether more may be ready.
    async fn fill(&self) -> bool {
        let mut more = false;
        for queue in &self.options.queues {
            let free = self.options.concurrency.saturating_sub(self.shared.in_flight());
            if free == 0 {
                return true;
            }
            let limit = free.min(self.options.batch);
            let sent = Instant::now();
            match claim::claim(&self.pool, self.id, queue, limit, self.options.lease).await {
                Ok(jobs) => {
                    more |= jobs.len() == limit;
                    for job in &jobs {
                        metrics::histogram!("causelist_job_wait_seconds", "queue" => job.queue.clone())
                            .record(job.waited.as_secs_f64());
                    }
                    if !jobs.is_empty() {
                        self.shared.add(jobs, sent + self.options.lease);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, queue, "could not claim");
                    return false;
                }
            }
        }
        if more && self.shared.in_flight() < self.options.concurrency {
            self.shared.wake.notify_one();
        }
        more
    }

    /// At shutdown: what has not started goes back to its place and counts no attempt.
    async fn release_unstarted(&self) {
        let unstarted: Vec<Held> = self.shared.buffer().drain(..).collect();
        let mut by_fence: HashMap<i64, Vec<&Claimed>> = HashMap::new();
        for held in &unstarted {
            by_fence.entry(held.job.fence).or_default().push(&held.job);
        }
        for (fence, jobs) in by_fence {
            let result = match self.pool.acquire().await {
                Ok(mut db) => claim::release(&mut db, fence, &jobs).await,
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                tracing::warn!(%error, fence, "could not release unstarted jobs; their lease will end by itself");
            }
            for job in jobs {
                self.shared.forget(fence, job.id);
            }
        }
    }
}
