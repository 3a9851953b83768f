//! `causelist queues`: what waits where; make, pause and resume queues, limit jobs.

use causelist_queue::fair::set_fair;
use causelist_queue::queues::{self, QueueError};
use causelist_queue::stats;
use clap::{Subcommand, ValueEnum};
use serde_json::json;
use sqlx::PgPool;

use super::error::Failure;
use super::limits::{self, LimitsCommand};
use super::out::{Out, table};

/// What to do with queues.
#[derive(Debug, Subcommand)]
pub enum QueuesCommand {
    /// List queues, with what is in them
    List,
    /// Let a queue rest: what runs goes on, nothing more is taken from it
    Pause {
        /// The queue's name
        name: String,
    },
    /// Let a paused queue go on
    Resume {
        /// The queue's name
        name: String,
    },
    /// Make a queue; workers take from it once worker.queues names it
    Create {
        /// Its name
        name: String,
        /// Tenants take turns in it
        #[arg(long)]
        fair: bool,
    },
    /// Let tenants take turns in a queue, or not
    Fair {
        /// The queue's name
        name: String,
        /// Whether they shall
        #[arg(value_enum)]
        turns: Turns,
    },
    /// How many jobs of a kind or tenant may run, or begin in a period; lists limits
    Limits {
        /// What to do with them
        #[command(subcommand)]
        command: Option<LimitsCommand>,
    },
}

/// Whether tenants take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Turns {
    /// Each in its turn
    On,
    /// The oldest first
    Off,
}

/// Runs it.
///
/// # Errors
/// No such queue, a name that won't do, or no database.
pub async fn run(pool: &PgPool, out: Out, command: QueuesCommand) -> Result<(), Failure> {
    let (name, effect, text) = match command {
        QueuesCommand::List => return list(pool, out).await,
        QueuesCommand::Pause { name } => {
            let text = if queues::pause(pool, &name).await? {
                "is paused: what runs goes on, nothing more is taken from it"
            } else {
                "was paused already"
            };
            (name, "paused", text)
        }
        QueuesCommand::Resume { name } => {
            let text = if queues::resume(pool, &name).await? {
                "goes on"
            } else {
                "was not paused"
            };
            (name, "active", text)
        }
        QueuesCommand::Limits { command } => {
            return limits::run(pool, out, command.unwrap_or(LimitsCommand::List)).await;
        }
        QueuesCommand::Fair { name, turns } => {
            let on = turns == Turns::On;
            let text = match (set_fair(pool, &name, on).await?, on) {
                (true, true) => "is fair: tenants take turns among the jobs that come from now on",
                (true, false) => "is ordinary: the oldest job comes first",
                (false, true) => "was fair already",
                (false, false) => "was ordinary already",
            };
            (name, if on { "fair" } else { "ordinary" }, text)
        }
        QueuesCommand::Create { name, fair } => {
            queues::create(pool, &name).await?;
            if fair {
                set_fair(pool, &name, true).await?;
            }
            let text = "is made; workers take from it once worker.queues names it";
            (name, "created", text)
        }
    };
    out.show(&json!({ "name": name, "effect": effect }), |_| {
        format!("queue {name} {text}")
    })?;
    Ok(())
}

async fn list(pool: &PgPool, out: Out) -> Result<(), Failure> {
    let all = stats::queues(pool).await?;
    out.show(&all, |all| {
        let rows: Vec<_> = all
            .iter()
            .map(|q| {
                vec![
                    q.name.clone(),
                    if q.paused { "paused" } else { "active" }.into(),
                    if q.fair { "turns" } else { "oldest" }.into(),
                    q.ready.to_string(),
                    q.waiting.to_string(),
                    q.scheduled.to_string(),
                    q.running.to_string(),
                    format!("{:.0} s", q.oldest_ready_seconds),
                ]
            })
            .collect();
        table(
            &[
                "QUEUE",
                "STATE",
                "FIRST",
                "READY",
                "WAITING",
                "SCHEDULED",
                "RUNNING",
                "OLDEST READY",
            ],
            &rows,
        )
    })?;
    Ok(())
}

impl From<QueueError> for Failure {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Database(e) => e.into(),
            QueueError::Name(_) => Self::Input(error.to_string()),
            other => Self::Ran(other.to_string()),
        }
    }
}
