//! Operations at the same time: one of them wins, whole.

use causelist_core::JobError;
use causelist_queue::testing::{self, Taken};
use causelist_queue::{CancelEffect, cancel};
use serde_json::json;

use super::ops::{End, Pick, QUEUES};
use super::play::{LEASE, Play, Step, effect, fault, pick, same};

impl Play<'_> {
    /// The end of a lease and the settle of all its jobs: one of the two gets them, whole.
    pub(super) async fn settle_and_rescue(&mut self, claim: Pick) -> Step {
        let Some(fence) = self.expire(claim).await? else {
            return Ok(());
        };
        let Some((claim, jobs)) = self.picked(claim, u8::MAX) else {
            return Ok(());
        };
        let batch: Vec<_> = jobs.iter().map(|job| (*job, Ok(json!({})))).collect();
        let (recorded, rescued) = tokio::join!(
            self.hands[claim.hand].settle(fence, &batch),
            testing::rescue(self.db.pool())
        );
        rescued.map_err(fault)?;
        let held = self.model.held(fence);
        let recorded = recorded.map_err(fault)?;
        if recorded > 0 {
            same("settles recorded", recorded, held.len() as u64)?;
            for id in held {
                self.model.settle(id, fence, End::Done);
            }
        }
        self.rescued().await
    }

    pub(super) async fn complete_and_rescue(&mut self, claim: Pick, job: Pick) -> Step {
        let Some(fence) = self.expire(claim).await? else {
            return Ok(());
        };
        let Some(claim) = pick(&self.claims, claim) else {
            return Ok(());
        };
        let Some(job) = pick(&claim.jobs, job) else {
            return Ok(());
        };
        let cx = self.hands[claim.hand].cx(job);
        let complete = async {
            let mut tx = cx.begin().await.map_err(fault)?;
            effect(&mut tx, job.id(), fence).await?;
            Ok::<_, String>(tx.complete(&json!({})).await)
        };
        let (end, rescued) = tokio::join!(complete, testing::rescue(self.db.pool()));
        rescued.map_err(fault)?;
        let id = job.id();
        match end? {
            Ok(()) => {
                if !self.model.settle(id, fence, End::Done) {
                    return Err(format!("job {id} was completed by who did not hold it"));
                }
                self.model.effects.push((id, fence));
                // The rescue passed over the claim while it was locked, or took what was left of it.
                self.rescue().await
            }
            Err(JobError::LeaseLost) => self.rescued().await,
            Err(other) => Err(fault(other)),
        }
    }

    pub(super) async fn two_claims(&mut self, queue: usize) -> Step {
        let (one, two) = tokio::join!(
            self.hands[0].claim(QUEUES[queue], 2, LEASE),
            self.hands[1].claim(QUEUES[queue], 2, LEASE)
        );
        let mut claims = [(0, one.map_err(fault)?), (1, two.map_err(fault)?)];
        let mut ids: Vec<i64> = claims.iter().flat_map(|(_, jobs)| jobs.iter().map(Taken::id)).collect();
        let mut expected = self.model.next(queue, 4);
        ids.sort_unstable();
        expected.sort_unstable();
        same("the jobs of both claims", ids, expected)?;
        claims.sort_by_key(|(_, jobs)| jobs.first().map(Taken::fence));
        for (hand, jobs) in claims {
            self.took(hand, jobs)?;
        }
        Ok(())
    }

    /// One of them has to let the other do it.
    pub(super) async fn admit(&mut self) -> Step {
        let (one, two) = tokio::join!(
            testing::admit(self.db.pool(), &QUEUES),
            testing::admit(self.db.pool(), &QUEUES)
        );
        let passed = one.map_err(fault)? + two.map_err(fault)?;
        same("jobs let pass", passed, self.model.admit() as i32)
    }

    /// A job that becomes ready while it is cancelled is cancelled.
    pub(super) async fn cancel_and_promote(&mut self, job: Pick) -> Step {
        let Some(id) = self.turn_due(job).await? else {
            return Ok(());
        };
        let (effect, promoted) = tokio::join!(cancel(self.db.pool(), id), testing::promote(self.db.pool()));
        promoted.map_err(fault)?;
        same("what the cancel did", effect.map_err(fault)?, CancelEffect::Cancelled)?;
        self.model.cancel(id);
        // A promote passes over what the cancel has locked, and stops there: nothing else is due.
        self.due().into_iter().for_each(|id| self.model.promote(id));
        Ok(())
    }
}
