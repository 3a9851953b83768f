//! `causelist jobs dead`, `retry` and `purge`: dead letters, one by one and by filter.

use std::time::Duration;

use causelist_core::Clock;
use causelist_queue::{
    DEAD_REASONS, DeadCause, DeadFilter, count_dead, dead_causes, notify_ready, purge_dead, retry_dead,
};
use clap::Args;
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::error::Failure;
use super::jobs::unknown;
use super::out::{Out, table, time};
use crate::config::parse_duration;

/// The most dead letters that one command acts on.
const MOST: i64 = 100_000;
/// How many causes a preview shows, and refused jobs a report.
const SHOWN: usize = 20;

/// Which dead letters.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Only this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<Uuid>,
    /// Only with this reason: attempts, permanent, crashed, uncertain
    #[arg(long)]
    reason: Option<String>,
    /// Only those whose error contains this, in any letter case
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Only those that died longer ago than this, such as 1h
    #[arg(long, value_name = "TIME")]
    older_than: Option<String>,
    /// Only those that died since, such as 30m
    #[arg(long, value_name = "TIME")]
    newer_than: Option<String>,
}

impl FilterArgs {
    fn filter(self, clock: &dyn Clock) -> Result<DeadFilter, Failure> {
        if let Some(reason) = &self.reason
            && !DEAD_REASONS.contains(&reason.as_str())
        {
            return Err(Failure::input(format!(
                "--reason {reason:?} is no reason; there are {}",
                DEAD_REASONS.join(", ")
            )));
        }
        let ago = |flag: &str, text: Option<String>| {
            text.map(|text| {
                parse_duration(&text)
                    .and_then(|d: Duration| chrono::Duration::from_std(d).ok())
                    .and_then(|d| clock.now().checked_sub_signed(d))
                    .ok_or_else(|| {
                        Failure::input(format!(
                            "{flag} {text:?}: must be a whole number with s, m, h or d, such as 1h"
                        ))
                    })
            })
            .transpose()
        };
        Ok(DeadFilter {
            ids: Vec::new(),
            kind: self.kind,
            tenant: self.tenant,
            reason: self.reason,
            error: self.error,
            before: ago("--older-than", self.older_than)?,
            after: ago("--newer-than", self.newer_than)?,
        })
    }
}

/// One job, or all dead letters that match.
#[derive(Debug, Args)]
pub struct ActArgs {
    /// The job's id
    #[arg(conflicts_with = "dead")]
    id: Option<i64>,
    /// All dead letters that match, the oldest first
    #[arg(long)]
    dead: bool,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only show how many they are, and why they died
    #[arg(long)]
    dry_run: bool,
    /// At most this many
    #[arg(long, default_value_t = 1000)]
    limit: i64,
}

/// What to do with dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Take them back into their queues.
    Retry,
    /// Give them up for good.
    Purge,
}

/// Lists the dead letters by cause.
///
/// # Errors
/// Bad input, or no database.
pub async fn causes(pool: &PgPool, out: Out, clock: &dyn Clock, asked: FilterArgs, limit: i64) -> Result<(), Failure> {
    if !(1..=1000).contains(&limit) {
        return Err(Failure::input(format!("--limit {limit}: must be between 1 and 1000")));
    }
    let filter = asked.filter(clock)?;
    let causes = dead_causes(&mut *pool.acquire().await?, &filter, limit).await?;
    out.show(&causes, |causes| {
        if causes.is_empty() {
            "No such dead letters.".into()
        } else {
            causes_text(causes)
        }
    })?;
    Ok(())
}

/// Retries or purges.
///
/// # Errors
/// Bad input, no such dead letter, or no database.
pub async fn act(pool: &PgPool, out: Out, clock: &dyn Clock, act: Act, asked: ActArgs) -> Result<(), Failure> {
    if !(1..=MOST).contains(&asked.limit) {
        return Err(Failure::input(format!(
            "--limit {}: must be between 1 and {MOST}",
            asked.limit
        )));
    }
    let filter = asked.filter.filter(clock)?;
    let mut db = pool.acquire().await?;
    match asked.id {
        Some(_) if filter != DeadFilter::default() || asked.dry_run => Err(Failure::input(
            "a job's id and a filter or --dry-run don't go together: say --dead for all that match",
        )),
        None if !asked.dead => Err(Failure::input(
            "which dead letter? Give a job's id, or --dead for all that match the filter",
        )),
        // It can't be undone: nobody should purge everything by leaving something out.
        None if act == Act::Purge && filter == DeadFilter::default() => Err(Failure::input(
            "purge --dead needs to know which: give --kind, --tenant, --reason, --error, --older-than or --newer-than (--older-than 0s is all of them)",
        )),
        Some(id) => one(pool, &mut db, out, act, id).await,
        None if asked.dry_run => preview(&mut db, out, act, &filter, asked.limit).await,
        None => many(pool, &mut db, out, act, &filter, asked.limit).await,
    }
}

async fn one(pool: &PgPool, db: &mut PgConnection, out: Out, act: Act, id: i64) -> Result<(), Failure> {
    let filter = DeadFilter::job(id);
    let (effect, text) = match act {
        Act::Retry => {
            let done = retry_dead(db, &filter, 1).await?;
            if let Some(refused) = done.refused.first() {
                let holder = refused.holder.map_or_else(String::new, |h| format!(", job {h},"));
                return Err(Failure::Ran(format!(
                    "job {id} stays dead: another job{holder} holds its key now; cancel that one, or purge this one"
                )));
            }
            for queue in &done.queues {
                notify_ready(pool, queue).await;
            }
            ((!done.jobs.is_empty()).then_some("ready"), "is back in its queue")
        }
        Act::Purge => {
            let gone = purge_dead(db, &filter, 1, "the command line").await?;
            ((!gone.is_empty()).then_some("discarded"), "is purged")
        }
    };
    let Some(effect) = effect else {
        let (job, _) = causelist_queue::show(db, id).await?.ok_or_else(|| unknown(id))?;
        let verb = if act == Act::Retry { "retried" } else { "purged" };
        return Err(Failure::Ran(format!(
            "job {id} is {}: only a dead job can be {verb}",
            job.state
        )));
    };
    out.show(&json!({ "id": id.to_string(), "effect": effect }), |_| {
        format!("job {id} {text}")
    })?;
    Ok(())
}

async fn preview(db: &mut PgConnection, out: Out, act: Act, filter: &DeadFilter, limit: i64) -> Result<(), Failure> {
    let matching = count_dead(db, filter).await?;
    let causes = dead_causes(db, filter, 1000).await?;
    let would = matching.min(limit);
    let body = json!({ "dryRun": true, "matching": matching, "wouldAct": would, "causes": causes });
    out.show(&body, |_| {
        let verb = if act == Act::Retry { "taken back" } else { "purged" };
        let mut text = format!("{would} of {matching} matching dead letters would be {verb}.");
        if !causes.is_empty() {
            text.push_str("\n\n");
            text.push_str(&causes_text(&causes[..causes.len().min(SHOWN)]));
        }
        if causes.len() > SHOWN {
            text.push_str("\nand other causes: `causelist jobs dead` lists them");
        }
        text
    })?;
    Ok(())
}

async fn many(
    pool: &PgPool,
    db: &mut PgConnection,
    out: Out,
    act: Act,
    filter: &DeadFilter,
    limit: i64,
) -> Result<(), Failure> {
    if act == Act::Purge {
        let gone = purge_dead(db, filter, limit, "the command line").await?;
        let left = count_dead(db, filter).await?;
        out.show(&json!({ "purged": gone.len(), "left": left }), |_| {
            format!("{} dead letters purged; {left} that match are left", gone.len())
        })?;
        return Ok(());
    }
    let done = retry_dead(db, filter, limit).await?;
    for queue in &done.queues {
        notify_ready(pool, queue).await;
    }
    let left = count_dead(db, filter).await?;
    let body = json!({ "retried": done.jobs.len(), "refused": done.refused, "left": left });
    out.show(&body, |_| {
        let mut text = format!(
            "{} dead letters are back in their queues; {left} that match are left",
            done.jobs.len()
        );
        if !done.refused.is_empty() {
            text.push_str(&format!(
                "\n{} stay dead, since another job holds their key now:",
                done.refused.len()
            ));
        }
        for refused in done.refused.iter().take(SHOWN) {
            let holder = refused.holder.map_or_else(|| "-".to_owned(), |h| h.to_string());
            text.push_str(&format!("\n  job {}: held by job {holder}", refused.id));
        }
        if done.refused.len() > SHOWN {
            text.push_str("\n  …; --json lists all");
        }
        text
    })?;
    Ok(())
}

fn causes_text(causes: &[DeadCause]) -> String {
    let rows: Vec<_> = causes
        .iter()
        .map(|c| {
            vec![
                c.jobs.to_string(),
                c.kind.clone(),
                c.reason.clone(),
                time(Some(c.first)),
                time(Some(c.last)),
                c.example.to_string(),
                c.error.clone(),
            ]
        })
        .collect();
    table(
        &["JOBS", "KIND", "REASON", "FIRST", "LAST", "NEWEST JOB", "ERROR"],
        &rows,
    )
}
