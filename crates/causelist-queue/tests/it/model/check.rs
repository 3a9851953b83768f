//! The rows that the model expects, against those that are there.

use causelist_queue::show;
use causelist_testkit::TestDb;

use super::ops::{QUEUES, Window};
use super::state::{Model, Place};

/// (table, id, the columns that the model knows, rank)
type Row = (String, i64, String, Option<i64>);

const ROWS: &str = "
select 'job' as what, id, '' as is, null::bigint as rank from causelist.job
union all
select 'ready', id, format('%s %s, %s used', queue, priority, attempt), rank from causelist.ready
union all
select 'waiting', id, format('%s %s, %s used', queue, priority, attempt), rank from causelist.waiting
union all
select 'slot', job, '', null from causelist.slot
union all
select 'scheduled', id, format('%s %s, %s used, %s%s', queue, priority, attempt, reason,
           case when run_at <= clock_timestamp() then ', due' else '' end), null from causelist.scheduled
union all
select 'claim', c.id, format('%s: job %s, attempt %s%s', c.queue, u.id, u.attempt,
           case when c.expires_at < clock_timestamp() then ', expired' else '' end), null
from causelist.claim c left join lateral unnest(c.ids, c.attempts) u(id, attempt) on true
union all
select 'dead', id, format('%s, %s used', reason, attempt), null from causelist.dead
union all
select 'attempt', job_id, format('%s under %s: %s', attempt, fence, outcome), null from causelist.attempt
union all
select 'key', job_id, format('%s of %s, %s%s', key, case when tenant = $1 then 'the tenant' else 'nobody' end, hold,
           case when expires_at <= clock_timestamp() then ', expired' else '' end), null from causelist.job_key
union all
-- One for a job that has ended is forgotten within a day.
select 'cancel', id, '', null from causelist.cancel_request where causelist.job_state(id) in ('ready','waiting','scheduled','running')
union all
select 'effect', job, fence::text, null from effect
order by 1, 2, 3";

/// Compares every row; notes the ranks of jobs that have just become ready.
pub async fn compare(db: &TestDb, model: &mut Model) -> Result<(), String> {
    let there: Vec<Row> = sqlx::query_as(ROWS)
        .bind(super::play::TENANT)
        .fetch_all(db.pool())
        .await
        .map_err(|e| e.to_string())?;
    let mut expected = expected(model);
    expected.sort_unstable();
    let mut seen: Vec<(&str, i64, &str)> = there
        .iter()
        .map(|(w, id, is, _)| (w.as_str(), *id, is.as_str()))
        .collect();
    seen.sort_unstable();
    let wanted: Vec<(&str, i64, &str)> = expected.iter().map(|(w, id, is)| (*w, *id, is.as_str())).collect();
    if seen != wanted {
        let missing: Vec<_> = wanted.iter().filter(|row| !seen.contains(row)).collect();
        let extra: Vec<_> = seen.iter().filter(|row| !wanted.contains(row)).collect();
        return Err(format!(
            "missing: {missing:?}\nunexpected: {extra:?}\nrows: {} for {}",
            seen.len(),
            wanted.len()
        ));
    }
    for (what, id, _, rank) in &there {
        if what != "ready" && what != "waiting" {
            continue;
        }
        let job = model.jobs.get_mut(id).ok_or("a job that nobody knows is ready")?;
        if job.rank.is_some_and(|known| Some(known) != *rank) {
            return Err(format!("job {id} has lost its place: {:?}, now {rank:?}", job.rank));
        }
        job.rank = *rank;
    }
    Ok(())
}

fn expected(model: &Model) -> Vec<(&'static str, i64, String)> {
    let mut rows = Vec::new();
    for job in model.jobs.values() {
        let where_ = format!("{} {}", QUEUES[job.new.queue], job.new.priority);
        rows.push(("job", job.id, String::new()));
        match job.place {
            Place::Ready => rows.push(("ready", job.id, format!("{where_}, {} used", job.used))),
            Place::Waiting => rows.push(("waiting", job.id, format!("{where_}, {} used", job.used))),
            Place::Scheduled { due, reason } => {
                let due = if due { ", due" } else { "" };
                rows.push((
                    "scheduled",
                    job.id,
                    format!("{where_}, {} used, {reason}{due}", job.used),
                ));
            }
            Place::Held { fence } => {
                let expired = if model.expired.contains(&fence) {
                    ", expired"
                } else {
                    ""
                };
                let (queue, attempt) = (QUEUES[job.new.queue], job.used + 1);
                rows.push((
                    "claim",
                    fence,
                    format!("{queue}: job {}, attempt {attempt}{expired}", job.id),
                ));
            }
            Place::Dead { reason } => rows.push(("dead", job.id, format!("{reason}, {} used", job.used))),
            Place::Ended { .. } => {}
        }
        if job.new.limited && matches!(job.place, Place::Ready | Place::Held { .. }) {
            rows.push(("slot", job.id, String::new()));
        }
        for (attempt, fence, outcome) in &job.record {
            rows.push(("attempt", job.id, format!("{attempt} under {fence}: {outcome}")));
        }
        if job.cancel_asked {
            rows.push(("cancel", job.id, String::new()));
        }
    }
    for ((number, of_tenant), key) in &model.keys {
        let whose = if *of_tenant { "the tenant" } else { "nobody" };
        let hold = match key.window {
            Window::While => "while",
            Window::Until => "until",
            Window::Ever => "ever",
        };
        let expired = if key.expired { ", expired" } else { "" };
        rows.push(("key", key.job, format!("k{number} of {whose}, {hold}{expired}")));
    }
    for (job, fence) in &model.effects {
        rows.push(("effect", *job, fence.to_string()));
    }
    rows
}

/// What people are shown of each job agrees with it too.
pub async fn compare_shown(db: &TestDb, model: &Model) -> Result<(), String> {
    let mut conn = db.pool().acquire().await.map_err(|e| e.to_string())?;
    for job in model.jobs.values() {
        let (record, attempts) = show(&mut conn, job.id)
            .await
            .map_err(|e| e.to_string())?
            .ok_or_else(|| format!("job {} is not shown", job.id))?;
        let state = match job.place {
            Place::Ready => "ready",
            Place::Waiting => "waiting",
            Place::Scheduled { .. } => "scheduled",
            Place::Held { .. } => "running",
            Place::Dead { .. } => "dead",
            Place::Ended { state } => state,
        };
        let shown: Vec<&str> = attempts.iter().map(|a| a.outcome.as_str()).collect();
        let known: Vec<&str> = job.record.iter().map(|(_, _, outcome)| *outcome).collect();
        if record.state != state || shown != known {
            return Err(format!(
                "job {} is shown as {} with {shown:?}, is {state} with {known:?}",
                job.id, record.state
            ));
        }
        if record.finished_at != attempts.last().map(|a| a.finished_at) {
            return Err(format!(
                "job {} is shown with another end than its last attempt's: {known:?}",
                job.id
            ));
        }
    }
    Ok(())
}
