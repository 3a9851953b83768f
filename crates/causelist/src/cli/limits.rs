//! `causelist queues limits`: how many jobs of a kind or tenant may run, or begin in a period.

use std::time::Duration;

use causelist_queue::limits::{self, LimitError, Rate, Rule, RuleRecord, Scope};
use clap::{Args, Subcommand};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use super::error::Failure;
use super::out::{Out, or_dash, table};
use crate::config::parse_duration;

/// What to do with limits.
#[derive(Debug, Subcommand)]
pub enum LimitsCommand {
    /// List limits
    List,
    /// Make a limit, or change the one of the same kind and tenants
    ///
    /// Example: causelist queues limits set --kind deliver-messages --each-tenant --max-running 2 --rate 60 --per 1m
    Set {
        #[command(flatten)]
        of: Whose,
        /// So many may be ready or running at the same time
        #[arg(long)]
        max_running: Option<u32>,
        /// So many may begin in each period
        #[arg(long, requires = "per")]
        rate: Option<u32>,
        /// The period, such as 1s, 1m or 1h
        #[arg(long, requires = "rate")]
        per: Option<String>,
        /// So many may begin at once; by default what two seconds bring
        #[arg(long, requires = "rate")]
        burst: Option<u32>,
    },
    /// Remove a limit; what waits for nothing else becomes ready
    Remove {
        #[command(flatten)]
        of: Whose,
    },
}

/// Which jobs a limit counts together.
#[derive(Debug, Args)]
pub struct Whose {
    /// Jobs of this kind
    #[arg(long, required_unless_present = "all_kinds")]
    kind: Option<String>,
    /// Jobs of all kinds together
    #[arg(long, conflicts_with = "kind")]
    all_kinds: bool,
    /// Only this tenant's
    #[arg(long, conflicts_with = "each_tenant")]
    tenant: Option<Uuid>,
    /// Every tenant's by themselves; without this and --tenant all tenants' together
    #[arg(long)]
    each_tenant: bool,
}

impl Whose {
    fn scope(&self) -> Scope {
        match self.tenant {
            Some(tenant) => Scope::One(tenant),
            None if self.each_tenant => Scope::Each,
            None => Scope::Fleet,
        }
    }

    fn text(&self) -> String {
        let kind = self
            .kind
            .as_ref()
            .map_or_else(|| "all kinds".to_owned(), |k| format!("kind {k}"));
        match self.scope() {
            Scope::Fleet => kind,
            Scope::Each => format!("{kind} of each tenant"),
            Scope::One(tenant) => format!("{kind} of tenant {tenant}"),
        }
    }
}

/// Runs it.
///
/// # Errors
/// A value that won't do, no such limit, or no database.
pub async fn run(pool: &PgPool, out: Out, command: LimitsCommand) -> Result<(), Failure> {
    let (of, effect, text) = match command {
        LimitsCommand::List => return list(pool, out).await,
        LimitsCommand::Set {
            of,
            max_running,
            rate,
            per,
            burst,
        } => {
            let rate = match rate.zip(per) {
                Some((jobs, per)) => Some(Rate {
                    jobs,
                    per: period(&per)?,
                    burst,
                }),
                None => None,
            };
            let rule = Rule {
                kind: of.kind.clone(),
                scope: of.scope(),
                max_running,
                rate,
            };
            limits::set(pool, &rule).await?;
            (of, "set", "is set: it holds for jobs that become ready from now on")
        }
        LimitsCommand::Remove { of } => {
            limits::remove(pool, of.kind.as_deref(), of.scope()).await?;
            (of, "removed", "is removed")
        }
    };
    let body = json!({ "kind": of.kind, "tenant": of.tenant, "eachTenant": of.each_tenant, "effect": effect });
    out.show(&body, |_| format!("the limit for {} {text}", of.text()))?;
    Ok(())
}

async fn list(pool: &PgPool, out: Out) -> Result<(), Failure> {
    let all = limits::list(pool).await?;
    out.show(&all, |all| {
        if all.is_empty() {
            return "No limits. `causelist queues limits set` makes one.".into();
        }
        let rows: Vec<_> = all.iter().map(row).collect();
        table(&["KIND", "TENANTS", "MAX RUNNING", "RUNNING", "RATE", "BURST"], &rows)
    })?;
    Ok(())
}

fn row(rule: &RuleRecord) -> Vec<String> {
    let per = rule.per_seconds.unwrap_or_default();
    vec![
        rule.kind.clone().unwrap_or_else(|| "all".into()),
        match (rule.scope.as_str(), rule.tenant) {
            ("each", _) => "each".into(),
            (_, Some(tenant)) => tenant.to_string(),
            _ => "all".into(),
        },
        or_dash(rule.max_running),
        rule.running.to_string(),
        or_dash(rule.rate.map(|rate| format!("{rate} per {per} s"))),
        or_dash(rule.burst),
    ]
}

fn period(text: &str) -> Result<Duration, Failure> {
    parse_duration(text).ok_or_else(|| {
        Failure::input(format!(
            "--per {text:?}: must be a whole number with s, m, h or d, such as 1m"
        ))
    })
}

impl From<LimitError> for Failure {
    fn from(error: LimitError) -> Self {
        match error {
            LimitError::Database(e) => e.into(),
            LimitError::Unknown(_) => Self::Ran(error.to_string()),
            other => Self::Input(other.to_string()),
        }
    }
}
