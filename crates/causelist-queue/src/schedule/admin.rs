//! Looking at schedules and changing them. No change ever causes a sudden run: the next instant is
//! always reckoned from now.

use causelist_core::TenantId;
use causelist_core::cron::CronError;
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::types::PgInterval;
use sqlx::{FromRow, PgPool};

use crate::registry::Registry;

/// A schedule as people see it.
#[derive(Debug, Clone, Serialize, FromRow)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleRecord {
    /// The schedule's id.
    pub id: i64,
    /// What it enqueues.
    pub kind: String,
    /// For whom; none: for the whole fleet.
    pub tenant: Option<TenantId>,
    /// The cron expression.
    pub cron: String,
    /// The IANA zone it is read in.
    pub zone: String,
    /// skip, last or all.
    pub misfire: String,
    /// Whether it rests.
    pub paused: bool,
    /// The next instant.
    pub next_at: Option<DateTime<Utc>>,
    /// The last instant dealt with.
    pub last_at: Option<DateTime<Utc>>,
}

const RECORD: &str = "
select s.id, s.kind, s.tenant, s.cron, case when s.zone = 'tenant' then coalesce(t.zone, 'Asia/Kolkata') else s.zone end as zone,
       s.misfire, s.paused, s.next_at, s.last_at
from causelist.schedule s left join causelist.tenant_setting t on t.tenant = s.tenant";

/// Makes the default schedules that are missing: one per tenant and kind, or one for the fleet, as
/// the kind says. Leaves existing ones alone. Returns how many are new.
///
/// # Errors
/// When the database can't be reached.
pub async fn ensure_defaults(
    pool: &PgPool,
    registry: &Registry,
    tenants: &[TenantId],
    now: DateTime<Utc>,
) -> sqlx::Result<u64> {
    let mut made = 0;
    for spec in registry.specs() {
        let Some(default) = spec.schedule else { continue };
        let wanted: Vec<Option<TenantId>> = if default.per_tenant {
            tenants.iter().copied().map(Some).collect()
        } else {
            vec![None]
        };
        let missing: Vec<(Option<TenantId>, String)> = sqlx::query_as(
            "select n.tenant, case when n.tenant is null then 'UTC' else coalesce(t.zone, $3) end
             from unnest($2::uuid[]) n(tenant) left join causelist.tenant_setting t on t.tenant = n.tenant
             where not exists (select from causelist.schedule s
                               where s.kind = $1 and s.tenant is not distinct from n.tenant)",
        )
        .bind(spec.kind)
        .bind(wanted)
        .bind(super::DEFAULT_ZONE)
        .fetch_all(pool)
        .await?;
        let mut ids = Vec::new();
        let mut next = Vec::new();
        for (tenant, zone) in missing {
            match super::parse(default.cron, &zone) {
                Ok((cron, zone)) => {
                    ids.push(tenant);
                    next.push(cron.next_after(zone, now));
                }
                Err(error) => {
                    tracing::error!(kind = spec.kind, %error, "no schedule for a tenant: its zone can't be read");
                }
            }
        }
        if ids.is_empty() {
            continue;
        }
        let micros = i64::try_from(default.misfire_window.as_micros()).unwrap_or(i64::MAX);
        made += sqlx::query(
            "insert into causelist.schedule (kind, tenant, cron, zone, misfire, misfire_window, next_at)
             select $1, n.tenant, $3, case when n.tenant is null then 'UTC' else 'tenant' end, 'last', $4, n.next
             from unnest($2::uuid[], $5::timestamptz[]) n(tenant, next)
             on conflict do nothing",
        )
        .bind(spec.kind)
        .bind(&ids)
        .bind(default.cron)
        .bind(PgInterval {
            months: 0,
            days: 0,
            microseconds: micros,
        })
        .bind(&next)
        .execute(pool)
        .await?
        .rows_affected();
    }
    Ok(made)
}

/// All schedules, or those of one tenant or kind.
///
/// # Errors
/// When the database can't be reached.
pub async fn list(pool: &PgPool, kind: Option<&str>, tenant: Option<TenantId>) -> sqlx::Result<Vec<ScheduleRecord>> {
    sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "{RECORD} where ($1::text is null or s.kind = $1) and ($2::uuid is null or s.tenant = $2)
         order by s.kind, s.tenant, s.id"
    )))
    .bind(kind)
    .bind(tenant)
    .fetch_all(pool)
    .await
}

/// One schedule; none when there is no such.
///
/// # Errors
/// When the database can't be reached.
pub async fn show(pool: &PgPool, id: i64) -> sqlx::Result<Option<ScheduleRecord>> {
    sqlx::query_as(sqlx::AssertSqlSafe(format!("{RECORD} where s.id = $1")))
        .bind(id)
        .fetch_optional(pool)
        .await
}

/// Stops a schedule until it is resumed. False when there is no such schedule.
///
/// # Errors
/// When the database can't be reached.
pub async fn pause(pool: &PgPool, id: i64) -> sqlx::Result<bool> {
    let done = sqlx::query("update causelist.schedule set paused = true, updated_at = now() where id = $1")
        .bind(id)
        .execute(pool)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Lets a paused schedule go on, from its next instant after `now`; what fell into the pause is not
/// made up for. None when there is no such schedule.
///
/// # Errors
/// When the database can't be reached.
pub async fn resume(pool: &PgPool, id: i64, now: DateTime<Utc>) -> sqlx::Result<Option<ScheduleRecord>> {
    let Some(record) = show(pool, id).await? else {
        return Ok(None);
    };
    let next = super::parse(&record.cron, &record.zone)
        .ok()
        .and_then(|(cron, zone)| cron.next_after(zone, now));
    sqlx::query(
        "update causelist.schedule set paused = false, next_at = $2, updated_at = now() where id = $1 and paused",
    )
    .bind(id)
    .bind(next)
    .execute(pool)
    .await?;
    show(pool, id).await
}

/// The next instants of an expression in a zone.
///
/// # Errors
/// When the expression or the zone can't be read.
pub fn preview(cron: &str, zone: &str, now: DateTime<Utc>, count: usize) -> Result<Vec<DateTime<Utc>>, CronError> {
    let (cron, zone) = super::parse(cron, zone)?;
    Ok(cron.between(zone, now, DateTime::<Utc>::MAX_UTC, count).collect())
}
