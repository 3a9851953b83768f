//! The admin port of each role: metrics and health.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use causelist_queue::{Registry, stats};
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use sqlx::PgPool;

/// What the admin port needs.
#[derive(Debug, Clone)]
pub struct AdminState {
    /// The database.
    pub pool: PgPool,
    /// The kinds, for their last success.
    pub registry: Registry,
    /// What renders the metrics.
    pub metrics: PrometheusHandle,
}

/// Run times from a millisecond to ten minutes: the five jobs are expected within 2 to 60 s.
const RUN_BUCKETS: [f64; 14] = [
    0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0,
];
/// Waiting times: from what an idle worker takes to pick up (2 ms) to an hour.
const WAIT_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0,
];

/// Installs the process's metrics recorder. Call it once, before anything is counted.
///
/// # Errors
/// When one is installed already.
pub fn install_metrics() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("causelist_job_run_seconds".into()), &RUN_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full("causelist_job_wait_seconds".into()), &WAIT_BUCKETS)?
        .set_buckets_for_metric(
            Matcher::Full("causelist_schedule_lateness_seconds".into()),
            &WAIT_BUCKETS,
        )?
        .install_recorder()?;
    describe();
    gauge!("causelist_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

fn describe() {
    describe_counter!("causelist_jobs_enqueued_total", "Jobs enqueued by this process");
    describe_counter!(
        "causelist_jobs_finished_total",
        "Attempts that ended in this process, by outcome"
    );
    describe_histogram!("causelist_job_run_seconds", Unit::Seconds, "How long attempts ran");
    describe_histogram!(
        "causelist_job_wait_seconds",
        Unit::Seconds,
        "How long jobs were ready before they were claimed"
    );
    describe_gauge!(
        "causelist_queue_depth",
        "Jobs of a queue by state; the same from every process"
    );
    describe_gauge!(
        "causelist_queue_oldest_ready_age_seconds",
        Unit::Seconds,
        "How long the oldest ready job waits"
    );
    describe_gauge!("causelist_dead_letters", "Jobs that gave up and wait for a person");
    describe_counter!(
        "causelist_leases_expired_total",
        "Claims taken over from workers that died"
    );
    describe_counter!(
        "causelist_stale_settles_total",
        "Settles refused since the lease had been lost"
    );
    describe_histogram!(
        "causelist_schedule_lateness_seconds",
        Unit::Seconds,
        "How long after its instant a schedule fired"
    );
    describe_gauge!(
        "causelist_schedule_last_success_timestamp_seconds",
        Unit::Seconds,
        "When a kind last ran well"
    );
    describe_gauge!(
        "causelist_scheduler_last_tick_timestamp_seconds",
        Unit::Seconds,
        "When this process's scheduler last ticked"
    );
    describe_counter!("causelist_notifications_total", "Messages by channel and outcome");
    describe_gauge!(
        "causelist_notifications_unknown",
        "Messages of which nobody knows whether they arrived"
    );
    describe_gauge!(
        "causelist_db_pool_connections",
        "Connections of this process's pool by state"
    );
    describe_gauge!("causelist_build_info", "1, with the version as a label");
}

/// The admin port.
pub fn admin_router(state: AdminState) -> Router {
    Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(state)
}

/// The process answers.
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// The database answers, with this version's schema.
async fn readyz(State(state): State<AdminState>) -> Response {
    let check = async {
        let mut db = state.pool.acquire().await.map_err(|e| e.to_string())?;
        let pending = causelist_queue::pending(&mut db).await.map_err(|e| e.to_string())?;
        if pending.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "{} migrations are pending: run causelist migrate",
                pending.len()
            ))
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(5), check)
        .await
        .unwrap_or_else(|_| Err("the database did not answer within 5 s".into()));
    match ended {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

async fn metrics_page(State(state): State<AdminState>) -> Response {
    let size = f64::from(state.pool.size());
    let idle = state.pool.num_idle() as f64;
    gauge!("causelist_db_pool_connections", "state" => "idle").set(idle);
    gauge!("causelist_db_pool_connections", "state" => "busy").set((size - idle).max(0.0));
    // Without the database the process's own figures are still worth having.
    match tokio::time::timeout(Duration::from_secs(3), fleet(&state)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the fleet's gauges could not be read"),
        Err(_) => tracing::warn!("the fleet's gauges took longer than 3 s"),
    }
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        state.metrics.render(),
    )
        .into_response()
}

async fn fleet(state: &AdminState) -> sqlx::Result<()> {
    for queue in stats::queues(&state.pool).await? {
        for (word, count) in [
            ("ready", queue.ready),
            ("waiting", queue.waiting),
            ("scheduled", queue.scheduled),
            ("running", queue.running),
        ] {
            gauge!("causelist_queue_depth", "queue" => queue.name.clone(), "state" => word).set(count as f64);
        }
        gauge!("causelist_queue_oldest_ready_age_seconds", "queue" => queue.name).set(queue.oldest_ready_seconds);
    }
    gauge!("causelist_dead_letters").set(stats::dead(&state.pool).await? as f64);
    let kinds: Vec<&str> = state.registry.specs().map(|s| s.kind).collect();
    for (kind, at) in stats::last_success(&state.pool, &kinds).await? {
        gauge!("causelist_schedule_last_success_timestamp_seconds", "kind" => kind).set(at);
    }
    let unknown: i64 = sqlx::query_scalar("select count(*) from causelist.message where state = 'unknown'")
        .fetch_one(&state.pool)
        .await?;
    gauge!("causelist_notifications_unknown").set(unknown as f64);
    Ok(())
}
