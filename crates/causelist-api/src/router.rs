//! What is served where.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderName, Method, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use causelist_core::{Clock, TenantId};
use causelist_queue::Registry;
use futures::future::BoxFuture;
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{Any, CorsLayer};

use crate::problem::Problem;
use crate::{admin, functions, jobs};

/// Function calls that may wait for their result at the same time; one more gets 429.
const WAITING_MAX: usize = 64;

/// Says whether the host has an active tenant of this id: the API does not know where tenants live.
pub type TenantKnown = dyn Fn(TenantId) -> BoxFuture<'static, Result<bool, sqlx::Error>> + Send + Sync;

/// What the handlers need.
#[derive(Clone)]
pub struct ApiState {
    pub(crate) pool: PgPool,
    pub(crate) registry: Registry,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long a function call waits before it answers 202.
    pub(crate) wait_limit: Duration,
    pub(crate) waiting: Arc<Semaphore>,
    /// The largest body, in bytes.
    pub(crate) body_limit: usize,
    pub(crate) tenant_known: Arc<TenantKnown>,
}

impl std::fmt::Debug for ApiState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiState")
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}

impl ApiState {
    /// An API over this database, for the registry's kinds.
    #[must_use]
    pub fn new(
        pool: PgPool,
        registry: Registry,
        clock: Arc<dyn Clock>,
        wait_limit: Duration,
        body_limit: usize,
        tenant_known: Arc<TenantKnown>,
    ) -> Self {
        Self {
            pool,
            registry,
            clock,
            wait_limit,
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            body_limit,
            tenant_known,
        }
    }
}

/// The public port.
pub fn router(state: ApiState) -> Router {
    // Browsers of the host application call the functions; the key, not the origin, is what counts.
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::POST, Method::OPTIONS])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("x-api-key"),
            HeaderName::from_static("x-client-info"),
            HeaderName::from_static("apikey"),
        ])
        .max_age(Duration::from_secs(3600));
    let functions = Router::new()
        .route("/functions/v1/{kind}", post(functions::call))
        .layer(cors);
    Router::new()
        .route("/", get(index))
        .route("/api/v1/jobs/{id}", get(jobs::show))
        .route("/healthz", get(admin::healthz))
        .merge(functions)
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(state.body_limit))
        .layer(CatchPanicLayer::new())
        .with_state(state)
}

async fn index(State(state): State<ApiState>) -> impl IntoResponse {
    let functions: Vec<_> = state
        .registry
        .specs()
        .filter(|s| state.registry.is_planned(s.kind))
        .map(|s| serde_json::json!({ "name": s.display_name, "does": s.description, "call": format!("POST /functions/v1/{}", s.kind) }))
        .collect();
    Json(serde_json::json!({
        "service": "causelist",
        "version": env!("CARGO_PKG_VERSION"),
        "functions": functions,
        "run": "GET /api/v1/jobs/{id}",
        "health": "GET /healthz",
    }))
}

async fn not_found(uri: axum::http::Uri) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "not-found",
        format!("there is nothing at {}", uri.path()),
    )
}
