//! The driver: two tasks beside the apalis worker that own claim and settle, so that polling the
//! worker never waits for the database, and neither waits for the other. [`crate::lease`] renews,
//! [`crate::bundle`] hands out what was claimed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use causelist_core::JobId;
use futures::task::AtomicWaker;
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::admit::Gates;
use crate::bundle::{Bundle, Held};
use crate::claim::{self, Claimed};
use crate::cursor::Cursor;
use crate::fair;
use crate::line::Line;
use crate::meters::{Meters, WaitMeters};
use crate::run::Ended;
use crate::settle::{self, Settled};
use crate::worker::WorkerOptions;

/// How long a finished job waits for the others of its claim, so that they settle as one.
const LINGER: Duration = Duration::from_millis(20);
/// Jobs are claimed ahead for this much work at the present rate: enough to hide a round trip to the
/// database, too little to keep slow jobs from other workers.
const AHEAD: Duration = Duration::from_millis(50);

/// What the settle layer tells the driver.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) id: JobId,
    pub(crate) fence: i64,
    pub(crate) kind: Arc<str>,
    pub(crate) queue: Arc<str>,
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
    pub(crate) lost: CancellationToken,
    pub(crate) queue: Arc<str>,
    /// What stops each of its jobs.
    pub(crate) jobs: HashMap<JobId, CancellationToken>,
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
    /// Jobs claimed and not settled.
    in_flight: AtomicUsize,
    /// Kinds whose jobs run many in one call, and how many at most.
    batches: HashMap<&'static str, usize>,
    /// What has ended and was not yet heard by the settling task.
    reports: Mutex<Vec<Report>>,
    reported: Notify,
    /// The backend's task, to be woken when the buffer fills, a slot comes free or all is flushed.
    pub(crate) waker: AtomicWaker,
    leases: Mutex<HashMap<i64, Lease>>,
    /// Something became ready, or room came free.
    pub(crate) wake: Arc<Notify>,
    /// To be nudged when jobs have ended.
    gates: Arc<Gates>,
    /// Set when the driver has flushed its last settle.
    pub(crate) flushed: AtomicBool,
}

impl Shared {
    pub(crate) fn new(
        slots: usize,
        batches: HashMap<&'static str, usize>,
        wake: Arc<Notify>,
        gates: Arc<Gates>,
    ) -> Self {
        Self {
            buffer: Mutex::default(),
            slots,
            running: AtomicUsize::new(0),
            rate: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            batches,
            reports: Mutex::default(),
            reported: Notify::new(),
            waker: AtomicWaker::new(),
            leases: Mutex::default(),
            wake,
            gates,
            flushed: AtomicBool::new(false),
        }
    }

    pub(crate) fn leases(&self) -> MutexGuard<'_, HashMap<i64, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn buffer(&self) -> MutexGuard<'_, VecDeque<Held>> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next jobs to start, if a slot is free. The end of its slots must be told to
    /// [`Shared::ended`].
    pub(crate) fn next(&self) -> Option<Bundle> {
        let free = self.slots.saturating_sub(self.running.load(Ordering::Acquire));
        if free == 0 {
            return None;
        }
        let short = self.rate.load(Ordering::Relaxed);
        let bundle = Bundle::take(&mut self.buffer(), free, short, &self.batches)?;
        self.running.fetch_add(bundle.slots, Ordering::AcqRel);
        Some(bundle)
    }

    /// A slot has come free.
    pub(crate) fn ended(&self) {
        // Who starts jobs sleeps only when all slots are taken or nothing is there to start.
        if self.running.fetch_sub(1, Ordering::AcqRel) == self.slots {
            self.waker.wake();
        }
    }

    /// A job has ended.
    pub(crate) fn report(&self, report: Report) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.push(report);
        if reports.len() == 1 {
            drop(reports);
            self.reported.notify_one();
        }
    }

    fn reports(&self) -> Vec<Report> {
        std::mem::take(&mut self.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, jobs: Vec<Claimed>, deadline: Instant) {
        let mut leases = self.leases();
        let mut buffer = self.buffer();
        self.in_flight.fetch_add(jobs.len(), Ordering::Relaxed);
        let many = jobs.len();
        for job in jobs {
            let stop = CancellationToken::new();
            let lease = leases.entry(job.fence).or_insert_with(|| Lease {
                deadline,
                missed: false,
                lost: CancellationToken::new(),
                queue: Arc::clone(&job.queue),
                jobs: HashMap::with_capacity(many),
            });
            lease.jobs.insert(job.id, stop.clone());
            let lost = lease.lost.clone();
            buffer.push_back(Held { job, stop, lost });
        }
        drop((leases, buffer));
        self.waker.wake();
    }

    /// These jobs of a claim are settled, or no longer ours to settle.
    fn forget(&self, fence: i64, ids: impl IntoIterator<Item = JobId>) {
        let mut leases = self.leases();
        if let Some(lease) = leases.get_mut(&fence) {
            let before = lease.jobs.len();
            for id in ids {
                lease.jobs.remove(&id);
            }
            self.in_flight.fetch_sub(before - lease.jobs.len(), Ordering::Relaxed);
            if lease.jobs.is_empty() {
                leases.remove(&fence);
            }
        }
    }

    /// All of a claim is settled.
    fn forget_whole(&self, fence: i64) {
        if let Some(lease) = self.leases().remove(&fence) {
            self.in_flight.fetch_sub(lease.jobs.len(), Ordering::Relaxed);
        }
    }

    /// Gives up a claim: its jobs may write nothing more.
    pub(crate) fn lose(&self, fence: i64) {
        let Some(lease) = self.leases().remove(&fence) else {
            return;
        };
        self.in_flight.fetch_sub(lease.jobs.len(), Ordering::Relaxed);
        self.buffer().retain(|h| h.job.fence != fence);
        tracing::warn!(
            fence,
            jobs = lease.jobs.len(),
            "the lease was lost; its jobs are stopped"
        );
        lease.lost.cancel();
        for stop in lease.jobs.values() {
            stop.cancel();
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
    pub(crate) async fn run(self) {
        tokio::join!(self.claim_on(), self.settle_on());
        self.shared.flushed.store(true, Ordering::Release);
        self.shared.waker.wake();
    }

    /// Keeps the buffer filled, until the shutdown; then gives back what has not started.
    async fn claim_on(&self) {
        let queues: Vec<Arc<str>> = self.options.queues.iter().map(|q| Arc::from(q.as_str())).collect();
        let mut meters = WaitMeters::default();
        let mut cursors: Vec<Cursor> = queues.iter().map(|_| Cursor::default()).collect();
        let mut line = Line::new(&self.pool, self.options.lease, self.options.listen);
        // From when on more may be ready than the last claim took.
        let mut hungry = Some(Instant::now());
        while !self.shutdown.is_cancelled() && !self.closing.is_cancelled() {
            if hungry.is_some_and(|since| since <= Instant::now()) && self.room() > 0 {
                hungry = self.fill(&mut line, &queues, &mut cursors, &mut meters).await;
                if hungry.is_some_and(|since| since <= Instant::now()) && self.room() > 0 {
                    continue;
                }
            }
            let look = Instant::now() + self.options.poll;
            let look = hungry.filter(|_| self.room() > 0).map_or(look, |since| since.min(look));
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                () = self.closing.cancelled() => {}
                () = self.shared.wake.notified() => hungry = Some(Instant::now()),
                () = tokio::time::sleep_until(look.into()) => hungry = Some(Instant::now()),
            }
        }
        self.release_unstarted(&mut line).await;
    }

    /// How many jobs to claim now: the slots and what is worth holding ahead of them, less what is
    /// held. Asking for a few at a time would cost a statement each, so when many are held ahead,
    /// it waits until half of them are gone.
    fn room(&self) -> usize {
        let rate = self.shared.rate.load(Ordering::Relaxed);
        let mut ahead = (rate * AHEAD.as_millis() as usize / 1000).min(self.options.batch * 2);
        if !self.shared.batches.is_empty() {
            // Who runs many in one call needs many at hand.
            ahead = ahead.max(self.options.batch);
        }
        let target = self.options.concurrency + ahead;
        let room = target.saturating_sub(self.shared.in_flight.load(Ordering::Relaxed));
        if ahead > self.options.concurrency && room < target / 2 {
            0
        } else {
            room
        }
    }

    /// The same for one queue, of which fewer may be held.
    fn room_for(&self, queue: &Arc<str>) -> usize {
        let room = self.room();
        let Some(most) = self.options.queue_concurrency.get(&**queue) else {
            return room;
        };
        let leases = self.shared.leases();
        let held: usize = leases
            .values()
            .filter(|l| l.queue == *queue)
            .map(|l| l.jobs.len())
            .sum();
        room.min(most.saturating_sub(held))
    }

    /// Claims from each queue in turn. From when on more may be ready.
    async fn fill(
        &self,
        line: &mut Line,
        queues: &[Arc<str>],
        cursors: &mut [Cursor],
        meters: &mut WaitMeters,
    ) -> Option<Instant> {
        let mut more: Option<Instant> = None;
        for (queue, cursor) in queues.iter().zip(cursors) {
            let room = self.room_for(queue);
            let sent = Instant::now();
            if room == 0 {
                // A slot that comes free wakes this up.
                continue;
            }
            let limit = room.min(self.options.batch.max(self.options.concurrency));
            let lease = self.options.lease;
            let start = cursor.start(sent);
            let claimed = line.with(async |db| claim::claim(db, self.id, queue, start, limit, lease).await);
            match claimed.await {
                Ok(jobs) => {
                    let now = Instant::now();
                    cursor.claimed(start, &jobs, sent, now);
                    let again = if jobs.len() == limit {
                        Some(now)
                    } else {
                        cursor.sweep_at(start)
                    };
                    more = [more, again].into_iter().flatten().min();
                    meters.claimed(queue, &jobs);
                    fair::follow(&self.pool, &jobs);
                    if !jobs.is_empty() {
                        self.shared.add(jobs, sent + self.options.lease);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, %queue, "could not claim");
                    cursor.failed(start, Instant::now());
                    return None;
                }
            }
        }
        more
    }

    /// At shutdown: what has not started goes back to its place and counts no attempt.
    async fn release_unstarted(&self, line: &mut Line) {
        let unstarted: Vec<Held> = self.shared.buffer().drain(..).collect();
        let mut by_fence: HashMap<i64, Vec<&Claimed>> = HashMap::new();
        for held in &unstarted {
            by_fence.entry(held.job.fence).or_default().push(&held.job);
        }
        for (fence, jobs) in by_fence {
            let released = line.with(async |db| claim::release(db, fence, &jobs).await);
            if let Err(error) = released.await {
                tracing::warn!(%error, fence, "could not release unstarted jobs; their lease will end by itself");
            }
            self.shared.forget(fence, jobs.iter().map(|j| j.id));
        }
    }

    /// Settles what ended, until the worker has closed and all is settled.
    async fn settle_on(&self) {
        let mut meters = Meters::default();
        let mut line = Line::new(&self.pool, self.options.lease, self.options.listen);
        let mut pending = Pending::default();
        let mut backoff = Duration::from_millis(100);
        let mut counted = (Instant::now(), 0_usize);
        loop {
            let wait = pending.wait(backoff);
            tokio::select! {
                biased;
                () = self.shared.reported.notified() => {
                    for report in self.shared.reports() {
                        counted.1 += 1;
                        self.take(report, &mut pending, &mut meters);
                    }
                }
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                () = self.closing.cancelled(), if wait.is_none() => break,
            }
            self.measure(&mut counted);
            let last = self.closing.is_cancelled();
            if self.flush(&mut line, &mut pending, last).await {
                backoff = Duration::from_millis(100);
            } else {
                backoff = (backoff * 2).min(Duration::from_secs(2));
            }
        }
        // What ended as the worker closed.
        for report in self.shared.reports() {
            self.take(report, &mut pending, &mut meters);
        }
        self.flush(&mut line, &mut pending, true).await;
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

    fn take(&self, report: Report, pending: &mut Pending, meters: &mut Meters) {
        meters.ended(&report);
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
        self.shared.gates.nudge();
    }

    /// Settles every claim that is complete, and of the others what has waited long enough (`all`:
    /// whatever there is). False when the database did not let it.
    async fn flush(&self, line: &mut Line, pending: &mut Pending, all: bool) -> bool {
        let (whole, parts) = pending.due(&self.shared, all);
        let mut well = true;
        if !whole.is_empty() {
            let claims: Vec<(i64, &[Settled])> = whole.iter().map(|(f, batch)| (*f, batch.as_slice())).collect();
            let count: usize = claims.iter().map(|(_, batch)| batch.len()).sum();
            match line.with(async |db| settle::settle_whole(db, &claims).await).await {
                Ok(recorded) => {
                    self.settled(count, recorded);
                    for (fence, _) in whole {
                        self.shared.forget_whole(fence);
                    }
                    self.shared.wake.notify_one();
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
            match line.with(async |db| settle::settle(db, fence, &batch).await).await {
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
            pending.linger_no_more(fence);
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

    /// What could not be settled is tried again after the backoff, not after [`LINGER`].
    fn linger_no_more(&mut self, fence: i64) {
        if let (Some((since, _)), Some(past)) = (self.claims.get_mut(&fence), Instant::now().checked_sub(LINGER)) {
            *since = past;
        }
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
