//! The roles a process can have: worker, scheduler, API, or all of them.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use causelist_api::{AdminState, ApiState, admin_router, router};
use causelist_queue::Worker;
use causelist_queue::schedule::Scheduler;
use futures::FutureExt;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::app::{self, App};
use crate::config::Config;

/// Which roles this process takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// Serves HTTP.
    pub api: bool,
    /// Runs jobs.
    pub worker: bool,
    /// Fires schedules.
    pub scheduler: bool,
}

impl Roles {
    /// Every role.
    pub const ALL: Self = Self {
        api: true,
        worker: true,
        scheduler: true,
    };
    /// Only the API.
    pub const API: Self = Self {
        api: true,
        worker: false,
        scheduler: false,
    };
    /// Only the worker.
    pub const WORKER: Self = Self {
        api: false,
        worker: true,
        scheduler: false,
    };
    /// Only the scheduler.
    pub const SCHEDULER: Self = Self {
        api: false,
        worker: false,
        scheduler: true,
    };
}

/// The ports of a process, bound but not served yet.
#[derive(Debug)]
pub struct Ports {
    /// The API's, if it is served.
    pub api: Option<TcpListener>,
    /// That of metrics and health.
    pub admin: TcpListener,
}

impl Ports {
    /// Binds what the roles need.
    ///
    /// # Errors
    /// When a port can't be had.
    pub async fn bind(config: &Config, roles: Roles) -> anyhow::Result<Self> {
        let admin = bind(&config.admin.listen, "admin.listen").await?;
        let api = match roles.api {
            true => Some(bind(&config.api.listen, "api.listen").await?),
            false => None,
        };
        Ok(Self { api, admin })
    }
}

/// Roles at work.
#[derive(Debug)]
pub struct Running {
    /// Where the API listens.
    pub api: Option<SocketAddr>,
    /// Where metrics and health are.
    pub admin: SocketAddr,
    tasks: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
}

/// Starts the roles on their ports. They work until `stop` is cancelled.
///
/// # Errors
/// When a port has no address.
pub fn start(
    app: &App,
    roles: Roles,
    ports: Ports,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<Running> {
    let mut tasks = JoinSet::new();
    let admin_at = ports.admin.local_addr()?;
    let state = AdminState {
        pool: app.pool.clone(),
        registry: app.registry.clone(),
        metrics,
    };
    serve(&mut tasks, ports.admin, admin_router(state), &stop);
    let mut api_at = None;
    if let Some(listener) = ports.api {
        api_at = Some(listener.local_addr()?);
        let state = ApiState::new(
            app.pool.clone(),
            app.registry.clone(),
            Arc::clone(&app.clock),
            app.config.api.wait_limit,
            app.config.api.body_limit_kib * 1024,
            app.tenant_known(),
        );
        serve(&mut tasks, listener, router(state), &stop);
    }
    if roles.worker {
        let worker = Worker::new(
            app.pool.clone(),
            app.registry.clone(),
            app.states.clone(),
            Arc::clone(&app.clock),
            app.worker_options(),
        )
        .retention(app::retention(&app.config));
        let stop = stop.clone();
        tasks.spawn(async move { Ok(worker.run(stop).await?) });
    }
    if roles.scheduler {
        let (pool, host) = (app.pool.clone(), Arc::clone(&app.host));
        let tenants = move || {
            let (pool, host) = (pool.clone(), Arc::clone(&host));
            async move { host.active_tenants(&mut *pool.acquire().await?).await }.boxed()
        };
        let scheduler = Arc::new(Scheduler::new(
            app.pool.clone(),
            app.registry.clone(),
            Arc::clone(&app.clock),
            Box::new(tenants),
        ));
        let stop = stop.clone();
        tasks.spawn(async move { scheduler.run(stop).await.map_err(anyhow::Error::msg) });
    }
    Ok(Running {
        api: api_at,
        admin: admin_at,
        tasks,
        stop,
    })
}

async fn bind(address: &str, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("{key} {address} can't be listened on; choose another address or port (0: a free one)")
    })
}

fn serve(tasks: &mut JoinSet<anyhow::Result<()>>, listener: TcpListener, app: axum::Router, stop: &CancellationToken) {
    let stop = stop.clone().cancelled_owned();
    tasks.spawn(async move { Ok(axum::serve(listener, app).with_graceful_shutdown(stop).await?) });
}

impl Running {
    /// Works until the token given at the start is cancelled or a role fails, then ends all of them
    /// in good order.
    ///
    /// # Errors
    /// When a role failed.
    pub async fn until_stopped(mut self) -> anyhow::Result<()> {
        let first = tokio::select! {
            biased;
            () = self.stop.cancelled() => Ok(()),
            ended = self.tasks.join_next() => match ended {
                Some(Ok(Ok(()))) | None => Err(anyhow::anyhow!("a role ended by itself")),
                Some(Ok(Err(error))) => Err(error),
                Some(Err(error)) => Err(error.into()),
            },
        };
        tracing::info!("stopping: running jobs end, the others go back to their queues");
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok(Err(error)) = ended {
                tracing::error!(error = format!("{error:#}"), "a role did not end well");
            }
        }
        first
    }
}

/// A token that Ctrl-C and SIGTERM cancel. Make it before anything that takes time: from here on
/// neither of them ends the process by itself.
///
/// # Errors
/// When signals can't be listened for.
pub fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        asked.cancel();
    });
    Ok(stop)
}
