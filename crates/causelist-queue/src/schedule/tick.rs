//! One tick: fire what is due.

use std::collections::HashSet;
use std::time::Duration;

use causelist_core::TenantId;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::postgres::types::PgInterval;
use sqlx::{FromRow, PgPool};

use crate::enqueue::{NewJob, enqueue_many};
use crate::error::EnqueueError;
use crate::registry::Registry;

/// Schedules worked on in one transaction.
const BATCH: i64 = 500;
/// Missed instants of one schedule that are looked at in one go; the rest follows at the next tick.
const MISSED_MAX: usize = 10_000;
/// An instant is on time when it fires within this of its due time: what `skip` still fires.
const ON_TIME: Duration = Duration::from_secs(60);

/// What a tick did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ticked {
    /// Instants for which a job was enqueued.
    pub fired: usize,
    /// Instants passed over by their misfire policy.
    pub misfired: usize,
    /// The queues that got jobs.
    pub queues: HashSet<String>,
}

#[derive(Debug, FromRow)]
struct Due {
    id: i64,
    kind: String,
    tenant: Option<TenantId>,
    cron: String,
    zone: String,
    misfire: String,
    misfire_window: PgInterval,
    args: Value,
    next_at: DateTime<Utc>,
}

struct Instant {
    schedule: usize,
    at: DateTime<Utc>,
    fire: bool,
}

/// Fires every schedule that is due at `now`, in transactions of 500 schedules.
///
/// # Errors
/// When the database can't be reached. What was committed before stays.
pub async fn tick(pool: &PgPool, registry: &Registry, now: DateTime<Utc>) -> Result<Ticked, EnqueueError> {
    let mut total = Ticked::default();
    loop {
        let (schedules, ticked) = batch(pool, registry, now).await?;
        total.fired += ticked.fired;
        total.misfired += ticked.misfired;
        total.queues.extend(ticked.queues);
        if schedules == 0 {
            return Ok(total);
        }
    }
}

async fn batch(pool: &PgPool, registry: &Registry, now: DateTime<Utc>) -> Result<(usize, Ticked), EnqueueError> {
    let mut tx = pool.begin().await?;
    let due: Vec<Due> = sqlx::query_as(
        "select s.id, s.kind, s.tenant, s.cron,
                case when s.zone = 'tenant' then coalesce(t.zone, $3) else s.zone end as zone,
                s.misfire, s.misfire_window, s.args, s.next_at
         from causelist.schedule s left join causelist.tenant_setting t on t.tenant = s.tenant
         where s.next_at <= $1 and not s.paused
         order by s.next_at, s.id limit $2 for update of s skip locked",
    )
    .bind(now)
    .bind(BATCH)
    .bind(super::DEFAULT_ZONE)
    .fetch_all(&mut *tx)
    .await?;
    if due.is_empty() {
        return Ok((0, Ticked::default()));
    }
    let mut instants: Vec<Instant> = Vec::new();
    let mut next: Vec<Option<DateTime<Utc>>> = Vec::with_capacity(due.len());
    for (i, row) in due.iter().enumerate() {
        match super::parse(&row.cron, &row.zone) {
            Ok((cron, zone)) => {
                let mut missed = vec![row.next_at];
                missed.extend(cron.between(zone, row.next_at, now, MISSED_MAX - 1));
                let last = missed.last().copied().unwrap_or(now);
                next.push(cron.next_after(zone, last));
                instants.extend(judge(row, i, &missed, now));
            }
            Err(error) => {
                // It was checked when saved; a zone may have left the database of zones since.
                tracing::error!(schedule = row.id, kind = row.kind, %error, "schedule stopped: it can't be read");
                next.push(None);
            }
        }
    }
    let inserted: Vec<(i64, DateTime<Utc>)> = sqlx::query_as(
        "insert into causelist.schedule_fire (schedule_id, instant, reason)
         select * from unnest($1::bigint[], $2::timestamptz[], $3::text[])
         on conflict do nothing returning schedule_id, instant",
    )
    .bind(instants.iter().map(|i| due[i.schedule].id).collect::<Vec<_>>())
    .bind(instants.iter().map(|i| i.at).collect::<Vec<_>>())
    .bind(
        instants
            .iter()
            .map(|i| if i.fire { "fired" } else { "misfire" })
            .collect::<Vec<_>>(),
    )
    .fetch_all(&mut *tx)
    .await?;
    let new: HashSet<(i64, DateTime<Utc>)> = inserted.into_iter().collect();
    instants.retain(|i| new.contains(&(due[i.schedule].id, i.at)));
    let fired: Vec<&Instant> = instants.iter().filter(|i| i.fire).collect();
    let jobs: Vec<NewJob> = fired.iter().map(|i| job_of(&due[i.schedule], i.at, registry)).collect();
    let made = enqueue_many(&mut tx, &jobs).await?;
    sqlx::query(
        "update causelist.schedule_fire f set job_id = n.job
         from unnest($1::bigint[], $2::timestamptz[], $3::bigint[]) n(schedule, instant, job)
         where f.schedule_id = n.schedule and f.instant = n.instant",
    )
    .bind(fired.iter().map(|i| due[i.schedule].id).collect::<Vec<_>>())
    .bind(fired.iter().map(|i| i.at).collect::<Vec<_>>())
    .bind(made.iter().map(|m| m.id).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "update causelist.schedule s set next_at = n.next, last_at = s.next_at
         from unnest($1::bigint[], $2::timestamptz[]) n(id, next) where s.id = n.id",
    )
    .bind(due.iter().map(|d| d.id).collect::<Vec<_>>())
    .bind(&next)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    for instant in &fired {
        let late = (now - instant.at).to_std().unwrap_or_default();
        metrics::histogram!("causelist_schedule_lateness_seconds", "kind" => due[instant.schedule].kind.clone())
            .record(late.as_secs_f64());
    }
    let ticked = Ticked {
        fired: fired.len(),
        misfired: instants.len() - fired.len(),
        queues: jobs.iter().map(|j| j.queue_name().to_owned()).collect(),
    };
    Ok((due.len(), ticked))
}

/// Which of the instants that have come due fire, by the schedule's misfire policy: `last` fires
/// the latest one, `all` fires each, both only as far back as the window; `skip` fires what is on
/// time.
fn judge(row: &Due, schedule: usize, missed: &[DateTime<Utc>], now: DateTime<Utc>) -> Vec<Instant> {
    let window = window(&row.misfire_window);
    let reach = if row.misfire == "skip" {
        ON_TIME
    } else {
        window.max(ON_TIME)
    };
    let last = missed.len().saturating_sub(1);
    missed
        .iter()
        .enumerate()
        .map(|(i, at)| {
            let in_reach = (now - *at).to_std().unwrap_or_default() <= reach;
            let fire = in_reach && (row.misfire == "all" || i == last);
            Instant {
                schedule,
                at: *at,
                fire,
            }
        })
        .collect()
}

/// An interval's length, a month as 30 days.
fn window(interval: &PgInterval) -> Duration {
    let days = i64::from(interval.months) * 30 + i64::from(interval.days);
    let micros = days
        .saturating_mul(86_400_000_000)
        .saturating_add(interval.microseconds);
    Duration::from_micros(micros.unsigned_abs())
}

fn job_of(row: &Due, at: DateTime<Utc>, registry: &Registry) -> NewJob {
    let mut args = row.args.clone();
    if registry.is_planned(&row.kind)
        && let Value::Object(fields) = &mut args
    {
        fields.insert("executedAt".into(), json!(at));
    }
    match registry.spec(&row.kind) {
        Some(spec) => NewJob::with_spec(spec, args),
        None => NewJob::raw(&row.kind, args),
    }
    .tenant(row.tenant)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(policy: &str, window: Duration, ages_minutes: &[i64]) -> Vec<bool> {
        let now: DateTime<Utc> = "2026-11-23T12:00:00Z".parse().expect("a timestamp");
        let row = Due {
            id: 1,
            kind: "k".into(),
            tenant: None,
            cron: "* * * * *".into(),
            zone: "UTC".into(),
            misfire: policy.into(),
            misfire_window: PgInterval::try_from(window).expect("an interval"),
            args: json!({}),
            next_at: now,
        };
        let missed: Vec<_> = ages_minutes
            .iter()
            .map(|m| now - chrono::Duration::minutes(*m))
            .collect();
        judge(&row, 0, &missed, now).into_iter().map(|i| i.fire).collect()
    }

    #[test]
    fn misfire_policies_do_what_they_say() {
        let hour = Duration::from_secs(3600);
        assert_eq!(judged("last", hour, &[90, 45, 30]), [false, false, true]);
        assert_eq!(judged("last", hour, &[120, 90]), [false, false]);
        assert_eq!(judged("all", hour, &[90, 45, 30]), [false, true, true]);
        assert_eq!(judged("skip", hour, &[45, 30]), [false, false]);
        assert_eq!(judged("skip", hour, &[30, 0]), [false, true]);
        assert_eq!(
            judged("last", Duration::ZERO, &[0]),
            [true],
            "on time is never a misfire"
        );
    }
}
