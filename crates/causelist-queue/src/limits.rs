//! Limits: rules about how many jobs of a kind or tenant may run at the same time, or begin in a period,
//! in the whole fleet.
//!
//! A job to which rules apply waits in `waiting` behind a gate per rule until all of them have room; see
//! [`crate::admit`]. A job takes the rules that there are when it becomes ready. A changed rule
//! holds at once for what waits, a removed one is in nobody's way any more; what was ready or waiting
//! before a rule was made is not under it.

use std::time::Duration;

use causelist_core::TenantId;
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::types::PgInterval;
use sqlx::{FromRow, PgPool};

/// Whose jobs a rule counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All tenants' together.
    Fleet,
    /// Every tenant's by themselves; jobs without a tenant count as one tenant's.
    Each,
    /// One tenant's.
    One(TenantId),
}

impl Scope {
    fn word(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Each => "each",
            Self::One(_) => "one",
        }
    }

    fn tenant(self) -> Option<TenantId> {
        match self {
            Self::One(tenant) => Some(tenant),
            Self::Fleet | Self::Each => None,
        }
    }
}

/// How many jobs may begin in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// So many jobs, evenly spread. Each attempt counts.
    pub jobs: u32,
    /// In each such period.
    pub per: Duration,
    /// How many may begin at once after a quiet time; none: what two seconds bring, one at least.
    /// No period sees more than `jobs` and `burst` together.
    pub burst: Option<u32>,
}

impl Rate {
    /// Workers look once a second: a smaller burst than that second's jobs would slow the rate down.
    fn burst_or_default(self) -> u32 {
        let two_seconds = (f64::from(self.jobs) * 2.0 / self.per.as_secs_f64()).ceil();
        self.burst.unwrap_or((two_seconds as u32).clamp(1, self.jobs))
    }
}

/// A rule. There is one per kind and scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The jobs of this kind; none: of all kinds together.
    pub kind: Option<String>,
    /// Whose jobs count together.
    pub scope: Scope,
    /// How many may be ready or running.
    pub max_running: Option<u32>,
    /// How many may begin.
    pub rate: Option<Rate>,
}

/// Why nothing was done to a rule.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// A value that can't be taken.
    #[error("{field} {value:?}: {problem}")]
    Field {
        /// Which one.
        field: &'static str,
        /// Its value, cut to 64 characters.
        value: String,
        /// What is wrong and what to do.
        problem: &'static str,
    },
    /// A rule that says nothing.
    #[error("the limit limits nothing: give max-running, a rate, or both")]
    Empty,
    /// There is no such rule.
    #[error("there is no limit for {0}: `causelist queues limits` shows all")]
    Unknown(String),
    /// The database refused or couldn't be reached.
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
}

/// The most that `max_running`, a rate and a burst may be.
const MOST: u32 = 1_000_000;

impl Rule {
    /// Refuses what could not be kept, naming the value.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn check(&self) -> Result<(), LimitError> {
        check_kind(self.kind.as_deref())?;
        if self.max_running.is_none() && self.rate.is_none() {
            return Err(LimitError::Empty);
        }
        let rate = self.rate;
        let per = rate.map_or(Duration::from_secs(1), |r| r.per);
        for (field, value) in [
            ("max-running", self.max_running),
            ("rate", rate.map(|r| r.jobs)),
            ("burst", rate.and_then(|r| r.burst)),
        ] {
            if value.is_some_and(|v| !(1..=MOST).contains(&v)) {
                return Err(LimitError::Field {
                    field,
                    value: value.unwrap_or_default().to_string(),
                    problem: "must lie between 1 and 1000000; to let jobs rest, pause their queue",
                });
            }
        }
        if per < Duration::from_secs(1) || per > Duration::from_secs(7 * 86_400) || per.subsec_nanos() != 0 {
            return Err(LimitError::Field {
                field: "per",
                value: format!("{per:?}"),
                problem: "must be whole seconds, from one second to seven days",
            });
        }
        Ok(())
    }
}

fn check_kind(kind: Option<&str>) -> Result<(), LimitError> {
    let Some(kind) = kind else { return Ok(()) };
    crate::enqueue::check_name("kind", kind).map_err(|_| LimitError::Field {
        field: "kind",
        value: kind.chars().take(64).collect(),
        problem: "must be 1 to 63 of a-z, 0-9, '_' and '-', beginning with a letter",
    })
}

/// A rule as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
#[serde(rename_all = "camelCase")]
pub struct RuleRecord {
    /// The kind; none: all kinds together.
    pub kind: Option<String>,
    /// fleet, each or one.
    pub scope: String,
    /// For the scope one: whose jobs.
    pub tenant: Option<TenantId>,
    /// How many may be ready or running.
    pub max_running: Option<i32>,
    /// How many may begin in each period.
    pub rate: Option<i32>,
    /// The period, in seconds.
    pub per_seconds: Option<i64>,
    /// How many may begin at once.
    pub burst: Option<i32>,
    /// How many are ready or running now, counted since the rule has a `max_running`.
    pub running: i64,
    /// When the rule was made.
    pub created_at: DateTime<Utc>,
}

/// All rules.
///
/// # Errors
/// When the database can't be reached.
pub async fn list(pool: &PgPool) -> sqlx::Result<Vec<RuleRecord>> {
    sqlx::query_as(
        "select l.kind, l.scope, l.tenant, l.max_running, l.rate, date_part('epoch', l.period)::bigint as per_seconds,
                l.burst, coalesce(s.n, 0) as running, l.created_at
         from causelist.job_limit l
         left join (select split_part(gate, ':', 1)::bigint as rule, count(*) n from causelist.slot group by 1) s
           on s.rule = l.id
         order by l.kind nulls first, l.scope desc, l.tenant",
    )
    .fetch_all(pool)
    .await
}

/// Makes a rule, or changes the one of the same kind and scope. Lowering `max_running` stops nothing:
/// it takes effect as jobs end. A rate begins anew, with its burst.
///
/// # Errors
/// When a value can't be taken; nothing is written then.
pub async fn set(pool: &PgPool, rule: &Rule) -> Result<(), LimitError> {
    rule.check()?;
    let int = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    sqlx::query(
        "with rule as (
             insert into causelist.job_limit as l (kind, scope, tenant, max_running, rate, period, burst)
             values ($1, $2, $3, $4, $5, $6, $7)
             on conflict (coalesce(kind, ''), scope, coalesce(tenant, '00000000-0000-0000-0000-000000000000')) do update
             set max_running = excluded.max_running,
                 rate = excluded.rate, period = excluded.period, burst = excluded.burst
             returning l.id)
         -- The old rate may have booked the time ahead for long.
         delete from causelist.gate_pace p using rule where split_part(p.gate, ':', 1) = rule.id::text",
    )
    .bind(&rule.kind)
    .bind(rule.scope.word())
    .bind(rule.scope.tenant())
    .bind(rule.max_running.map(int))
    .bind(rule.rate.map(|r| int(r.jobs)))
    .bind(rule.rate.map(|r| PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(r.per.as_micros()).unwrap_or(i64::MAX),
    }))
    .bind(rule.rate.map(|r| int(r.burst_or_default())))
    .execute(pool)
    .await?;
    Ok(())
}

/// Removes a rule. What waits for nothing else becomes ready at the workers' next look, within a second.
///
/// # Errors
/// When there is no such rule.
pub async fn remove(pool: &PgPool, kind: Option<&str>, scope: Scope) -> Result<(), LimitError> {
    check_kind(kind)?;
    let gone = sqlx::query(
        "delete from causelist.job_limit
         where kind is not distinct from $1 and scope = $2 and tenant is not distinct from $3",
    )
    .bind(kind)
    .bind(scope.word())
    .bind(scope.tenant())
    .execute(pool)
    .await?;
    if gone.rows_affected() > 0 {
        return Ok(());
    }
    let kind = kind.map_or_else(|| "all kinds".to_owned(), |k| format!("kind {k:?}"));
    Err(LimitError::Unknown(match scope {
        Scope::Fleet => kind,
        Scope::Each => format!("{kind} of each tenant"),
        Scope::One(tenant) => format!("{kind} of tenant {tenant}"),
    }))
}
