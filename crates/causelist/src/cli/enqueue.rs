//! `causelist enqueue` and `causelist run`.

use std::time::Duration;

use causelist_core::{Clock, RunArgs};
use causelist_gst::Host;
use causelist_queue::{Hold, JobRecord, Limits, NewJob, Registry, stats};
use chrono::{DateTime, Utc};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use super::error::Failure;
use super::out::Out;
use crate::words::sentence;

/// A job of any kind.
#[derive(Debug, Args)]
pub struct EnqueueArgs {
    /// The kind, such as deliver-messages
    kind: String,
    /// Its arguments, a JSON object
    #[arg(default_value = "{}")]
    args: String,
    /// The tenant it belongs to
    #[arg(long)]
    tenant: Option<Uuid>,
    /// The queue (default: the kind's own)
    #[arg(long)]
    queue: Option<String>,
    /// Lower runs first
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i16>,
    /// Not before this instant, such as 2026-11-23T08:00:00+05:30
    #[arg(long, value_parser = instant)]
    run_at: Option<DateTime<Utc>>,
    /// An idempotency key: while a job with the same kind, tenant and key is unfinished, it stands for this one
    #[arg(long)]
    key: Option<String>,
    /// Hold the key for ever instead
    #[arg(long, requires = "key")]
    key_for_ever: bool,
    /// Enqueue a kind that this binary does not know, for another worker
    #[arg(long)]
    unknown_kind: bool,
}

/// Enqueues a job.
///
/// # Errors
/// Bad input (nothing is written), or no database.
pub async fn enqueue(
    pool: &PgPool,
    out: Out,
    registry: &Registry,
    limits: Limits,
    clock: &dyn Clock,
    asked: EnqueueArgs,
) -> Result<(), Failure> {
    let args: Value = serde_json::from_str(&asked.args)
        .map_err(|e| Failure::input(format!("the arguments {:?} are not JSON: {e}", short(&asked.args))))?;
    let mut job = match registry.spec(&asked.kind) {
        Some(spec) => {
            if registry.is_planned(spec.kind)
                && let Ok(run) = RunArgs::deserialize(&args)
            {
                run.check(clock.now()).map_err(Failure::input)?;
            }
            registry.check_args(spec.kind, &args).map_err(|e| {
                Failure::input(format!(
                    "kind {} does not take the arguments {}: {e}",
                    spec.kind,
                    short(&asked.args)
                ))
            })?;
            NewJob::with_spec(spec, args)
        }
        None if asked.unknown_kind => NewJob::raw(&asked.kind, args),
        None => return Err(unknown_kind(&asked.kind, registry)),
    };
    job = job.tenant(asked.tenant).run_at(asked.run_at);
    if let Some(queue) = &asked.queue {
        job = job.queue(queue);
    }
    if let Some(priority) = asked.priority {
        job = job.priority(priority);
    }
    if let Some(key) = &asked.key {
        job = job.key_held(key, if asked.key_for_ever { Hold::Ever } else { Hold::While });
    }
    job.check(limits)?;
    let queue = job.queue_name().to_owned();
    let made = causelist_queue::enqueue(&mut *pool.acquire().await?, job).await?;
    causelist_queue::notify_enqueued(pool, &queue, &made).await;
    out.show(&made, |made| {
        if made.duplicate {
            format!("job {} has this key already; nothing was enqueued", made.id)
        } else {
            format!("enqueued job {}", made.id)
        }
    })?;
    Ok(())
}

/// A run of one of the planned jobs.
#[derive(Debug, Args)]
pub struct RunCommand {
    /// The job, such as check-sla-and-overdue
    kind: String,
    /// Only this tenant (default: every active one)
    #[arg(long)]
    tenant: Option<Uuid>,
    /// The instant at which the run pretends to happen, such as 2026-11-23T08:00:00+05:30 (default: now)
    #[arg(long, value_parser = instant)]
    as_of: Option<DateTime<Utc>>,
    /// Say what would happen and change nothing; waits for the answer
    #[arg(long)]
    dry_run: bool,
    /// Wait for the result
    #[arg(long)]
    wait: bool,
    /// How long to wait, in seconds
    #[arg(long, default_value_t = 120)]
    timeout: u64,
}

/// Runs a planned job through the queue.
///
/// # Errors
/// Bad input, no worker to wait for, a run that ended badly, or no database.
pub async fn run(
    pool: &PgPool,
    out: Out,
    registry: &Registry,
    host: &Host,
    clock: &dyn Clock,
    asked: RunCommand,
) -> Result<(), Failure> {
    let spec = registry
        .spec(&asked.kind)
        .filter(|s| registry.is_planned(s.kind))
        .ok_or_else(|| match registry.spec(&asked.kind) {
            Some(_) => Failure::input(format!(
                "kind {:?} is not one of the practice's jobs that can be run as of an instant: use `causelist enqueue`",
                asked.kind
            )),
            None => unknown_kind(&asked.kind, registry),
        })?;
    let args = RunArgs {
        executed_at: Some(asked.as_of.unwrap_or_else(|| clock.now())),
        dry_run: asked.dry_run,
    };
    args.check(clock.now()).map_err(Failure::input)?;
    if let Some(tenant) = asked.tenant
        && !host.is_active_tenant(&mut *pool.acquire().await?, tenant).await?
    {
        return Err(Failure::input(format!(
            "--tenant {tenant} is not among the active tenants"
        )));
    }
    let wait = asked.wait || asked.dry_run;
    if wait && !stats::is_served(pool, spec.queue).await? {
        return Err(Failure::Ran(format!(
            "no worker takes jobs from queue {:?}, so there is nothing to wait for; nothing was enqueued. Start one: causelist worker",
            spec.queue
        )));
    }
    let job = NewJob::with_spec(spec, json!(args)).tenant(asked.tenant);
    let made = causelist_queue::enqueue(&mut *pool.acquire().await?, job).await?;
    causelist_queue::notify_enqueued(pool, spec.queue, &made).await;
    if !wait {
        out.show(&made, |made| {
            format!(
                "enqueued job {}; `causelist jobs show {}` tells how it goes",
                made.id, made.id
            )
        })?;
        return Ok(());
    }
    let (job, _) = causelist_queue::wait_until_finished(pool, made.id, Duration::from_secs(asked.timeout))
        .await?
        .ok_or_else(|| {
            Failure::Ran(format!(
                "job {} had not finished after {} s; it goes on",
                made.id, asked.timeout
            ))
        })?;
    if job.state != "done" {
        return Err(Failure::Ran(format!(
            "{} ended as {}: {}",
            spec.display_name,
            job.state,
            job.error.as_deref().unwrap_or("no reason was recorded")
        )));
    }
    out.show(&job, |job| {
        format!("{} (job {})\n{}", spec.display_name, job.id, result_text(job))
    })?;
    Ok(())
}

/// A result as a sentence and the counts in it, then per tenant and in detail as JSON.
pub fn result_text(job: &JobRecord) -> String {
    let Some(result) = &job.result else {
        return "  done".into();
    };
    let mut lines: Vec<String> = sentence(&job.kind, result)
        .map(|s| format!("  {s}"))
        .into_iter()
        .collect();
    let detail = result.get("plan").unwrap_or(result);
    if lines.is_empty() || result.get("plan").is_some() {
        lines.push(serde_json::to_string_pretty(detail).unwrap_or_default());
    }
    if let Some(reason) = result.get("auditSkipped").and_then(Value::as_str) {
        lines.push(format!("  no row in the host's audit log: {reason}"));
    }
    lines.join("\n")
}

fn unknown_kind(kind: &str, registry: &Registry) -> Failure {
    let known: Vec<_> = registry.specs().map(|s| s.kind).collect();
    Failure::input(format!(
        "kind {:?} is not known; there are {}",
        short(kind),
        known.join(", ")
    ))
}

/// An instant on the command line.
pub fn instant(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|at| at.with_timezone(&Utc))
        .map_err(|_| "is no instant with date, time and zone, such as 2026-11-23T08:00:00+05:30".to_owned())
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}
