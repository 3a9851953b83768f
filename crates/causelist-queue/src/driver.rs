//! The driver: two tasks beside the apalis worker that own claim and settle, so that polling the
//! worker never waits for the database, and neither waits for the other. [`crate::lease`] renews.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
use crate::settle::{self, Settled};
use crate::worker::WorkerOptions;

/// How long a finished job waits for the others of its claim, so that they settle as one.
const LINGER: Duration = Duration::from_millis(20);
/// Jobs are claimed ahead for this much work at the present rate: enough to hide a round trip to the
/// database, too little to keep slow jobs from other workers.
const AHEAD: Duration = Duration::from_millis(50);

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
pub(crate) struct Lease {
    /// When it ends by our own, earlier, reckoning: counted from before the claim was sent.
    pub(crate) deadline: Instant,
    /// The last renewal did not find its row.
    pub(crate) missed: bool,
    pub(crate) jobs: HashMap<JobId, Tokens>,
}

#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(crate) stop: CancellationToken,
    pub(crate) lost: CancellationToken,
}

/// What driver, renewal and backend share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Claimed, not started.
    buffer: Mutex<VecDeque<Held>>,
    /// Jobs that may run at the same time, and that do.
    slots: usize,
    running: AtomicUsize,
    /// Jobs settled per second, lately.
    rate: AtomicUsize,
    /// The backend's task, to be woken when the buffer fills, a slot comes free or all is flushed.
    pub(crate) waker: AtomicWaker,
    leases: Mutex<HashMap<i64, Lease>>,
    /// Something became ready, or room came free.
    pub(crate) wake: Arc<Notify>,
    /// Set when the driver has flushed its last settle.
    pub(crate) flushed: AtomicBool,
}

impl Shared {
    pub(crate) fn new(slots: usize, wake: Arc<Notify>) -> Self {
        Self {
            buffer: Mutex::default(),
            slots,
            running: AtomicUsize::new(0),
            rate: AtomicUsize::new(0),
            waker: AtomicWaker::new(),
            leases: Mutex::default(),
            wake,
            flushed: AtomicBool::new(false),
        }
    }

    pub(crate) fn leases(&self) -> MutexGuard<'_, HashMap<i64, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn buffer(&self) -> MutexGuard<'_, VecDeque<Held>> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job to start, if a slot is free. Its end must be told to [`Shared::ended`].
    pub(crate) fn next(&self) -> Option<Held> {
        if self.running.load(Ordering::Acquire) >= self.slots {
            return None;
        }
        let held = self.buffer().pop_front()?;
        self.running.fetch_add(1, Ordering::AcqRel);
        Some(held)
    }

    /// A started job has ended.
    pub(crate) fn ended(&self) {
        // Who starts jobs sleeps only when all slots are taken or nothing is there to start.
        if self.running.fetch_sub(1, Ordering::AcqRel) == self.slots {
            self.waker.wake();
        }
    }

    /// Jobs claimed and not settled.
    fn in_flight(&self) -> usize {
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

    /// These jobs of a claim are settled, or no longer ours to settle.
    fn forget(&self, fence: i64, ids: impl IntoIterator<Item = JobId>) {
        let mut leases = self.leases();
        if let Some(lease) = leases.get_mut(&fence) {
            for id in ids {
                lease.jobs.remove(&id);
            }
            if lease.jobs.is_empty() {
                leases.remove(&fence);
            }
        }
    }

    /// Gives up a claim: its jobs may write nothing more.
    pub(crate) fn lose(&self, fence: i64) {
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

/// What both tasks work with.
#[derive(Debug, Clone)]
pub(crate) struct Driver {
    pub(crate) pool: PgPool,
    pub(crate) id: Uuid,
    pub(crate) options: WorkerOptions,
    pub(crate) shared: Arc<Shared>,
    /// No further claims; give back what has not started.
    pub(crate) shutdown: CancellationToken,
    /// The worker has stopped: flush and end.
    pub(crate) closing: CancellationToken,
}

impl Driver {
    /// Claims and settles until the worker has closed.
    pub(crate) async fn run(self, reports: mpsc::UnboundedReceiver<Report>) {
        tokio::join!(self.claim_on(), self.settle_on(reports));
        self.shared.flushed.store(true, Ordering::Release);
        self.shared.waker.wake();
    }

    /// Keeps the buffer filled, until the shutdown; then gives back what has not started.
    async fn claim_on(&self) {
        // More may be ready than the last claim could take.
        let mut hungry = true;
        while !self.shutdown.is_cancelled() && !self.closing.is_cancelled() {
            if hungry && self.room() > 0 {
                hungry = self.fill().await;
                if hungry && self.room() > 0 {
                    continue;
                }
            }
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                () = self.closing.cancelled() => {}
                () = self.shared.wake.notified() => hungry = true,
                () = tokio::time::sleep(self.options.poll) => hungry = true,
            }
        }
        self.release_unstarted().await;
    }

    /// How many jobs to claim now: the slots and what is worth holding ahead of them, less what is
    /// held. Asking for a few at a time would cost a statement each, so when many are held ahead,
    /// it waits until half of them are gone.
    fn room(&self) -> usize {
        let rate = self.shared.rate.load(Ordering::Relaxed);
        let ahead = (rate * AHEAD.as_millis() as usize / 1000).min(self.options.batch * 2);
        let target = self.options.concurrency + ahead;
        let room = target.saturating_sub(self.shared.in_flight());
        if ahead > self.options.concurrency && room < target / 2 {
            0
        } else {
            room
        }
    }

    /// Claims from each queue in turn. Whether more may be ready.
    async fn fill(&self) -> bool {
        let mut more = false;
        for queue in &self.options.queues {
            let room = self.room();
            if room == 0 {
                return true;
            }
            let limit = room.min(self.options.batch.max(self.options.concurrency));
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
            self.shared.forget(fence, jobs.iter().map(|j| j.id));
        }
    }

    /// Settles what ended, until the worker has closed and all is settled.
    async fn settle_on(&self, mut reports: mpsc::UnboundedReceiver<Report>) {
        let mut pending = Pending::default();
        let mut backoff = Duration::from_millis(100);
        let mut counted = (Instant::now(), 0_usize);
        loop {
            let wait = pending.wait(backoff);
            tokio::select! {
                biased;
                report = reports.recv() => {
                    let Some(report) = report else { break };
                    counted.1 += 1;
                    self.take(report, &mut pending);
                    while let Ok(report) = reports.try_recv() {
                        counted.1 += 1;
                        self.take(report, &mut pending);
                    }
                }
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                () = self.closing.cancelled(), if wait.is_none() => break,
            }
            self.measure(&mut counted);
            let last = self.closing.is_cancelled();
            if self.flush(&mut pending, last).await {
                backoff = Duration::from_millis(100);
            } else {
                backoff = (backoff * 2).min(Duration::from_secs(2));
            }
        }
        // What the channel still held when the worker closed.
        while let Ok(report) = reports.try_recv() {
            self.take(report, &mut pending);
        }
        self.flush(&mut pending, true).await;
    }

    /// The rate at which jobs end, over at least 50 ms; it falls when nothing ends.
    fn measure(&self, counted: &mut (Instant, usize)) {
        let elapsed = counted.0.elapsed();
        if elapsed < Duration::from_millis(50) {
            return;
        }
        let now = (counted.1 as f64 / elapsed.as_secs_f64()) as usize;
        let before = self.shared.rate.load(Ordering::Relaxed);
        self.shared
            .rate
            .store(if now > before { now.midpoint(before) } else { now }, Ordering::Relaxed);
        *counted = (Instant::now(), 0);
    }

    fn take(&self, report: Report, pending: &mut Pending) {
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
            Ended::Settle(settled) => pending.add(report.fence, settled),
            Ended::Completed => self.freed(report.fence, [report.id]),
            Ended::Lost => {
                metrics::counter!("causelist_stale_settles_total").increment(1);
                self.freed(report.fence, [report.id]);
            }
        }
    }

    fn freed(&self, fence: i64, ids: impl IntoIterator<Item = JobId>) {
        self.shared.forget(fence, ids);
        self.shared.wake.notify_one();
    }

    /// Settles every claim that is complete, and of the others what has waited long enough (`all`:
    /// whatever there is). False when the database did not let it.
    async fn flush(&self, pending: &mut Pending, all: bool) -> bool {
        let (whole, parts) = pending.due(&self.shared, all);
        let mut well = true;
        if !whole.is_empty() {
            let claims: Vec<(i64, &[Settled])> = whole.iter().map(|(f, batch)| (*f, batch.as_slice())).collect();
            let count: usize = claims.iter().map(|(_, batch)| batch.len()).sum();
            match settle::settle_whole(&self.pool, &claims).await {
                Ok(recorded) => {
                    self.settled(count, recorded);
                    for (fence, batch) in whole {
                        self.freed(fence, batch.iter().map(|s| s.id));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "could not settle; trying again");
                    well = false;
                    for (fence, batch) in whole {
                        self.put_back(pending, fence, batch);
                    }
                }
            }
        }
        for (fence, batch) in parts {
            let result = match self.pool.acquire().await {
                Ok(mut db) => settle::settle(&mut db, fence, &batch).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(recorded) => {
                    self.settled(batch.len(), recorded);
                    self.freed(fence, batch.iter().map(|s| s.id));
                }
                Err(error) => {
                    tracing::warn!(%error, fence, "could not settle; trying again");
                    well = false;
                    self.put_back(pending, fence, batch);
                }
            }
        }
        well
    }

    fn settled(&self, sent: usize, recorded: u64) {
        let stale = (sent as u64).saturating_sub(recorded);
        if stale > 0 {
            tracing::warn!(stale, "settles refused: the lease had been lost");
            metrics::counter!("causelist_stale_settles_total").increment(stale);
        }
    }

    /// After the lease's end its jobs are another worker's: nothing more to settle then.
    fn put_back(&self, pending: &mut Pending, fence: i64, batch: Vec<Settled>) {
        if self.shared.leases().contains_key(&fence) {
            pending.doubtful.insert(fence);
            for settled in batch {
                pending.add(fence, settled);
            }
        }
    }
}

/// What has ended of one claim.
type Batch = (i64, Vec<Settled>);

/// What has ended and is not settled, by claim.
#[derive(Debug, Default)]
struct Pending {
    claims: HashMap<i64, (Instant, Vec<Settled>)>,
    /// Claims of which a settle failed on its way: it may have taken place. They settle by the form
    /// that looks which of its jobs a claim still holds.
    doubtful: HashSet<i64>,
}

impl Pending {
    fn add(&mut self, fence: i64, settled: Settled) {
        self.claims
            .entry(fence)
            .or_insert_with(|| (Instant::now(), Vec::new()))
            .1
            .push(settled);
    }

    /// How long until something must be looked at again: none when nothing is pending.
    fn wait(&self, backoff: Duration) -> Option<Duration> {
        let oldest = self.claims.values().map(|(since, _)| *since).min()?;
        let left = LINGER.saturating_sub(oldest.elapsed());
        // What lingered already and is still here could not be settled.
        Some(if left.is_zero() { backoff } else { left })
    }

    /// Takes out what is to be settled now: complete claims whose every job is done, and the others
    /// that have lingered.
    fn due(&mut self, shared: &Shared, all: bool) -> (Vec<Batch>, Vec<Batch>) {
        let leases = shared.leases();
        let mut whole = Vec::new();
        let mut parts = Vec::new();
        let fences: Vec<i64> = self.claims.keys().copied().collect();
        for fence in fences {
            let Some((since, batch)) = self.claims.get(&fence) else {
                continue;
            };
            // Of a claim that was let go, only these few are known to have ended.
            let lease = leases.get(&fence);
            let complete = lease.is_some_and(|l| l.jobs.len() == batch.len());
            if !complete && lease.is_some() && !all && since.elapsed() < LINGER {
                continue;
            }
            let Some((_, batch)) = self.claims.remove(&fence) else {
                continue;
            };
            let doubtful = self.doubtful.remove(&fence);
            if complete && !doubtful && batch.iter().all(Settled::is_plain) {
                whole.push((fence, batch));
            } else {
                parts.push((fence, batch));
            }
        }
        (whole, parts)
    }
}
