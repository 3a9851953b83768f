//! `causelist jobs`: look at jobs and act on them.

use causelist_core::Clock;
use causelist_queue::{CancelEffect, JobFilter, JobRecord, Progress, STATES};
use clap::Subcommand;
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use super::dead::{self, Act};
use super::error::Failure;
use super::out::{Out, or_dash, table, time};

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// List jobs, newest first
    List {
        /// Only this kind
        #[arg(long)]
        kind: Option<String>,
        /// Only this tenant's
        #[arg(long)]
        tenant: Option<Uuid>,
        /// Only in this state: ready, waiting, scheduled, running, waiting_children, done,
        /// discarded, cancelled, dead
        #[arg(long)]
        state: Option<String>,
        /// Only jobs before this id (the last one of the page before)
        #[arg(long)]
        before: Option<i64>,
        /// At most this many
        #[arg(long, default_value_t = 20)]
        limit: i64,
    },
    /// One job with its attempts
    Show {
        /// The job's id
        id: i64,
    },
    /// Stop a job: at once if it waits, through its worker if it runs; its children with it
    Cancel {
        /// The job's id
        id: i64,
    },
    /// List the dead letters by cause
    Dead {
        #[command(flatten)]
        filter: dead::FilterArgs,
        /// At most this many causes
        #[arg(long, default_value_t = 50)]
        limit: i64,
    },
    /// Take a dead letter back into its queue, or all that match
    ///
    /// Example: causelist jobs retry --dead --kind deliver-messages --older-than 1h --dry-run
    Retry(dead::ActArgs),
    /// Give up a dead letter for good, or all that match: discarded, it can't be retried
    ///
    /// Example: causelist jobs purge --dead --reason permanent --older-than 30d --dry-run
    Purge(dead::ActArgs),
}

/// Runs it.
///
/// # Errors
/// Bad input, no such job, or no database.
pub async fn run(pool: &PgPool, out: Out, clock: &dyn Clock, command: JobsCommand) -> Result<(), Failure> {
    match command {
        JobsCommand::List {
            kind,
            tenant,
            state,
            before,
            limit,
        } => {
            if let Some(state) = &state
                && !STATES.contains(&state.as_str())
            {
                return Err(Failure::input(format!(
                    "--state {state:?} is no state; there are {}",
                    STATES.join(", ")
                )));
            }
            if !(1..=1000).contains(&limit) {
                return Err(Failure::input(format!("--limit {limit}: must be between 1 and 1000")));
            }
            let filter = JobFilter {
                kind,
                tenant,
                state,
                before,
                limit,
            };
            let jobs = causelist_queue::list(&mut *pool.acquire().await?, &filter).await?;
            out.show(&jobs, |jobs| {
                if jobs.is_empty() {
                    "No such jobs.".into()
                } else {
                    list_text(jobs)
                }
            })?;
        }
        JobsCommand::Show { id } => {
            let (job, attempts) = causelist_queue::show(&mut *pool.acquire().await?, id)
                .await?
                .ok_or_else(|| unknown(id))?;
            let mut body = json!(job);
            body["attemptList"] = json!(attempts);
            out.show(&body, |_| {
                let mut text = format!(
                    "job       {}\nkind      {}\nstate     {}\nqueue     {}\ntenant    {}\nenqueued  {}\nargs      {}\n",
                    job.id, job.kind, job.state, job.queue, or_dash(job.tenant), time(Some(job.created_at)), job.args
                );
                if let Some(at) = job.run_at {
                    text.push_str(&format!("runs at   {}\n", time(Some(at))));
                }
                if let Some(parent) = job.parent {
                    text.push_str(&format!("parent    {parent}\n"));
                }
                if let Some(of) = &job.children {
                    text.push_str(&format!(
                        "children  {} open, {} done, {} discarded, {} cancelled, {} dead\n",
                        of.open, of.done, of.discarded, of.cancelled, of.dead
                    ));
                }
                if let Some(progress) = &job.progress {
                    text.push_str(&progress_text(progress));
                }
                if let Some(result) = &job.result {
                    text.push_str(&format!("result    {result}\n"));
                }
                let rows: Vec<_> = attempts
                    .iter()
                    .map(|a| vec![a.attempt.to_string(), a.outcome.clone(), time(a.started_at), time(Some(a.finished_at)), or_dash(a.error.as_ref())])
                    .collect();
                if !rows.is_empty() {
                    text.push('\n');
                    text.push_str(&table(&["ATTEMPT", "OUTCOME", "STARTED", "FINISHED", "ERROR"], &rows));
                }
                text.trim_end().to_owned()
            })?;
        }
        JobsCommand::Cancel { id } => {
            let effect = causelist_queue::cancel(pool, id).await?;
            let text = match effect {
                CancelEffect::Cancelled => format!("job {id} is cancelled"),
                CancelEffect::Requested => {
                    format!("job {id} is running, or has children that are; their workers were asked to stop them")
                }
                CancelEffect::Finished => return Err(Failure::Ran(format!("job {id} had finished already"))),
                CancelEffect::Unknown => return Err(unknown(id)),
            };
            out.show(&json!({ "id": id.to_string(), "effect": effect }), |_| text)?;
        }
        JobsCommand::Dead { filter, limit } => dead::causes(pool, out, clock, filter, limit).await?,
        JobsCommand::Retry(asked) => dead::act(pool, out, clock, Act::Retry, asked).await?,
        JobsCommand::Purge(asked) => dead::act(pool, out, clock, Act::Purge, asked).await?,
    }
    Ok(())
}

/// There is no job with this id.
pub(super) fn unknown(id: i64) -> Failure {
    Failure::Ran(format!("job {id} does not exist, or its history was dropped"))
}

/// `progress  3 of 8, at work (at <instant>)`, and the checkpoint.
fn progress_text(progress: &Progress) -> String {
    let mut text = String::new();
    if let Some(done) = progress.done {
        let of = progress.total.map_or_else(String::new, |total| format!(" of {total}"));
        let note = progress
            .note
            .as_ref()
            .map_or_else(String::new, |note| format!(", {note}"));
        text.push_str(&format!(
            "progress  {done}{of}{note} (at {})\n",
            time(Some(progress.at))
        ));
    }
    if let Some(checkpoint) = &progress.checkpoint {
        text.push_str(&format!("goes on   from {checkpoint}\n"));
    }
    text
}

fn list_text(jobs: &[JobRecord]) -> String {
    let rows: Vec<_> = jobs
        .iter()
        .map(|j| {
            vec![
                j.id.to_string(),
                j.kind.clone(),
                j.state.clone(),
                or_dash(j.tenant),
                time(Some(j.created_at)),
                j.attempts.to_string(),
                or_dash(j.error.as_ref()),
            ]
        })
        .collect();
    table(
        &["ID", "KIND", "STATE", "TENANT", "ENQUEUED", "ATTEMPTS", "ERROR"],
        &rows,
    )
}
