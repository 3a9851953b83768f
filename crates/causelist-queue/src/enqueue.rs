//! Enqueue: one job or many, in the caller's transaction.

use std::borrow::Cow;
use std::collections::HashMap;

use causelist_core::{JobId, KindSpec, TenantId};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use crate::batch::BatchJob;
use crate::copy;
use crate::error::EnqueueError;
use crate::job::{Job, PlannedJob};
use crate::json::{JsonText, Shape};
use crate::ready::{fair, gates, put_ready, put_straight};

/// What the arguments of a job may take. The edges (HTTP, CLI) check against the configured limits;
/// enqueuing itself refuses what passes [`Limits::MOST`].
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the arguments as JSON text.
    pub payload: usize,
    /// Levels of nesting.
    pub depth: usize,
}

impl Limits {
    /// The most that may be configured: 16 MiB and 64 levels.
    pub const MOST: Self = Self {
        payload: 16 * 1024 * 1024,
        depth: 64,
    };
}

impl Default for Limits {
    /// 256 KiB and 64 levels.
    fn default() -> Self {
        Self {
            payload: 256 * 1024,
            depth: 64,
        }
    }
}

/// For how long an idempotency key stands for its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// While the job is unfinished.
    While,
    /// Until the given instant.
    Until(DateTime<Utc>),
    /// For ever.
    Ever,
}

/// A job to be enqueued. Built from a job value ([`NewJob::of`], [`NewJob::planned`]) or, for
/// kinds that this process does not know, from its parts ([`NewJob::raw`]).
#[derive(Debug, Clone)]
pub struct NewJob {
    pub(crate) kind: Cow<'static, str>,
    pub(crate) queue: Cow<'static, str>,
    pub(crate) priority: i16,
    pub(crate) tenant: Option<TenantId>,
    pub(crate) args: JsonText,
    pub(crate) max_attempts: i16,
    pub(crate) key: Option<(String, Hold)>,
    pub(crate) run_at: Option<DateTime<Utc>>,
    pub(crate) parent: Option<JobId>,
    /// The fence of the parent's own run, if that enqueues it.
    pub(crate) fence: Option<i64>,
    pub(crate) trace: Option<String>,
}

impl NewJob {
    /// A job with its kind's queue, priority and number of attempts.
    ///
    /// # Errors
    /// When the arguments can't be written as JSON.
    pub fn of<J: Job>(args: &J) -> Result<Self, EnqueueError> {
        Ok(Self::specified(&J::spec(), text(args)?))
    }

    /// The same for a planned job.
    ///
    /// # Errors
    /// When the arguments can't be written as JSON.
    pub fn planned<J: PlannedJob>(args: &J) -> Result<Self, EnqueueError> {
        Ok(Self::specified(&J::spec(), text(args)?))
    }

    /// The same for a batch job.
    ///
    /// # Errors
    /// When the arguments can't be written as JSON.
    pub fn batch<J: BatchJob>(args: &J) -> Result<Self, EnqueueError> {
        Ok(Self::specified(&J::spec(), text(args)?))
    }

    /// A job of the kind that the spec describes.
    #[must_use]
    pub fn with_spec(spec: &KindSpec, args: Value) -> Self {
        Self::specified(spec, JsonText(args.to_string().into()))
    }

    fn specified(spec: &KindSpec, args: JsonText) -> Self {
        Self {
            kind: Cow::Borrowed(spec.kind),
            queue: Cow::Borrowed(spec.queue),
            priority: spec.priority,
            args,
            ..Self::raw("", Value::Null)
        }
        .max_attempts(spec.retry.max_attempts)
    }

    /// A job of any kind, in the queue `default`, with five attempts.
    #[must_use]
    pub fn raw(kind: &str, args: Value) -> Self {
        Self {
            kind: Cow::Owned(kind.to_owned()),
            queue: Cow::Borrowed("default"),
            priority: 0,
            tenant: None,
            args: JsonText(args.to_string().into()),
            max_attempts: 5,
            key: None,
            run_at: None,
            parent: None,
            fence: None,
            trace: None,
        }
    }

    /// The queue to wait in.
    #[must_use]
    pub fn queue(mut self, queue: &str) -> Self {
        self.queue = Cow::Owned(queue.to_owned());
        self
    }

    /// Lower runs first.
    #[must_use]
    pub fn priority(mut self, priority: i16) -> Self {
        self.priority = priority;
        self
    }

    /// The tenant that the job belongs to; none: the whole fleet's.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<Option<TenantId>>) -> Self {
        self.tenant = tenant.into();
        self
    }

    /// Attempts in all.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u16) -> Self {
        self.max_attempts = i16::try_from(attempts).unwrap_or(i16::MAX);
        self
    }

    /// An idempotency key, held while the job is unfinished: enqueuing the same (tenant, kind, key)
    /// meanwhile gives the same job.
    #[must_use]
    pub fn key(self, key: &str) -> Self {
        self.key_held(key, Hold::While)
    }

    /// An idempotency key with its own window.
    #[must_use]
    pub fn key_held(mut self, key: &str, hold: Hold) -> Self {
        self.key = Some((key.to_owned(), hold));
        self
    }

    /// Not before this instant.
    #[must_use]
    pub fn run_at(mut self, at: impl Into<Option<DateTime<Utc>>>) -> Self {
        self.run_at = at.into();
        self
    }

    /// The job that this one is a part of: that one is finished when all its children are. It must be
    /// unfinished. A job that enqueues children of its own uses [`crate::JobCx::child`].
    ///
    /// The caller's transaction keeps the parent where it is until it ends, and its worker from renewing
    /// the lease: keep it short.
    #[must_use]
    pub fn parent(mut self, parent: JobId) -> Self {
        self.parent = Some(parent);
        self
    }

    /// The W3C traceparent of whoever enqueues.
    #[must_use]
    pub fn trace(mut self, trace: impl Into<Option<String>>) -> Self {
        self.trace = trace.into();
        self
    }

    /// The queue it will wait in.
    #[must_use]
    pub fn queue_name(&self) -> &str {
        &self.queue
    }

    /// Refuses what could not be stored or run, naming the value.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn check(&self, limits: Limits) -> Result<(), EnqueueError> {
        check_name("kind", &self.kind)?;
        check_name("queue", &self.queue)?;
        if self.max_attempts < 1 {
            return Err(EnqueueError::field(
                "max_attempts",
                &self.max_attempts.to_string(),
                "must be at least 1",
            ));
        }
        if let Some((key, _)) = &self.key
            && (key.is_empty() || key.chars().count() > 255 || key.contains('\0'))
        {
            return Err(EnqueueError::field(
                "key",
                key,
                "must have 1 to 255 characters and no NUL",
            ));
        }
        if let Some(at) = self.run_at
            && (at.timestamp() < 0 || at.timestamp() > 253_402_300_799)
        {
            return Err(EnqueueError::field(
                "run_at",
                &at.to_string(),
                "must lie between 1970 and 9999",
            ));
        }
        if let Some((_, Hold::Until(at))) = &self.key
            && (at.timestamp() < 0 || at.timestamp() > 253_402_300_799)
        {
            return Err(EnqueueError::field(
                "expires_at",
                &at.to_string(),
                "must lie between 1970 and 9999",
            ));
        }
        if let Some(trace) = &self.trace
            && (trace.chars().count() > 512 || trace.contains('\0'))
        {
            return Err(EnqueueError::field(
                "trace",
                trace,
                "must have at most 512 characters and no NUL",
            ));
        }
        let shape = Shape::of(&self.args.0);
        if !shape.object {
            return Err(EnqueueError::field("args", &self.args.0, "must be a JSON object"));
        }
        if shape.depth > limits.depth {
            return Err(EnqueueError::TooDeep { limit: limits.depth });
        }
        if shape.nul {
            return Err(EnqueueError::Nul);
        }
        let size = self.args.0.len();
        if size > limits.payload {
            return Err(EnqueueError::TooLarge {
                size,
                limit: limits.payload,
            });
        }
        Ok(())
    }
}

fn text<T: Serialize>(args: &T) -> Result<JsonText, EnqueueError> {
    Ok(JsonText(serde_json::to_string(args)?.into()))
}

/// Kinds and queues are names: a small letter, then small letters, digits, `_` and `-`.
pub(crate) fn check_name(field: &'static str, name: &str) -> Result<(), EnqueueError> {
    let head = name.chars().next().is_some_and(|c| c.is_ascii_lowercase());
    let rest = name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
    if head && rest && name.len() <= 63 {
        return Ok(());
    }
    Err(EnqueueError::field(
        field,
        name,
        "must be 1 to 63 of a-z, 0-9, '_' and '-', beginning with a letter",
    ))
}

/// What enqueuing gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Enqueued {
    /// The new job's id or, for a duplicate key, the existing job's.
    #[serde(serialize_with = "crate::jobs::id_as_text")]
    pub id: JobId,
    /// Whether an existing job stands for this one: nothing was written.
    pub duplicate: bool,
    /// Whether workers hear of it as it is committed, so that nobody else need tell them.
    #[serde(skip)]
    pub told: bool,
}

impl Enqueued {
    pub(crate) fn new(id: JobId, duplicate: bool) -> Self {
        Self {
            id,
            duplicate,
            told: false,
        }
    }
}

/// Enqueues one job in the caller's transaction (or, on a bare connection, in its own).
///
/// # Errors
/// See [`EnqueueError`]; nothing is written then, but the caller's transaction is aborted if
/// PostgreSQL refused the statement.
pub async fn enqueue(db: &mut PgConnection, job: NewJob) -> Result<Enqueued, EnqueueError> {
    let mut made = enqueue_many(db, std::slice::from_ref(&job)).await?;
    made.pop()
        .ok_or_else(|| EnqueueError::Database(sqlx::Error::RowNotFound))
}

/// One statement for any number of jobs without keys: the job rows, then where they wait. Whether a
/// job is due is decided once: the clock goes on while the statement runs.
macro_rules! plain {
    (($($columns:tt)*) ($($put:tt)*)) => {
        concat!(
            "
with new as materialized (
    select causelist.new_job_id() as id, coalesce(n.run_at <= clock_timestamp(), true) as due,
           (date_part('epoch', coalesce(n.run_at, clock_timestamp())) * 1e6)::bigint as rank, 0 as attempt, ",
            $($columns)*,
            " n.*
    from unnest($1::text[], $2::text[], $3::smallint[], $4::uuid[], $5::jsonb[], $6::smallint[],
                $7::timestamptz[], $8::bigint[], $9::text[])
         with ordinality n(kind, queue, priority, tenant, args, max_attempts, run_at, parent, trace, pos)),
put as (
    insert into causelist.job (id, kind, queue, priority, tenant, args, max_attempts, parent, trace)
    select id, kind, queue, priority, tenant, args, max_attempts, parent, trace from new),
",
            $($put)*,
            ",
later as (
    insert into causelist.scheduled (run_at, id, queue, priority, attempt, reason)
    select run_at, id, queue, priority, 0, 'run_at' from new where not due)
select id, pos from new"
        )
    };
}

/// The same for jobs with keys. A key that is taken by an unexpired holder yields no row; an expired
/// one is taken over. A key in two rows of one call is the caller's duty to avoid.
macro_rules! keyed {
    (($($columns:tt)*) ($($put:tt)*)) => {
        concat!(
            "
with asked as materialized (
    select causelist.new_job_id() as id, coalesce(n.run_at <= clock_timestamp(), true) as due, n.*
    from unnest($1::text[], $2::text[], $3::smallint[], $4::uuid[], $5::jsonb[], $6::smallint[],
                $7::timestamptz[], $8::bigint[], $9::text[], $10::text[], $11::text[], $12::timestamptz[])
         with ordinality n(kind, queue, priority, tenant, args, max_attempts, run_at, parent, trace,
                           key, hold, expires_at, pos)),
held as (
    insert into causelist.job_key as k (tenant, kind, key, job_id, hold, expires_at)
    select coalesce(tenant, '00000000-0000-0000-0000-000000000000'), kind, key, id, hold, expires_at from asked
    order by 1, 2, 3
    on conflict (tenant, kind, key) do update
        set job_id = excluded.job_id, hold = excluded.hold, expires_at = excluded.expires_at
        where k.expires_at <= clock_timestamp()
    returning job_id),
new as materialized (
    select ",
            $($columns)*,
            " n.*, (date_part('epoch', coalesce(n.run_at, clock_timestamp())) * 1e6)::bigint as rank, 0 as attempt
    from asked n join held on held.job_id = n.id),
put as (
    insert into causelist.job (id, kind, queue, priority, tenant, args, max_attempts, parent, trace, keyed)
    select id, kind, queue, priority, tenant, args, max_attempts, parent, trace, true from new),
",
            $($put)*,
            ",
later as (
    insert into causelist.scheduled (run_at, id, queue, priority, attempt, reason)
    select run_at, id, queue, priority, 0, 'run_at' from new where not due)
select id, pos from new"
        )
    };
}

/// The statements of one call.
struct Inserts {
    plain: &'static str,
    keyed: &'static str,
}

/// Where no limit and no fair queue is in sight: nearly always.
const STRAIGHT: Inserts = Inserts {
    plain: plain!(("")(put_straight!())),
    keyed: keyed!(("")(put_straight!())),
};

const RULED: Inserts = Inserts {
    plain: plain!((gates!("n"), ", ", fair!("n"), ", 0::smallint as marks,")(put_ready!())),
    keyed: keyed!((gates!("n"), ", ", fair!("n"), ", 0::smallint as marks,")(put_ready!())),
};

/// What causelist.new_job_id() gives, with the second taken once a statement.
macro_rules! job_id {
    () => {
        "((select (floor(date_part('epoch', clock_timestamp()))::bigint - 1735689600) << 22)
             | (nextval('causelist.job_id_seq') & 4194303))"
    };
}
pub(crate) use job_id;

/// The shortest form, for jobs that differ in nothing but their arguments, where no limit and no fair
/// queue is in sight: gives no row otherwise. The ids come in the order of the arguments. It costs
/// PostgreSQL a sixth less than the general form, and saves the look at the queue before. A
/// single job may tell of itself ($8).
const UNIFORM: &str = concat!(
    "
with put as (
    insert into causelist.job (id, kind, queue, priority, tenant, args, max_attempts, trace)
    select ",
    job_id!(),
    ", $1, $2, $3, $4, args, $5, $6
    from unnest($7::jsonb[]) args
    where exists (select from causelist.queue where name = $2 and not fair)
      and not exists (select from causelist.job_limit)
    returning id),
now_ready as (
    insert into causelist.ready (queue, priority, rank, id, attempt)
    select $2, $3, (select (date_part('epoch', clock_timestamp()) * 1e6)::bigint), id, 0 from put)
select id, case when $8 then pg_notify('causelist_ready', $2) is not null else false end from put"
);

const HOLDERS: &str = "
select n.pos, k.job_id
from unnest($1::uuid[], $2::text[], $3::text[]) with ordinality n(tenant, kind, key, pos)
join causelist.job_key k
  on k.tenant = coalesce(n.tenant, '00000000-0000-0000-0000-000000000000') and k.kind = n.kind and k.key = n.key
 and (k.expires_at is null or k.expires_at > clock_timestamp())";

/// Enqueues many jobs in one go; all or none. The answer has one entry per job, in order.
///
/// # Errors
/// As [`enqueue`]; the first job that can't be taken refuses them all.
pub async fn enqueue_many(db: &mut PgConnection, jobs: &[NewJob]) -> Result<Vec<Enqueued>, EnqueueError> {
    for job in jobs {
        job.check(Limits::MOST)?;
    }
    if let Some(made) = enqueue_uniform(db, jobs).await? {
        count_enqueued(jobs.iter());
        return Ok(made);
    }
    if jobs.iter().any(|job| job.parent.is_some()) {
        return crate::family::enqueue(db, jobs).await;
    }
    write(db, jobs).await
}

/// Writes jobs that were checked.
pub(crate) async fn write(db: &mut PgConnection, jobs: &[NewJob]) -> Result<Vec<Enqueued>, EnqueueError> {
    let ruled = check_queues(db, jobs).await?;
    let plain = |j: &NewJob| j.key.is_none() && j.parent.is_none();
    if !ruled && jobs.len() >= copy::LEAST && jobs.iter().all(plain) {
        let made = copy::enqueue(db, jobs).await?;
        count_enqueued(jobs.iter());
        return Ok(made);
    }
    let inserts = if ruled { RULED } else { STRAIGHT };
    let mut out: Vec<Option<Enqueued>> = vec![None; jobs.len()];
    let (keyed, plain): (Vec<usize>, Vec<usize>) = (0..jobs.len()).partition(|i| jobs[*i].key.is_some());
    if !plain.is_empty() {
        for (id, pos) in insert(db, inserts.plain, false, jobs, &plain).await? {
            out[plain[pos]] = Some(Enqueued::new(id, false));
        }
    }
    // Looked up before inserted: an insert that meets a key locks its row, and so would keep the
    // holder from being settled until the caller commits. A holder may come or go between the two,
    // then it is tried again; two rounds do nearly always.
    let mut open = keyed;
    for _ in 0..10 {
        for (id, pos) in holders(db, jobs, &open).await? {
            out[open[pos]] = Some(Enqueued::new(id, true));
        }
        open.retain(|i| out[*i].is_none());
        if open.is_empty() {
            break;
        }
        let mut first_of: HashMap<(Option<TenantId>, &str, &str), usize> = HashMap::new();
        let mut again = Vec::new();
        let mut now = Vec::new();
        for &i in &open {
            let key = jobs[i].key.as_ref().map_or("", |(key, _)| key.as_str());
            match first_of.entry((jobs[i].tenant, &*jobs[i].kind, key)) {
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(i);
                    now.push(i);
                }
                // The same key twice in one call: the second finds the first in the next round.
                std::collections::hash_map::Entry::Occupied(_) => again.push(i),
            }
        }
        for (id, pos) in insert(db, inserts.keyed, true, jobs, &now).await? {
            out[now[pos]] = Some(Enqueued::new(id, false));
        }
        open = now.into_iter().filter(|i| out[*i].is_none()).chain(again).collect();
    }
    let made: Option<Vec<Enqueued>> = out.into_iter().collect();
    let made = made.ok_or_else(|| {
        EnqueueError::field(
            "key",
            "",
            "its holder changed ten times while this job was enqueued: try again",
        )
    })?;
    count_enqueued(
        jobs.iter()
            .zip(&made)
            .filter(|(_, got)| !got.duplicate)
            .map(|(job, _)| job),
    );
    Ok(made)
}

/// The jobs' ids, if they differ in nothing but their arguments and nothing stands between them and
/// their queue.
async fn enqueue_uniform(db: &mut PgConnection, jobs: &[NewJob]) -> Result<Option<Vec<Enqueued>>, EnqueueError> {
    let Some(first) = jobs.first() else {
        return Ok(Some(Vec::new()));
    };
    let same = |j: &NewJob| {
        j.key.is_none()
            && j.run_at.is_none()
            && j.parent.is_none()
            && j.kind == first.kind
            && j.queue == first.queue
            && j.priority == first.priority
            && j.tenant == first.tenant
            && j.max_attempts == first.max_attempts
            && j.trace == first.trace
    };
    if !jobs.iter().all(same) {
        return Ok(None);
    }
    let tell = jobs.len() == 1 && crate::wake::may_tell(&first.queue);
    let rows: Vec<(JobId, bool)> = sqlx::query_as(UNIFORM)
        .bind(&*first.kind)
        .bind(&*first.queue)
        .bind(first.priority)
        .bind(first.tenant)
        .bind(first.max_attempts)
        .bind(first.trace.as_deref())
        .bind(jobs.iter().map(|j| &j.args).collect::<Vec<_>>())
        .bind(tell)
        .fetch_all(db)
        .await?;
    let made = |(id, told)| Enqueued {
        told,
        ..Enqueued::new(id, false)
    };
    Ok((!rows.is_empty()).then(|| rows.into_iter().map(made).collect()))
}

/// Counts what was enqueued.
pub(crate) fn count_enqueued<'a>(jobs: impl Iterator<Item = &'a NewJob>) {
    let mut counts: Vec<(&str, &str, u64)> = Vec::new();
    for job in jobs {
        match counts
            .iter_mut()
            .find(|(kind, queue, _)| *kind == job.kind && *queue == job.queue)
        {
            Some((_, _, n)) => *n += 1,
            None => counts.push((&job.kind, &job.queue, 1)),
        }
    }
    for (kind, queue, n) in counts {
        metrics::counter!("causelist_jobs_enqueued_total", "kind" => kind.to_owned(), "queue" => queue.to_owned())
            .increment(n);
    }
}

/// Whether limits or fair queues may matter to these jobs. A rule that is made at this very moment
/// does not hold for them yet.
pub(crate) async fn check_queues(db: &mut PgConnection, jobs: &[NewJob]) -> Result<bool, EnqueueError> {
    let mut names: Vec<&str> = jobs.iter().map(|j| &*j.queue).collect();
    names.sort_unstable();
    names.dedup();
    let (missing, ruled): (Option<String>, bool) = sqlx::query_as(
        "select (select n from unnest($1::text[]) n
                 where not exists (select from causelist.queue where name = n) limit 1),
                exists (select from causelist.job_limit)
                or exists (select from causelist.queue where fair and name = any ($1))",
    )
    .bind(&names)
    .fetch_one(db)
    .await?;
    missing.map_or(Ok(ruled), |name| Err(EnqueueError::UnknownQueue(name)))
}

/// Runs one of the insert statements for the jobs at `which`; gives (id, index into `which`).
async fn insert(
    db: &mut PgConnection,
    sql: &'static str,
    keyed: bool,
    jobs: &[NewJob],
    which: &[usize],
) -> Result<Vec<(JobId, usize)>, EnqueueError> {
    let of = || which.iter().map(|i| &jobs[*i]);
    let mut query = sqlx::query_as::<_, (i64, i64)>(sql)
        .bind(of().map(|j| &*j.kind).collect::<Vec<_>>())
        .bind(of().map(|j| &*j.queue).collect::<Vec<_>>())
        .bind(of().map(|j| j.priority).collect::<Vec<_>>())
        .bind(of().map(|j| j.tenant).collect::<Vec<_>>())
        .bind(of().map(|j| &j.args).collect::<Vec<_>>())
        .bind(of().map(|j| j.max_attempts).collect::<Vec<_>>())
        .bind(of().map(|j| j.run_at).collect::<Vec<_>>())
        .bind(of().map(|j| j.parent).collect::<Vec<_>>())
        .bind(of().map(|j| j.trace.as_deref()).collect::<Vec<_>>());
    if keyed {
        let hold = |j: &NewJob| j.key.as_ref().map_or(Hold::While, |(_, hold)| *hold);
        query = query
            .bind(
                of().map(|j| j.key.as_ref().map(|(key, _)| key.as_str()))
                    .collect::<Vec<_>>(),
            )
            .bind(
                of().map(|j| match hold(j) {
                    Hold::While => "while",
                    Hold::Until(_) => "until",
                    Hold::Ever => "ever",
                })
                .collect::<Vec<_>>(),
            )
            .bind(
                of().map(|j| match hold(j) {
                    Hold::Until(at) => Some(at),
                    _ => None,
                })
                .collect::<Vec<_>>(),
            );
    }
    let rows = query.fetch_all(db).await?;
    Ok(rows.into_iter().map(|(id, pos)| (id, index(pos))).collect())
}

async fn holders(db: &mut PgConnection, jobs: &[NewJob], which: &[usize]) -> Result<Vec<(JobId, usize)>, EnqueueError> {
    if which.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(i64, i64)> = sqlx::query_as(HOLDERS)
        .bind(which.iter().map(|i| jobs[*i].tenant).collect::<Vec<_>>())
        .bind(which.iter().map(|i| &*jobs[*i].kind).collect::<Vec<_>>())
        .bind(
            which
                .iter()
                .map(|i| jobs[*i].key.as_ref().map(|(k, _)| k.as_str()))
                .collect::<Vec<_>>(),
        )
        .fetch_all(db)
        .await?;
    Ok(rows.into_iter().map(|(pos, id)| (id, index(pos))).collect())
}

/// WITH ORDINALITY counts from 1.
fn index(pos: i64) -> usize {
    usize::try_from(pos - 1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refuses_what_cannot_be_stored_and_names_it() {
        let refuse = |job: NewJob| job.check(Limits::default()).expect_err("must be refused").to_string();
        assert!(refuse(NewJob::raw("Check SLA", json!({}))).contains("kind \"Check SLA\""));
        assert!(refuse(NewJob::raw("x", json!([1]))).contains("must be a JSON object"));
        assert!(refuse(NewJob::raw("x", json!({"a": "b\0c"}))).contains("NUL"));
        assert!(refuse(NewJob::raw("x", json!({"a\0": 1}))).contains("NUL"));
        assert!(refuse(NewJob::raw("x", json!({"a": "y".repeat(300_000)}))).contains("262144"));
        assert!(refuse(NewJob::raw("x", json!({})).key("")).contains("key \"\""));
        assert!(refuse(NewJob::raw("x", json!({})).max_attempts(0)).contains("max_attempts \"0\""));
        assert!(refuse(NewJob::raw("x", json!({})).trace("t".repeat(513))).contains("512 characters"));
        assert!(refuse(NewJob::raw("x", json!({})).trace("t\0".to_owned())).contains("no NUL"));
        let never = Hold::Until(DateTime::<Utc>::MAX_UTC);
        assert!(refuse(NewJob::raw("x", json!({})).key_held("k", never)).contains("between 1970 and 9999"));
        let deep = (0..80).fold(json!({}), |inner, _| json!({ "a": inner }));
        assert!(refuse(NewJob::raw("x", deep)).contains("64 levels"));
        NewJob::raw("x", json!({"ok": [1, "é", null]}))
            .check(Limits::default())
            .expect("is fine");
    }
}
