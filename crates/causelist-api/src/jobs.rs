//! A job's address.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::auth::authenticate;
use crate::problem::Problem;
use crate::router::ApiState;

/// `GET /api/v1/jobs/{id}`. Another tenant's job is not there, as far as this caller can tell.
pub(crate) async fn show(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    let caller = authenticate(&state.pool, &headers)
        .await?
        .ok_or_else(Problem::unauthorized)?;
    let missing = || {
        Problem::new(
            StatusCode::NOT_FOUND,
            "no-such-job",
            format!("job {id:?} does not exist"),
        )
    };
    let number: i64 = id.parse().map_err(|_| missing())?;
    let mut db = state.pool.acquire().await?;
    let (job, attempts) = causelist_queue::show(&mut db, number).await?.ok_or_else(missing)?;
    if caller.tenant.is_some() && caller.tenant != job.tenant {
        return Err(missing());
    }
    let mut body = json!(job);
    body["attemptList"] = json!(attempts);
    Ok(Json(body))
}
