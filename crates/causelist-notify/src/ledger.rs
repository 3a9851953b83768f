//! The delivery ledger: all SQL over `causelist.message`.
//!
//! ```text
//! reserved ──take──▶ reserved, held ──hand_off──▶ handed_off ──settle──▶ accepted | rejected | unknown
//!     ▲                    │  │                        │  └──sweep──▶ unknown
//!     └────── release ─────┘  └───── settle ───────────┴─ refused for now ──▶ reserved, not_before
//! ```
//!
//! A delivery job *holds* the messages it has taken: the row carries the job's id and its fence. A
//! hold ends with the job's lease, so a crash frees what was only held. Just before the step that
//! can't be taken back, one message becomes `handed_off`, in a transaction that commits only under
//! the lease ([`causelist_queue::FencedTx::commit_part`]). From there it never becomes `reserved`
//! again unless the channel itself said that it did not take the message. A crash in between leaves
//! `handed_off` without a living holder: `unknown`, at most one message per delivery job.
//!
//! Whether a hold lives is a look at `causelist.claim`: the claim row (the fence) is there and lists the
//! job. Both the hand-off and the rescue of a lease lock that row, so they can't pass each other.

use std::fmt;
use std::time::Duration;

use causelist_core::{JobId, RetryPolicy, TenantId};
use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use crate::Channel;
use crate::channel::Answer;
use crate::mail::MailKey;

/// When a message that was refused for now is tried again: after 1, 2, 4, 8 and 16 minutes, then it
/// is rejected. Half an hour outlasts greylisting (RFC 6647 suggests minutes) and a full spool; a
/// server that can't be reached at all is not counted here. No jitter: what failed together goes
/// out over one connection anyway.
pub const MESSAGE_RETRY: RetryPolicy = RetryPolicy {
    max_attempts: 6,
    base: Duration::from_secs(60),
    cap: Duration::from_secs(3600),
};

/// Who holds messages: a job under a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The delivery job.
    pub job: JobId,
    /// The claim under which it runs.
    pub fence: i64,
}

/// A message that was taken. Its Debug prints no personal data.
pub struct Taken {
    /// Its id, and when it was reserved.
    pub key: MailKey,
    /// Whose it is.
    pub tenant: TenantId,
    /// The template's name.
    pub template: String,
    /// `user:<uuid>` or `client:<uuid>`.
    pub recipient: String,
    /// Where to.
    pub address: Option<String>,
    /// What the template is rendered from.
    pub data: Value,
    /// How often a channel has refused it so far.
    pub attempts: u16,
    /// The database's clock when it was taken.
    pub taken_at: DateTime<Utc>,
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken")
            .field("id", &self.key.id)
            .field("template", &self.template)
            .finish_non_exhaustive()
    }
}

/// `m` is a message; true while the job that holds it has its lease.
macro_rules! held {
    () => {
        "exists (select from causelist.claim c where c.id = m.handed_fence and m.handed_by = any (c.ids))"
    };
}

/// Takes up to `limit` messages that are due, the oldest first. Others' messages are passed over.
/// Belongs into a fenced transaction.
///
/// # Errors
/// When the database fails.
pub async fn take(
    db: &mut PgConnection,
    holder: Holder,
    tenant: TenantId,
    channel: Channel,
    limit: u16,
) -> sqlx::Result<Vec<Taken>> {
    type Row = (
        i64,
        DateTime<Utc>,
        String,
        String,
        Option<String>,
        Value,
        i16,
        DateTime<Utc>,
    );
    let rows: Vec<Row> = sqlx::query_as(concat!(
        "with due as materialized (
             select m.id from causelist.message m
             where m.tenant = $1 and m.channel = $2 and m.state = 'reserved'
               and (m.not_before is null or m.not_before <= now()) and not ",
        held!(),
        "    order by m.id limit $3 for update skip locked),
         mine as (
             update causelist.message m set handed_by = $4, handed_fence = $5 from due where m.id = due.id
             returning m.id, m.created_at, m.template, m.recipient, m.address, m.data, m.attempts, now())
         select * from mine order by id"
    ))
    .bind(tenant)
    .bind(channel.word())
    .bind(i64::from(limit))
    .bind(holder.job)
    .bind(holder.fence)
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(
            |(id, reserved_at, template, recipient, address, data, attempts, taken_at)| Taken {
                key: MailKey { id, reserved_at },
                tenant,
                template,
                recipient,
                address,
                data,
                attempts: attempts.unsigned_abs(),
                taken_at,
            },
        )
        .collect())
}

/// Records that a message is about to leave, under this Message-ID. False when the holder no longer
/// holds it: then it must not leave. Belongs into a fenced transaction of its own.
///
/// # Errors
/// When the database fails.
pub async fn hand_off(db: &mut PgConnection, holder: Holder, id: i64, provider_id: &str) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "update causelist.message set state = 'handed_off', handed_off_at = clock_timestamp(), provider_id = $4
         where id = $1 and handed_by = $2 and handed_fence = $3 and state = 'reserved'",
    )
    .bind(id)
    .bind(holder.job)
    .bind(holder.fence)
    .bind(provider_id)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Records what became of a message that the holder offered or handed off. An answer is a fact, so
/// this asks for no lease: only the holder that handed a message off can know, and the row says
/// which that was. A late answer also settles what a sweep had called unknown meanwhile.
///
/// False when the message was not the holder's any more: somebody else took it up after the lease
/// was lost (it had not been handed off then).
///
/// # Errors
/// When the database fails. The message then stays handed off, and becomes unknown.
pub async fn settle(db: &mut PgConnection, holder: Holder, message: &Taken, answer: &Answer) -> sqlx::Result<bool> {
    let attempt = message.attempts.saturating_add(1);
    let (state, error, delay) = match answer {
        Answer::Accepted => ("accepted", None, None),
        Answer::Rejected(text) => ("rejected", Some(text.clone()), None),
        Answer::Unknown(text) => ("unknown", Some(text.clone()), None),
        Answer::Postponed(text) if attempt >= MESSAGE_RETRY.max_attempts => (
            "rejected",
            Some(format!("gave up after {attempt} attempts; the last: {text}")),
            None,
        ),
        Answer::Postponed(text) => ("reserved", Some(text.clone()), Some(MESSAGE_RETRY.ceiling(attempt))),
    };
    let done = sqlx::query(
        "update causelist.message
         set state = $4, error = $5, attempts = $6,
             not_before = case when $4 = 'reserved' then clock_timestamp() + make_interval(secs => $7)
                               else not_before end,
             handed_by = case when $4 = 'reserved' then null else handed_by end,
             handed_fence = case when $4 = 'reserved' then null else handed_fence end,
             handed_off_at = case when $4 = 'reserved' then null else handed_off_at end,
             settled_at = case when $4 = 'reserved' then null else clock_timestamp() end
         where id = $1 and handed_by = $2 and handed_fence = $3 and state in ('reserved', 'handed_off', 'unknown')",
    )
    .bind(message.key.id)
    .bind(holder.job)
    .bind(holder.fence)
    .bind(state)
    .bind(error)
    .bind(i16::try_from(attempt).unwrap_or(i16::MAX))
    .bind(delay.map(|d| d.as_secs_f64()))
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets go of those messages that the holder took and did not hand off. They are due as before.
///
/// # Errors
/// When the database fails; the holds then end with the lease.
pub async fn release(db: &mut PgConnection, holder: Holder, ids: &[i64]) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "update causelist.message set handed_by = null, handed_fence = null
         where id = any ($3) and state = 'reserved' and handed_fence = $2 and handed_by = $1",
    )
    .bind(holder.job)
    .bind(holder.fence)
    .bind(ids)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Messages that nobody holds and that are not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// How many.
    pub count: u64,
    /// How long until the first is due; zero: now.
    pub first_in: Duration,
}

/// What waits to be taken. Messages that a living job holds are that job's business.
///
/// # Errors
/// When the database fails.
pub async fn waiting(db: &mut PgConnection, tenant: TenantId, channel: Channel) -> sqlx::Result<Option<Waiting>> {
    let (count, first_in): (i64, Option<f64>) = sqlx::query_as(concat!(
        "select count(*), date_part('epoch', min(coalesce(m.not_before, now())) - now())::float8
         from causelist.message m
         where m.tenant = $1 and m.channel = $2 and m.state = 'reserved' and not ",
        held!()
    ))
    .bind(tenant)
    .bind(channel.word())
    .fetch_one(db)
    .await?;
    Ok(first_in.map(|seconds| Waiting {
        count: count.unsigned_abs(),
        first_in: Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::ZERO),
    }))
}

/// The tenants with messages that are due and that nobody holds.
///
/// # Errors
/// When the database fails.
pub async fn tenants_waiting(db: &mut PgConnection, channel: Channel) -> sqlx::Result<Vec<TenantId>> {
    sqlx::query_scalar(concat!(
        "select distinct m.tenant from causelist.message m
         where m.channel = $1 and m.state = 'reserved' and (m.not_before is null or m.not_before <= now()) and not ",
        held!(),
        " order by 1"
    ))
    .bind(channel.word())
    .fetch_all(db)
    .await
}

/// Calls unknown what was handed off by a job that has lost its lease since: whether the channel has
/// the message, nobody here can say. For one tenant or for all. Gives how many.
///
/// # Errors
/// When the database fails.
pub async fn sweep(db: &mut PgConnection, tenant: Option<TenantId>) -> sqlx::Result<u64> {
    let channels: Vec<String> = sqlx::query_scalar(concat!(
        "update causelist.message m
         set state = 'unknown', settled_at = clock_timestamp(),
             error = 'the delivery job ended between hand-off and answer'
         where m.state = 'handed_off' and ($1::uuid is null or m.tenant = $1) and not ",
        held!(),
        " returning m.channel"
    ))
    .bind(tenant)
    .fetch_all(db)
    .await?;
    for channel in &channels {
        metrics::counter!("causelist_notifications_total", "channel" => channel.clone(), "outcome" => "unknown")
            .increment(1);
    }
    Ok(channels.len() as u64)
}

/// How many messages are unknown, in all: for the metric `causelist_notifications_unknown`.
///
/// # Errors
/// When the database fails.
pub async fn count_unknown(db: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("select count(*) from causelist.message where state = 'unknown'")
        .fetch_one(db)
        .await
}
