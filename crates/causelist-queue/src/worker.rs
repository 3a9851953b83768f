//! A worker: an apalis worker over [`crate::backend`], its driver, and the upkeep beside them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apalis_core::monitor::Monitor;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::ext::parallelize::ParallelizeExt;
use causelist_core::Clock;
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::admit::{self, Gates};
use crate::backend::{PgBackend, RunService};
use crate::cx::States;
use crate::driver::{Driver, Shared};
use crate::lease::keep_leases;
use crate::quarantine::Quarantine;
use crate::registry::Registry;
use crate::retention::{self, Retention};
use crate::run::Runtime;
use crate::{upkeep, wake};

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// A name for people; the lease belongs to the process start, not to the name.
    pub name: String,
    /// The queues to take from, the first first.
    pub queues: Vec<String>,
    /// Jobs at the same time.
    pub concurrency: usize,
    /// Queues of which this worker has fewer in its hands at the same time, and how many.
    pub queue_concurrency: HashMap<String, usize>,
    /// Jobs claimed in one statement, at most.
    pub batch: usize,
    /// How long a claim holds without renewal; after a crash its jobs run again about then.
    pub lease: Duration,
    /// How often to look for jobs when nobody calls.
    pub poll: Duration,
    /// How long running jobs may go on after a shutdown was asked for.
    pub grace: Duration,
    /// Whether to listen for wake-ups; false behind a transaction pooler.
    pub listen: bool,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            name: "worker".into(),
            queues: vec!["default".into()],
            concurrency: 8,
            queue_concurrency: HashMap::new(),
            batch: 50,
            lease: Duration::from_secs(6),
            poll: Duration::from_secs(1),
            grace: Duration::from_secs(25),
            listen: true,
        }
    }
}

/// A worker, ready to run.
#[derive(Debug)]
pub struct Worker {
    id: Uuid,
    pool: PgPool,
    registry: Registry,
    states: States,
    clock: Arc<dyn Clock>,
    options: WorkerOptions,
    retention: Retention,
}

impl Worker {
    /// A worker over this database that knows the registry's kinds; `states` is what their jobs
    /// need.
    #[must_use]
    pub fn new(
        pool: PgPool,
        registry: Registry,
        states: States,
        clock: Arc<dyn Clock>,
        options: WorkerOptions,
    ) -> Self {
        Self {
            id: Uuid::new_v4(),
            pool,
            registry,
            states,
            clock,
            options,
            retention: Retention::default(),
        }
    }

    /// How long this worker keeps the fleet's history, if not for 30 days.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// The id of this process start, under which its claims and attempts are recorded.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Works until `shutdown` fires, then lets running jobs end within the grace period, gives back
    /// the others, and returns. A database that is away is waited for.
    ///
    /// # Errors
    /// When the worker's runtime fails, which is a defect.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), WorkerFailed> {
        let options = self.options.clone();
        let wake = Arc::new(Notify::new());
        let gates = Arc::new(Gates::default());
        let shared = Arc::new(Shared::new(
            options.concurrency,
            self.registry.batches(),
            Arc::clone(&wake),
            Arc::clone(&gates),
        ));
        let closing = CancellationToken::new();
        let halt = CancellationToken::new();
        // Ends what runs beside the driver, when the driver has ended.
        let over = CancellationToken::new();
        let driver = Driver {
            pool: self.pool.clone(),
            id: self.id,
            options: options.clone(),
            shared: Arc::clone(&shared),
            shutdown: shutdown.clone(),
            closing: closing.clone(),
        };
        // A set, so that it ends with this future when that is dropped: nobody would run what it claims.
        let mut driving = tokio::task::JoinSet::new();
        driving.spawn(driver.run());
        let mut beside = tokio::task::JoinSet::new();
        beside.spawn(keep_leases(
            self.pool.clone(),
            Arc::clone(&shared),
            options.lease,
            over.clone(),
        ));
        beside.spawn(keep_up(
            self.pool.clone(),
            options.clone(),
            Arc::clone(&wake),
            Arc::clone(&gates),
            over.clone(),
        ));
        beside.spawn(admit::keep_admitting(
            self.pool.clone(),
            options.queues.clone(),
            options.poll,
            Arc::clone(&gates),
            Arc::clone(&wake),
            over.clone(),
        ));
        beside.spawn(retention::keep(self.pool.clone(), self.retention.clone(), over.clone()));
        beside.spawn(keep_alive(
            self.pool.clone(),
            self.card(),
            options.lease,
            shutdown.clone(),
            over.clone(),
        ));
        if options.listen {
            beside.spawn(wake::listen(self.pool.clone(), Arc::clone(&wake), gates, over.clone()));
        }
        let runtime = Arc::new(Runtime {
            pool: self.pool.clone(),
            registry: self.registry.clone(),
            states: self.states.clone(),
            clock: Arc::clone(&self.clock),
            halt: halt.clone(),
            quarantine: Quarantine::default(),
        });
        let run = RunService {
            runtime,
            shared: Arc::clone(&shared),
        };
        let name = options.name.clone();
        let monitor = Monitor::new()
            .register(move |_| {
                WorkerBuilder::new(name.as_str())
                    .backend(PgBackend {
                        options: options.clone(),
                        shared: Arc::clone(&shared),
                        closing: closing.clone(),
                    })
                    // A task per bundle: without this one worker polls all its jobs on one task.
                    .parallelize(tokio::spawn)
                    .build(run.clone())
            })
            // The hard stop below comes first; this is for a layer that hangs.
            .shutdown_timeout(self.options.grace + Duration::from_secs(10));
        let grace = self.options.grace;
        let stop = shutdown.clone();
        beside.spawn(async move {
            stop.cancelled().await;
            tokio::time::sleep(grace).await;
            halt.cancel();
        });
        tracing::info!(worker = %self.id, queues = ?self.options.queues, concurrency = self.options.concurrency, "worker started");
        let ended = monitor
            .run_with_signal(async move {
                shutdown.cancelled().await;
                Ok(())
            })
            .await;
        // Had the worker failed by itself, the driver would wait for ever.
        if ended.is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(10), driving.join_next()).await;
        }
        driving.abort_all();
        over.cancel();
        beside.shutdown().await;
        let _ = sqlx::query("delete from causelist.worker where id = $1")
            .bind(self.id)
            .execute(&self.pool)
            .await;
        tracing::info!(worker = %self.id, "worker stopped");
        ended.map_err(|e| WorkerFailed(e.to_string()))
    }

    fn card(&self) -> Card {
        Card {
            id: self.id,
            name: self.options.name.clone(),
            queues: self.options.queues.clone(),
            kinds: self.registry.specs().map(|s| s.kind.to_owned()).collect(),
            slots: i32::try_from(self.options.concurrency).unwrap_or(i32::MAX),
        }
    }
}

/// The worker ended without having been asked to.
#[derive(Debug, thiserror::Error)]
#[error("the worker failed: {0}")]
pub struct WorkerFailed(String);

/// What the fleet knows of a worker.
struct Card {
    id: Uuid,
    name: String,
    queues: Vec<String>,
    kinds: Vec<String>,
    slots: i32,
}

/// Says three times per lease that the worker is alive.
async fn keep_alive(pool: PgPool, card: Card, lease: Duration, shutdown: CancellationToken, over: CancellationToken) {
    loop {
        let said = sqlx::query(
            "insert into causelist.worker (id, name, version, queues, kinds, slots)
             values ($1, $2, $3, $4, $5, $6)
             on conflict (id) do update set seen_at = now(), stopping = $7",
        )
        .bind(card.id)
        .bind(&card.name)
        .bind(env!("CARGO_PKG_VERSION"))
        .bind(&card.queues)
        .bind(&card.kinds)
        .bind(card.slots)
        .bind(shutdown.is_cancelled())
        .execute(&pool)
        .await;
        if let Err(error) = said {
            tracing::debug!(%error, "could not say that the worker is alive");
        }
        tokio::select! {
            () = over.cancelled() => return,
            () = tokio::time::sleep(lease / 3) => {}
        }
    }
}

/// Promotes and rescues at every poll, sweeps every hour.
async fn keep_up(pool: PgPool, options: WorkerOptions, wake: Arc<Notify>, gates: Arc<Gates>, over: CancellationToken) {
    let mut swept: Option<Instant> = None;
    loop {
        match upkeep::promote(&pool).await {
            Ok(queues) if queues.is_empty() => {}
            Ok(queues) => {
                for queue in &queues {
                    wake::notify_ready(&pool, queue).await;
                }
                wake.notify_one();
                gates.nudge();
            }
            Err(error) => tracing::warn!(%error, "could not promote scheduled jobs"),
        }
        match upkeep::rescue(&pool).await {
            Ok(rescued) if rescued.claims > 0 => {
                tracing::warn!(?rescued, "took over the jobs of workers whose lease had ended");
                gates.nudge();
                continue;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "could not rescue"),
        }
        if swept.is_none_or(|at| at.elapsed() > upkeep::SWEEP_EVERY) {
            swept = Some(Instant::now());
            let kept = crate::migrate::keep_partitions(&pool).await;
            let done = match kept {
                Ok(_) => upkeep::sweep(&pool).await,
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                tracing::warn!(%error, "could not look after partitions and old rows");
            }
        }
        tokio::select! {
            () = over.cancelled() => return,
            () = tokio::time::sleep(options.poll) => {}
        }
    }
}
