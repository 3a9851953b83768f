//! The scheduler role: apalis-cron gives the ticks, the database says what is due.

use std::fmt::Debug;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use apalis_core::error::BoxDynError;
use apalis_core::monitor::Monitor;
use apalis_core::task::data::Data;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_cron::{CronScheduler, Tick};
use causelist_core::{Clock, TenantId};
use cron::Schedule as TickSchedule;
use futures::future::BoxFuture;
use sqlx::PgPool;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::registry::Registry;
use crate::schedule::admin::ensure_defaults;
use crate::schedule::tick::tick;
use crate::wake::notify_ready;

/// Every second.
pub const TICK: &str = "* * * * * *";
/// How often new tenants are looked for, so that they get their schedules.
const TENANTS_EVERY: Duration = Duration::from_secs(30);

/// Gives the tenants that should have schedules: the queue does not know where tenants live.
pub type Tenants = dyn Fn() -> BoxFuture<'static, Result<Vec<TenantId>, sqlx::Error>> + Send + Sync;

/// A scheduler replica. Any number may run.
pub struct Scheduler {
    pool: PgPool,
    registry: Registry,
    clock: Arc<dyn Clock>,
    tenants: Box<Tenants>,
    /// When tenants were last looked for. Held during a tick: one at a time in a process.
    turn: Mutex<Option<std::time::Instant>>,
}

impl Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler")
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}

impl Scheduler {
    /// A scheduler over this database for the registry's kinds.
    #[must_use]
    pub fn new(pool: PgPool, registry: Registry, clock: Arc<dyn Clock>, tenants: Box<Tenants>) -> Self {
        Self {
            pool,
            registry,
            clock,
            tenants,
            turn: Mutex::new(None),
        }
    }

    /// One turn: schedules for new tenants now and then, and everything that is due. Errors are
    /// logged: the next tick tries again.
    pub async fn turn(&self) {
        // apalis starts a tick though the last one still runs: one is enough.
        let Ok(mut looked) = self.turn.try_lock() else { return };
        let now = self.clock.now();
        if looked.is_none_or(|at| at.elapsed() > TENANTS_EVERY) {
            let ensured = match (self.tenants)().await {
                Ok(tenants) => ensure_defaults(&self.pool, &self.registry, &tenants, now).await,
                Err(error) => Err(error),
            };
            match ensured {
                Ok(0) => *looked = Some(std::time::Instant::now()),
                Ok(made) => {
                    *looked = Some(std::time::Instant::now());
                    tracing::info!(schedules = made, "schedules made for new tenants");
                }
                Err(error) => tracing::warn!(%error, "could not look for new tenants"),
            }
        }
        match tick(&self.pool, &self.registry, now).await {
            Ok(ticked) => {
                if ticked.fired + ticked.misfired > 0 {
                    tracing::info!(fired = ticked.fired, misfired = ticked.misfired, "schedules fired");
                }
                for queue in &ticked.queues {
                    notify_ready(&self.pool, queue).await;
                }
                metrics::gauge!("causelist_scheduler_last_tick_timestamp_seconds").set(now.timestamp() as f64);
            }
            Err(error) => tracing::warn!(%error, "could not fire schedules"),
        }
    }

    /// Ticks every second until `shutdown` fires.
    ///
    /// # Errors
    /// When the tick source fails for good, which is a defect.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) -> Result<(), String> {
        let ticks = TickSchedule::from_str(TICK).map_err(|e| e.to_string())?;
        let monitor = Monitor::new()
            .register(move |_| {
                WorkerBuilder::new("scheduler")
                    .backend(CronScheduler::new(ticks.clone()))
                    .data(Arc::clone(&self))
                    .build(on_tick)
            })
            // After a standstill (a suspended machine) the tick source ends with OutOfRange.
            .should_restart(|_, _| true)
            .shutdown_timeout(Duration::from_secs(10));
        tracing::info!("scheduler started");
        monitor
            .run_with_signal(async move {
                shutdown.cancelled().await;
                Ok(())
            })
            .await
            .map_err(|e| e.to_string())
    }
}

async fn on_tick(_: Tick, scheduler: Data<Arc<Scheduler>>) -> Result<(), BoxDynError> {
    scheduler.turn().await;
    Ok(())
}
