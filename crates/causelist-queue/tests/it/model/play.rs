//! Plays a sequence on the queue and on the model, and compares them after every operation.

use std::time::Duration;

use causelist_core::JobError;
use causelist_queue::limits::{self, Rule, Scope};
use causelist_queue::testing::{self, Hand, Taken};
use causelist_queue::{Hold, NewJob, enqueue, enqueue_many};
use causelist_testkit::TestDb;
use chrono::DateTime;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::check::{compare, compare_shown};
use super::ops::{End, LIMIT, New, Op, Pick, QUEUES, Window};
use super::state::Model;

pub const TENANT: Uuid = Uuid::from_u128(7);
pub(super) const LEASE: Duration = Duration::from_secs(3600);

/// A claim as its worker remembers it, held or lost.
pub(super) struct Claim {
    pub(super) hand: usize,
    pub(super) fence: i64,
    pub(super) jobs: Vec<Taken>,
}

pub(super) struct Play<'a> {
    pub(super) db: &'a TestDb,
    pub(super) model: Model,
    pub(super) hands: [Hand; 2],
    pub(super) claims: Vec<Claim>,
}

pub(super) type Step = Result<(), String>;

pub(super) fn fault(e: impl std::fmt::Display) -> String {
    e.to_string()
}

pub(super) fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, expected: T) -> Step {
    if got == expected {
        Ok(())
    } else {
        Err(format!("{what}: got {got:?}, expected {expected:?}"))
    }
}

/// Plays a whole sequence on empty tables.
pub async fn play(db: &TestDb, ops: &[Op]) -> Step {
    sqlx::raw_sql(
        "delete from causelist.job; delete from causelist.attempt; delete from causelist.ready;
         delete from causelist.scheduled; delete from causelist.claim; delete from causelist.dead;
         delete from causelist.job_key; delete from causelist.cancel_request; delete from effect; delete from causelist.waiting; delete from causelist.slot;
         update causelist.queue set paused = false where paused",
    )
    .execute(db.pool())
    .await
    .map_err(fault)?;
    let rule = Rule {
        kind: Some("limited".into()),
        scope: Scope::Fleet,
        max_running: Some(LIMIT as u32),
        rate: None,
    };
    limits::set(db.pool(), &rule).await.map_err(fault)?;
    let mut play = Play {
        db,
        model: Model::default(),
        hands: [Hand::new(db.pool()), Hand::new(db.pool())],
        claims: Vec::new(),
    };
    for (n, op) in ops.iter().enumerate() {
        let step = match play.step(op).await {
            Ok(()) => compare(db, &mut play.model).await,
            wrong => wrong,
        };
        step.map_err(|problem| format!("after operation {n}, {op:?}:\n{problem}"))?;
    }
    compare_shown(db, &play.model).await
}

impl Play<'_> {
    pub(super) async fn step(&mut self, op: &Op) -> Step {
        match op {
            Op::Enqueue(new) => self.enqueue(std::slice::from_ref(new)).await,
            Op::EnqueueMany(new) => self.enqueue(new).await,
            Op::EnqueueRolledBack(new) => {
                let mut tx = self.db.pool().begin().await.map_err(fault)?;
                enqueue_many(&mut tx, &self.asked(new)).await.map_err(fault)?;
                tx.rollback().await.map_err(fault)
            }
            Op::EnqueueRefused(new) => {
                let mut jobs = self.asked(new);
                jobs.push(NewJob::raw("model", json!({})).queue("nowhere"));
                let mut conn = self.db.pool().acquire().await.map_err(fault)?;
                match enqueue_many(&mut conn, &jobs).await {
                    Err(_) => Ok(()),
                    Ok(_) => Err("an unknown queue was taken".into()),
                }
            }
            Op::Claim { queue, limit } => self.claim(*queue, *limit).await,
            Op::Settle { claim, jobs, ends } => self.settle(*claim, *jobs, ends).await,
            Op::SettleWhole { claim } => self.settle_whole(*claim).await,
            Op::Complete { claim, job } => self.complete(*claim, *job, End::Done).await,
            Op::CommitPart { claim, job } => self.complete(*claim, *job, End::Snooze).await,
            Op::RollBackPart { claim, job } => self.complete(*claim, *job, End::Discard).await,
            Op::Release { claim, jobs } => self.release(*claim, *jobs).await,
            Op::Renew { claim } => self.renew(*claim).await,
            Op::Expire { claim } => self.expire(*claim).await.map(drop),
            Op::Rescue => self.rescue().await,
            Op::TurnDue { job } => self.turn_due(*job).await.map(drop),
            Op::Promote => self.promote().await,
            Op::Cancel { job } => self.cancel(*job).await,
            Op::ExpireKey { key } => self.expire_key(*key).await,
            Op::Pause { queue } => self.pause(*queue, true).await,
            Op::Resume { queue } => self.pause(*queue, false).await,
            Op::RetryDead { job } => self.retry_dead(*job).await,
            Op::PurgeDead { job } => self.purge_dead(*job).await,
            Op::SettleAndRescue { claim } => self.settle_and_rescue(*claim).await,
            Op::CompleteAndRescue { claim, job } => self.complete_and_rescue(*claim, *job).await,
            Op::TwoClaims { queue } => self.two_claims(*queue).await,
            Op::Admit => self.admit().await,
            Op::CancelAndPromote { job } => self.cancel_and_promote(*job).await,
        }
    }

    pub(super) fn asked(&self, new: &[New]) -> Vec<NewJob> {
        // Far off, so that only the test decides when it is due.
        let later = DateTime::UNIX_EPOCH + chrono::Duration::days(36_500);
        new.iter()
            .map(|n| {
                let kind = if n.limited { "limited" } else { "model" };
                let job = NewJob::raw(kind, json!({}))
                    .queue(QUEUES[n.queue])
                    .priority(n.priority)
                    .max_attempts(n.max_attempts)
                    .run_at(n.later.then_some(later));
                let Some((number, of_tenant, window)) = n.key else {
                    return job;
                };
                let hold = match window {
                    Window::While => Hold::While,
                    Window::Until => Hold::Until(later),
                    Window::Ever => Hold::Ever,
                };
                job.tenant(of_tenant.then_some(TENANT))
                    .key_held(&format!("k{number}"), hold)
            })
            .collect()
    }

    pub(super) async fn enqueue(&mut self, new: &[New]) -> Step {
        let jobs = self.asked(new);
        let mut conn = self.db.pool().acquire().await.map_err(fault)?;
        let made = match jobs.as_slice() {
            [job] => vec![enqueue(&mut conn, job.clone()).await.map_err(fault)?],
            jobs => enqueue_many(&mut conn, jobs).await.map_err(fault)?,
        };
        same("answers", made.len(), new.len())?;
        for (new, got) in new.iter().zip(made) {
            let expected = match self.model.holder(new) {
                Some(id) => (id, true),
                None => {
                    self.model.add(got.id, *new);
                    (got.id, false)
                }
            };
            same("the answer", (got.id, got.duplicate), expected)?;
        }
        Ok(())
    }

    pub(super) async fn claim(&mut self, queue: usize, limit: usize) -> Step {
        let hand = self.claims.len() % 2;
        let jobs = self.hands[hand]
            .claim(QUEUES[queue], limit, LEASE)
            .await
            .map_err(fault)?;
        let ids: Vec<i64> = jobs.iter().map(Taken::id).collect();
        same("the jobs claimed", ids, self.model.next(queue, limit))?;
        self.took(hand, jobs)
    }

    pub(super) fn took(&mut self, hand: usize, jobs: Vec<Taken>) -> Step {
        let Some(first) = jobs.first() else { return Ok(()) };
        let fence = first.fence();
        if self.claims.iter().any(|c| c.fence >= fence) {
            return Err(format!("fence {fence} is not newer than all others"));
        }
        for job in &jobs {
            same("its fence", job.fence(), fence)?;
            same("its attempt", job.attempt(), self.model.jobs[&job.id()].used + 1)?;
            self.model.take(job.id(), fence);
        }
        self.claims.push(Claim { hand, fence, jobs });
        Ok(())
    }

    /// A claim, and the jobs of it whose bit is set.
    pub(super) fn picked(&self, claim: Pick, bits: u8) -> Option<(&Claim, Vec<&Taken>)> {
        let claim = pick(&self.claims, claim)?;
        let jobs: Vec<&Taken> = claim
            .jobs
            .iter()
            .enumerate()
            .filter(|(n, _)| bits & (1 << n) != 0)
            .map(|(_, job)| job)
            .collect();
        (!jobs.is_empty()).then_some((claim, jobs))
    }

    pub(super) async fn settle(&mut self, claim: Pick, bits: u8, ends: &[End; 8]) -> Step {
        let Some((claim, jobs)) = self.picked(claim, bits) else {
            return Ok(());
        };
        let batch: Vec<_> = jobs.iter().zip(ends).map(|(job, end)| (*job, result(*end))).collect();
        let recorded = self.hands[claim.hand]
            .settle(claim.fence, &batch)
            .await
            .map_err(fault)?;
        let (fence, ids): (i64, Vec<i64>) = (claim.fence, jobs.iter().map(|j| j.id()).collect());
        let expected = ids
            .iter()
            .zip(ends)
            .filter(|(id, end)| self.model.settle(**id, fence, **end))
            .count();
        same("settles recorded", recorded, expected as u64)
    }

    /// Of the jobs that its worker believes in its claim, since it was told of none that left it.
    pub(super) async fn settle_whole(&mut self, claim: Pick) -> Step {
        let Some(claim) = pick(&self.claims, claim) else {
            return Ok(());
        };
        let fence = claim.fence;
        let lost = self.model.held(fence).is_empty();
        let jobs: Vec<&Taken> = claim
            .jobs
            .iter()
            .filter(|job| lost || self.model.holds(fence, job.id()))
            .collect();
        let plain = |new: &New| new.key.is_none() && !new.limited;
        if !jobs.iter().all(|job| plain(&self.model.jobs[&job.id()].new)) {
            return Ok(());
        }
        let recorded = self.hands[claim.hand].settle_whole(fence, &jobs).await.map_err(fault)?;
        let ids: Vec<i64> = jobs.iter().map(|j| j.id()).collect();
        let expected = ids
            .iter()
            .filter(|id| self.model.settle(**id, fence, End::Done))
            .count();
        self.model.expired.retain(|f| *f != fence);
        same("settles recorded", recorded, expected as u64)
    }

    /// A transaction of a job's own: completed, committed with the job going on (Snooze), or
    /// dropped (Discard).
    pub(super) async fn complete(&mut self, claim: Pick, job: Pick, how: End) -> Step {
        let Some(claim) = pick(&self.claims, claim) else {
            return Ok(());
        };
        let Some(job) = pick(&claim.jobs, job) else {
            return Ok(());
        };
        let (id, fence) = (job.id(), claim.fence);
        let cx = self.hands[claim.hand].cx(job);
        let mut tx = cx.begin().await.map_err(fault)?;
        effect(&mut tx, id, fence).await?;
        let end = match how {
            End::Done => tx.complete(&json!({})).await,
            End::Snooze => tx.commit_part().await,
            _ => {
                drop(tx);
                return Ok(());
            }
        };
        let held = self.model.holds(fence, id);
        same("its end", end, if held { Ok(()) } else { Err(JobError::LeaseLost) })?;
        if held {
            self.model.effects.push((id, fence));
        }
        if how == End::Done {
            self.model.settle(id, fence, End::Done);
        }
        Ok(())
    }

    pub(super) async fn release(&mut self, claim: Pick, bits: u8) -> Step {
        let Some((claim, jobs)) = self.picked(claim, bits) else {
            return Ok(());
        };
        let fence = claim.fence;
        let released = self.hands[claim.hand].release(fence, &jobs).await.map_err(fault)?;
        let ids: Vec<i64> = jobs
            .iter()
            .map(|j| j.id())
            .filter(|id| self.model.holds(fence, *id))
            .collect();
        same("whether any was held", released, !ids.is_empty())?;
        ids.into_iter().for_each(|id| self.model.give_back(id));
        Ok(())
    }

    pub(super) async fn renew(&mut self, claim: Pick) -> Step {
        let Some(claim) = pick(&self.claims, claim) else {
            return Ok(());
        };
        let fence = claim.fence;
        let ids: Vec<i64> = claim.jobs.iter().map(Taken::id).collect();
        let (held, mut stop) = self.hands[claim.hand]
            .renew(&[fence], &ids, LEASE)
            .await
            .map_err(fault)?;
        let holds = !self.model.held(fence).is_empty();
        same("claims held", held, if holds { vec![fence] } else { vec![] })?;
        self.model.expired.retain(|f| *f != fence);
        // Of the others that were its jobs once it may hear, or not.
        stop.retain(|id| self.model.holds(fence, *id));
        stop.sort_unstable();
        let asked = self
            .model
            .held(fence)
            .into_iter()
            .filter(|id| self.model.jobs[id].cancel_asked)
            .collect();
        same("jobs to be stopped", stop, asked)
    }

    /// Ends a lease, as time would. Its fence, if it was held.
    pub(super) async fn expire(&mut self, claim: Pick) -> Result<Option<i64>, String> {
        let Some(claim) = pick(&self.claims, claim) else {
            return Ok(None);
        };
        let fence = claim.fence;
        sqlx::query("update causelist.claim set expires_at = clock_timestamp() - interval '1 second' where id = $1")
            .bind(fence)
            .execute(self.db.pool())
            .await
            .map_err(fault)?;
        if self.model.held(fence).is_empty() {
            return Ok(None);
        }
        if !self.model.expired.contains(&fence) {
            self.model.expired.push(fence);
        }
        Ok(Some(fence))
    }

    pub(super) async fn rescue(&mut self) -> Step {
        testing::rescue(self.db.pool()).await.map_err(fault)?;
        self.rescued().await
    }

    pub(super) async fn rescued(&mut self) -> Step {
        self.model.rescue();
        // The wait after a second crash is random, from nothing to some seconds.
        sqlx::query(
            "update causelist.scheduled set run_at = clock_timestamp() + interval '1 hour'
             where reason = 'crashed' and attempt > 1 and run_at > clock_timestamp() - interval '1 minute'",
        )
        .execute(self.db.pool())
        .await
        .map_err(fault)?;
        Ok(())
    }
}

pub(super) fn pick<T>(from: &[T], pick: Pick) -> Option<&T> {
    from.get(usize::from(pick) % from.len().max(1))
}

fn result(end: End) -> Result<Value, JobError> {
    let text = || "as asked".to_owned();
    Err(match end {
        End::Done => return Ok(json!({ "done": true })),
        End::Retry => JobError::Retry(text()),
        End::RetryAfter => JobError::RetryAfter(LEASE, text()),
        End::Snooze => JobError::Snooze(LEASE, text()),
        End::Permanent => JobError::Permanent(text()),
        End::Discard => JobError::Discard(text()),
        End::Uncertain => JobError::Uncertain(text()),
        End::Cancelled => JobError::Cancelled,
        End::LeaseLost => JobError::LeaseLost,
    })
}

pub(super) async fn effect(db: &mut PgConnection, job: i64, fence: i64) -> Step {
    sqlx::query("insert into effect values ($1, $2)")
        .bind(job)
        .bind(fence)
        .execute(db)
        .await
        .map_err(fault)?;
    Ok(())
}
