//! Settle: record how attempts ended, under their fence.

use std::time::Duration;

use causelist_core::{JobError, JobId};
use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use crate::claim::SHRINK;
use crate::family::{self, CHILD_ENDED};

/// How an attempt ended, as the queue records it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// Finished well, with this result.
    Done(Value),
    /// Failed; runs again after the delay.
    Retry(Duration, String),
    /// Put off; counts no attempt.
    Snooze(Duration, String),
    /// Finished without effect.
    Discarded(String),
    /// Gave up: attempts used up, or trying again would not help.
    Dead(DeadReason, String),
    /// Stopped because somebody asked.
    Cancelled,
}

/// Why a job is among the dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeadReason {
    Attempts,
    Permanent,
    Uncertain,
}

impl Outcome {
    /// What follows from an error in the given attempt; `backoff` is the kind's delay for it.
    pub(crate) fn of_error(error: JobError, attempt: i16, max_attempts: i16, backoff: Duration) -> Option<Self> {
        let last = attempt >= max_attempts;
        Some(match error {
            JobError::LeaseLost => return None,
            JobError::Retry(text) | JobError::RetryAfter(_, text) if last => Self::Dead(DeadReason::Attempts, text),
            JobError::Retry(text) => Self::Retry(backoff, text),
            JobError::RetryAfter(delay, text) => Self::Retry(delay, text),
            JobError::Snooze(delay, text) => Self::Snooze(delay, text),
            JobError::Permanent(text) => Self::Dead(DeadReason::Permanent, text),
            JobError::Discard(text) => Self::Discarded(text),
            JobError::Uncertain(text) => Self::Dead(DeadReason::Uncertain, text),
            JobError::Cancelled => Self::Cancelled,
        })
    }

    /// The word stored in `attempt.outcome`, also the metric's label.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Retry(..) => "retry",
            Self::Snooze(..) => "snooze",
            Self::Discarded(_) => "discarded",
            Self::Dead(DeadReason::Uncertain, _) => "uncertain",
            Self::Dead(..) => "dead",
            Self::Cancelled => "cancelled",
        }
    }

    fn error(&self) -> Option<&str> {
        match self {
            Self::Done(_) | Self::Cancelled => None,
            Self::Retry(_, text) | Self::Snooze(_, text) | Self::Discarded(text) | Self::Dead(_, text) => Some(text),
        }
    }

    fn delay(&self) -> Option<Duration> {
        match self {
            Self::Retry(delay, _) | Self::Snooze(delay, _) => Some((*delay).min(LONGEST_DELAY)),
            _ => None,
        }
    }

    fn dead_reason(&self) -> Option<&'static str> {
        match self {
            Self::Dead(DeadReason::Attempts, _) => Some("attempts"),
            Self::Dead(DeadReason::Permanent, _) => Some("permanent"),
            Self::Dead(DeadReason::Uncertain, _) => Some("uncertain"),
            _ => None,
        }
    }
}

/// One attempt to be settled.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) id: JobId,
    pub(crate) attempt: i16,
    /// Whether a key or slots are to be freed.
    pub(crate) keyed: bool,
    /// The job that it is a part of.
    pub(crate) parent: Option<JobId>,
    /// What is known of it by now: see [`crate::family::marks`].
    pub(crate) marks: i16,
    pub(crate) started_at: DateTime<Utc>,
    pub(crate) outcome: Outcome,
}

impl Settled {
    /// Done, nothing to free, no family and nothing noted: needs nothing but its row.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.outcome, Outcome::Done(_)) && !self.keyed && self.parent.is_none() && self.marks == 0
    }
}

/// A delay beyond this is cut to it: PostgreSQL could not add a longer one to now, and the settle would
/// fail again and again.
const LONGEST_DELAY: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Results larger than this are not stored, in bytes of JSON text.
const RESULT_LIMIT: usize = 64 * 1024;
/// Errors are cut to this many characters.
const ERROR_LIMIT: usize = 4000;

/// What a settle did.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// Jobs recorded; the others had been taken away from this fence and nothing was written for them.
    pub(crate) jobs: u64,
    /// Parents that may be finished now: [`family::finish`] them after the commit.
    pub(crate) parents: Vec<JobId>,
}

/// Records the given attempts of one claim, takes them out of it, and finishes the parents that waited
/// for nothing else. Returns how many were recorded.
pub(crate) async fn settle(db: &mut PgConnection, fence: i64, batch: &[Settled]) -> sqlx::Result<u64> {
    let recorded = settle_in(db, fence, batch).await?;
    family::finish_or_leave(db, recorded.parents).await;
    Ok(recorded.jobs)
}

/// The same in the caller's transaction and in one statement; the parents are left to the caller.
pub(crate) async fn settle_in(db: &mut PgConnection, fence: i64, batch: &[Settled]) -> sqlx::Result<Recorded> {
    let sql = format!(
        "with {SHRINK},
         r as materialized (
             select r.id, r.attempt, r.error, r.result, r.started_at, r.dead, r.keyed, r.parent, r.marks,
                    held.worker, held.claimed_at,
                    case when stop.id is null then r.outcome else 'cancelled' end as outcome,
                    case when stop.id is null then r.delay end as delay
             from (select id, attempt, outcome, error, result, started_at, delay, dead, keyed, parent,
                          marks | case when id = any ((select parents from held)::bigint[]) then 2 else 0 end as marks
                   from unnest($2::bigint[], $3::smallint[], $4::text[], $5::text[], $6::jsonb[], $7::timestamptz[],
                               $8::float8[], $9::text[], $10::bool[], $11::bigint[], $12::smallint[])
                        u(id, attempt, outcome, error, result, started_at, delay, dead, keyed, parent, marks)) r
             join held on r.id = any (held.ids)
             -- A job that somebody wants stopped does not run again.
             left join causelist.cancel_request stop on stop.id = r.id and r.delay is not null),
         -- A job with children ends when they have.
         parked as (
             insert into causelist.parent
                 (id, attempt, fence, outcome, worker, claimed_at, started_at, result, error, keyed, parent)
             select id, attempt, $1, outcome, worker, claimed_at, started_at, result, error, keyed, parent
             from r where marks & 2 <> 0 and delay is null and dead is null returning id),
         noted as (
             insert into causelist.attempt
                 (job_id, attempt, fence, outcome, worker, claimed_at, started_at, error, result)
             select id, attempt, $1, outcome, worker, claimed_at, started_at, error, result
             from r where marks & 2 = 0 or delay is not null or dead is not null),
         finished as materialized (
             select * from r where delay is null and (marks & 2 = 0 or dead is not null)),
         later as (
             insert into causelist.scheduled (run_at, id, queue, priority, attempt, reason, marks)
             select clock_timestamp() + make_interval(secs => r.delay), j.id, j.queue, j.priority,
                    case r.outcome when 'snooze' then r.attempt - 1 else r.attempt end, r.outcome, r.marks & 6
             from r join causelist.job j on j.id = r.id where r.delay is not null),
         freed as (
             delete from causelist.job_key k using finished r
             where r.keyed and k.job_id = r.id and k.hold = 'while'
             returning k.job_id, k.key),
         let_go as (
             delete from causelist.slot s using r where r.keyed and s.job = r.id),
         died as (
             insert into causelist.dead (id, kind, tenant, attempt, reason, error, key)
             select j.id, j.kind, j.tenant, r.attempt, r.dead, r.error, freed.key
             from r join causelist.job j on j.id = r.id left join freed on freed.job_id = r.id
             where r.dead is not null),
         {CHILD_ENDED},
         forgotten as (
             delete from causelist.progress p using finished r where r.marks & 4 <> 0 and r.dead is null and p.id = r.id),
         stopped as (
             delete from causelist.cancel_request c
             where c.id = any (array(select id from r where delay is null)))
         select (select count(*) from r), array(select id from parked union select parent from ended)"
    );
    let (jobs, parents): (i64, Vec<JobId>) = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(fence)
        .bind(batch.iter().map(|s| s.id).collect::<Vec<_>>())
        .bind(batch.iter().map(|s| s.attempt).collect::<Vec<_>>())
        .bind(batch.iter().map(|s| s.outcome.word()).collect::<Vec<_>>())
        .bind(
            batch
                .iter()
                .map(|s| s.outcome.error().map(storable))
                .collect::<Vec<_>>(),
        )
        .bind(batch.iter().map(|s| stored_result(&s.outcome)).collect::<Vec<_>>())
        .bind(batch.iter().map(|s| s.started_at).collect::<Vec<_>>())
        .bind(
            batch
                .iter()
                .map(|s| s.outcome.delay().map(|d| d.as_secs_f64()))
                .collect::<Vec<_>>(),
        )
        .bind(batch.iter().map(|s| s.outcome.dead_reason()).collect::<Vec<_>>())
        .bind(batch.iter().map(|s| s.keyed).collect::<Vec<_>>())
        .bind(batch.iter().map(|s| s.parent).collect::<Vec<_>>())
        .bind(batch.iter().map(|s| s.marks).collect::<Vec<_>>())
        .fetch_one(db)
        .await?;
    Ok(Recorded {
        jobs: jobs.unsigned_abs(),
        parents,
    })
}

/// Records claims of which every job is done, and removes them: the common case, with the least to
/// do. Each batch must be all that is left in its claim, and [`Settled::is_plain`]. Returns how many
/// attempts were recorded; none of those whose claim another worker has taken over. A claim that holds
/// other jobs still keeps them.
pub(crate) async fn settle_whole(db: &mut PgConnection, claims: &[(i64, &[Settled])]) -> sqlx::Result<u64> {
    let each = || {
        claims
            .iter()
            .flat_map(|(fence, batch)| batch.iter().map(move |s| (*fence, s)))
    };
    let recorded = sqlx::query(
        "with gone as (
             delete from causelist.claim
             -- No join: planned over an empty table, it would read all of one with many dead rows.
             where id = any ($1) and cardinality(ids) = ($7::integer[])[array_position($1::bigint[], id)]
               and parents is null
             returning id, worker, claimed_at)
         insert into causelist.attempt (job_id, attempt, fence, outcome, worker, claimed_at, started_at, result)
         select r.id, r.attempt, r.fence, 'done', gone.worker, gone.claimed_at, r.started_at, r.result
         from unnest($2::bigint[], $3::bigint[], $4::smallint[], $5::timestamptz[], $6::jsonb[])
              r(fence, id, attempt, started_at, result)
         join gone on gone.id = r.fence",
    )
    .bind(claims.iter().map(|(fence, _)| *fence).collect::<Vec<_>>())
    .bind(each().map(|(fence, _)| fence).collect::<Vec<_>>())
    .bind(each().map(|(_, s)| s.id).collect::<Vec<_>>())
    .bind(each().map(|(_, s)| s.attempt).collect::<Vec<_>>())
    .bind(each().map(|(_, s)| s.started_at).collect::<Vec<_>>())
    .bind(each().map(|(_, s)| stored_result(&s.outcome)).collect::<Vec<_>>())
    .bind(
        claims
            .iter()
            .map(|(_, batch)| i32::try_from(batch.len()).unwrap_or(i32::MAX))
            .collect::<Vec<_>>(),
    )
    .execute(&mut *db)
    .await?;
    let mut recorded = recorded.rows_affected();
    let sent: usize = claims.iter().map(|(_, batch)| batch.len()).sum();
    // Somebody gave one of the jobs a child meanwhile, the claim holds more than this worker believes, or
    // the lease was lost: the other form tells.
    if recorded < sent as u64 {
        for (fence, batch) in claims {
            recorded += settle(db, *fence, batch).await?;
        }
    }
    Ok(recorded)
}

/// PostgreSQL can't store NUL; an error's text must never be what keeps a job from being settled.
fn storable(text: &str) -> String {
    text.chars()
        .map(|c| if c == '\0' { '\u{fffd}' } else { c })
        .take(ERROR_LIMIT)
        .collect()
}

fn stored_result(outcome: &Outcome) -> Option<Value> {
    let Outcome::Done(value) = outcome else { return None };
    if value.is_null() {
        return None;
    }
    let size = value.to_string().len();
    if size > RESULT_LIMIT {
        // The counts are kept, the lists go.
        let mut rest = serde_json::Map::new();
        if let Value::Object(fields) = value {
            rest.extend(
                fields
                    .iter()
                    .filter(|(k, v)| k.len() <= 64 && (v.is_number() || v.is_boolean()))
                    .take(100)
                    .map(|(k, v)| (k.replace('\0', "\u{fffd}"), v.clone())),
            );
        }
        let why =
            format!("the result took {size} bytes, the limit is {RESULT_LIMIT}: its lists and texts were left out");
        rest.insert("tooLarge".to_owned(), why.into());
        return Some(Value::Object(rest));
    }
    let mut value = value.clone();
    replace_nul(&mut value);
    Some(value)
}

fn replace_nul(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('\0') => *text = text.replace('\0', "\u{fffd}"),
        Value::Array(items) => items.iter_mut().for_each(replace_nul),
        Value::Object(fields) => {
            if fields.keys().any(|k| k.contains('\0')) {
                *fields = std::mem::take(fields)
                    .into_iter()
                    .map(|(k, v)| (k.replace('\0', "\u{fffd}"), v))
                    .collect();
            }
            fields.values_mut().for_each(replace_nul);
        }
        _ => {}
    }
}
