//! `POST /functions/v1/{kind}`: the seed's interface. The run goes through the queue; the call waits
//! for its result.

use std::time::Instant;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use causelist_core::{RunArgs, TenantId};
use causelist_queue::{EnqueueError, JobRecord, NewJob};
use chrono::{DateTime, SecondsFormat, SubsecRound, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::auth::authenticate;
use crate::router::ApiState;

/// What a call may say; all of it is optional, so is the body.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Request {
    executed_at: Option<DateTime<Utc>>,
    tenant: Option<TenantId>,
    #[serde(default)]
    dry_run: bool,
}

/// A failure in the seed's shape.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    error: &'static str,
    details: String,
}

impl Failure {
    fn new(status: StatusCode, error: &'static str, details: impl Into<String>) -> Self {
        Self {
            status,
            error,
            details: details.into(),
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        tracing::error!(%error, "a function call failed at the database");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Database unavailable",
            "the database could not be used; try again",
        )
    }
}

/// Runs a job and answers with its result; 202 with the job's address when it takes longer than the
/// limit.
pub(crate) async fn call(
    State(state): State<ApiState>,
    Path(kind): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let now = state.clock.now().trunc_subsecs(3);
    run(&state, &kind, &headers, body, now).await.unwrap_or_else(|failure| {
        let body = json!({
            "success": false,
            "job": kind,
            "error": failure.error,
            "errorDetails": failure.details,
            "executedAt": instant(now),
        });
        (failure.status, axum::Json(body)).into_response()
    })
}

async fn run(
    state: &ApiState,
    kind: &str,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    now: DateTime<Utc>,
) -> Result<Response, Failure> {
    let caller = authenticate(&state.pool, headers).await?.ok_or_else(|| {
        Failure::new(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            "no valid API key: send it as `Authorization: Bearer <key>` or `x-api-key: <key>`",
        )
    })?;
    let spec = state
        .registry
        .spec(kind)
        .filter(|_| state.registry.is_planned(kind))
        .ok_or_else(|| {
            let known: Vec<_> = state
                .registry
                .specs()
                .map(|s| s.kind)
                .filter(|k| state.registry.is_planned(k))
                .collect();
            Failure::new(
                StatusCode::NOT_FOUND,
                "Not found",
                format!("there is no function {kind:?}; there are {}", known.join(", ")),
            )
        })?;
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "Payload too large",
            format!("the body is larger than {} bytes", state.body_limit),
        ),
        _ => Failure::new(StatusCode::BAD_REQUEST, "Bad request", rejection.body_text()),
    })?;
    let request = read(&body, now)?;
    let tenant = match (caller.tenant, request.tenant) {
        (Some(own), Some(asked)) if own != asked => {
            return Err(Failure::new(
                StatusCode::NOT_FOUND,
                "Not found",
                format!("there is no tenant {asked} for this key"),
            ));
        }
        (own, asked) => own.or(asked),
    };
    if let Some(tenant) = tenant
        && !(state.tenant_known)(tenant).await?
    {
        return Err(Failure::new(
            StatusCode::NOT_FOUND,
            "Not found",
            format!("tenant {tenant} is not among the active tenants"),
        ));
    }
    let Ok(_place) = state.waiting.try_acquire() else {
        return Err(Failure::new(
            StatusCode::TOO_MANY_REQUESTS,
            "Too many requests",
            "too many runs are waiting for their result; try again",
        ));
    };
    if !causelist_queue::stats::is_served(&state.pool, spec.queue).await? {
        return Err(Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "No worker",
            format!(
                "no worker takes jobs from queue {:?}; nothing was enqueued. Start one: causelist worker",
                spec.queue
            ),
        ));
    }
    let executed_at = request.executed_at.unwrap_or(now);
    let args = json!(RunArgs {
        executed_at: Some(executed_at),
        dry_run: request.dry_run
    });
    let begun = Instant::now();
    let mut db = state.pool.acquire().await?;
    let made = causelist_queue::enqueue(&mut db, NewJob::with_spec(spec, args).tenant(tenant))
        .await
        .map_err(|e| match e {
            EnqueueError::Database(e) => Failure::from(e),
            other => Failure::new(StatusCode::BAD_REQUEST, "Bad request", other.to_string()),
        })?;
    drop(db);
    causelist_queue::notify_enqueued(&state.pool, spec.queue, &made).await;
    let finished = causelist_queue::wait_until_finished(&state.pool, made.id, state.wait_limit).await?;
    Ok(match finished {
        Some((job, _)) => finished_answer(&job, executed_at, begun.elapsed().as_secs_f64()),
        None => accepted(made.id, kind, executed_at),
    })
}

fn read(body: &[u8], now: DateTime<Utc>) -> Result<Request, Failure> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Request::default());
    }
    let bad = |details: String| Failure::new(StatusCode::BAD_REQUEST, "Bad request", details);
    let value: Value = serde_json::from_slice(body).map_err(|e| bad(format!("the body is not JSON: {e}")))?;
    if !value.is_object() {
        return Err(bad(
            "the body must be a JSON object, such as {\"executedAt\": \"2025-01-15T10:30:00Z\"}".into(),
        ));
    }
    let request = Request::deserialize(&value).map_err(|e| {
        let wrong = ["executedAt", "tenant", "dryRun"]
            .iter()
            .filter_map(|f| value.get(*f).map(|v| format!("{f} = {}", short(v))))
            .collect::<Vec<_>>()
            .join(", ");
        bad(format!("{e}; got {wrong}"))
    })?;
    RunArgs {
        executed_at: request.executed_at,
        dry_run: request.dry_run,
    }
    .check(now)
    .map_err(bad)?;
    Ok(request)
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(60).collect()
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

fn finished_answer(job: &JobRecord, executed_at: DateTime<Utc>, seconds: f64) -> Response {
    if job.state != "done" {
        let body = json!({
            "success": false,
            "job": job.kind,
            "error": format!("The run ended as {}", job.state),
            "errorDetails": job.error,
            "executedAt": instant(executed_at),
            "runId": job.id.to_string(),
        });
        return (StatusCode::INTERNAL_SERVER_ERROR, axum::Json(body)).into_response();
    }
    let results = job.result.clone().unwrap_or_else(|| json!({}));
    // The seed's API reference shows a job's own fields at the top level too.
    let mut body: Map<String, Value> = results.as_object().cloned().unwrap_or_default();
    body.extend([
        ("success".to_owned(), json!(true)),
        ("job".to_owned(), json!(job.kind)),
        ("executedAt".to_owned(), json!(instant(executed_at))),
        ("executionTime".to_owned(), json!(format!("{seconds:.1}s"))),
        ("runId".to_owned(), json!(job.id.to_string())),
        ("results".to_owned(), results),
    ]);
    axum::Json(body).into_response()
}

fn accepted(id: i64, kind: &str, executed_at: DateTime<Utc>) -> Response {
    let address = format!("/api/v1/jobs/{id}");
    let body = json!({
        "success": true,
        "job": kind,
        "status": "running",
        "executedAt": instant(executed_at),
        "runId": id.to_string(),
        "location": address,
    });
    let mut answer = (StatusCode::ACCEPTED, axum::Json(body)).into_response();
    if let Ok(value) = HeaderValue::from_str(&address) {
        answer.headers_mut().insert(header::LOCATION, value);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> (u16, String) {
        let failure = read(body.as_bytes(), DateTime::UNIX_EPOCH).expect_err("must be refused");
        (failure.status.as_u16(), failure.details)
    }

    #[test]
    fn an_empty_body_means_now() {
        for body in ["", "  \n", "{}"] {
            let request = read(body.as_bytes(), DateTime::UNIX_EPOCH).expect("is fine");
            assert!(request.executed_at.is_none() && request.tenant.is_none() && !request.dry_run);
        }
    }

    #[test]
    fn bad_bodies_are_refused_and_named() {
        assert!(refused("{oops").1.contains("not JSON"));
        assert!(refused("[1]").1.contains("must be a JSON object"));
        assert!(
            refused(r#"{"executedAt": "yesterday"}"#)
                .1
                .contains("executedAt = \"yesterday\"")
        );
        assert!(refused(r#"{"executedAt": 5}"#).1.contains("executedAt = 5"));
        assert!(refused(r#"{"dryRun": "yes"}"#).1.contains("dryRun = \"yes\""));
        assert!(refused(r#"{"tenant": "acme"}"#).1.contains("tenant = \"acme\""));
        assert!(
            refused(r#"{"executeAt": "2025-01-15T10:30:00Z"}"#)
                .1
                .contains("executeAt")
        );
        assert!(
            refused(r#"{"executedAt": "0001-01-15T10:30:00Z"}"#)
                .1
                .contains("between 2000 and 2100")
        );
        assert_eq!(refused("[1]").0, 400);
    }
}
