//! What happens to jobs that nobody runs: they come due, are cancelled, paused, retried, purged.

use causelist_queue::testing;
use causelist_queue::{CancelEffect, DeadFilter, KeyTaken, Retried, cancel, purge_dead, retry_dead};

use super::ops::{Pick, QUEUES, Window};
use super::play::{Play, Step, TENANT, fault, pick, same};
use super::state::Place;

impl Play<'_> {
    /// Lets the time come for a job that waits for one.
    pub(super) async fn turn_due(&mut self, job: Pick) -> Result<Option<i64>, String> {
        let waiting: Vec<i64> = self
            .model
            .jobs
            .values()
            .filter(|j| matches!(j.place, Place::Scheduled { .. }))
            .map(|j| j.id)
            .collect();
        let Some(&id) = pick(&waiting, job) else {
            return Ok(None);
        };
        sqlx::query("update causelist.scheduled set run_at = clock_timestamp() - interval '1 hour' where id = $1")
            .bind(id)
            .execute(self.db.pool())
            .await
            .map_err(fault)?;
        if let Some(job) = self.model.jobs.get_mut(&id)
            && let Place::Scheduled { due, .. } = &mut job.place
        {
            *due = true;
        }
        Ok(Some(id))
    }

    pub(super) fn due(&self) -> Vec<i64> {
        let due = |p| matches!(p, Place::Scheduled { due: true, .. });
        self.model
            .jobs
            .values()
            .filter(|j| due(j.place))
            .map(|j| j.id)
            .collect()
    }

    pub(super) async fn promote(&mut self) -> Step {
        let mut queues = testing::promote(self.db.pool()).await.map_err(fault)?;
        queues.sort_unstable();
        let due = self.due();
        let mut expected: Vec<&str> = due.iter().map(|id| QUEUES[self.model.jobs[id].new.queue]).collect();
        expected.sort_unstable();
        expected.dedup();
        due.into_iter().for_each(|id| self.model.promote(id));
        same(
            "queues with something new",
            queues.iter().map(String::as_str).collect(),
            expected,
        )
    }

    pub(super) async fn cancel(&mut self, job: Pick) -> Step {
        let ids: Vec<i64> = self.model.jobs.keys().copied().collect();
        let Some(&id) = pick(&ids, job) else { return Ok(()) };
        let effect = cancel(self.db.pool(), id).await.map_err(fault)?;
        let expected = match self.model.jobs[&id].place {
            Place::Ready | Place::Waiting | Place::Scheduled { .. } => {
                self.model.cancel(id);
                CancelEffect::Cancelled
            }
            Place::Held { .. } => {
                if let Some(job) = self.model.jobs.get_mut(&id) {
                    job.cancel_asked = true;
                }
                CancelEffect::Requested
            }
            Place::Dead { .. } | Place::Ended { .. } => CancelEffect::Finished,
        };
        same("what the cancel did", effect, expected)
    }

    pub(super) async fn expire_key(&mut self, key: Pick) -> Step {
        let names: Vec<_> = self
            .model
            .keys
            .iter()
            .filter(|(_, k)| k.window == Window::Until)
            .map(|(name, _)| *name)
            .collect();
        let Some(&(number, of_tenant)) = pick(&names, key) else {
            return Ok(());
        };
        sqlx::query(
            "update causelist.job_key set expires_at = clock_timestamp() - interval '1 second'
             where key = $1 and (tenant = $2) = $3",
        )
        .bind(format!("k{number}"))
        .bind(TENANT)
        .bind(of_tenant)
        .execute(self.db.pool())
        .await
        .map_err(fault)?;
        if let Some(key) = self.model.keys.get_mut(&(number, of_tenant)) {
            key.expired = true;
        }
        Ok(())
    }

    pub(super) async fn pause(&mut self, queue: usize, paused: bool) -> Step {
        sqlx::query("update causelist.queue set paused = $2 where name = $1")
            .bind(QUEUES[queue])
            .bind(paused)
            .execute(self.db.pool())
            .await
            .map_err(fault)?;
        self.model.paused[queue] = paused;
        Ok(())
    }

    pub(super) async fn retry_dead(&mut self, job: Pick) -> Step {
        // A third of the picks falls on jobs that are not dead.
        let is_dead = |p| matches!(p, Place::Dead { .. });
        let ids: Vec<i64> = self
            .model
            .jobs
            .values()
            .filter(|j| job.is_multiple_of(3) || is_dead(j.place))
            .map(|j| j.id)
            .collect();
        let Some(&id) = pick(&ids, job) else { return Ok(()) };
        let mut conn = self.db.pool().acquire().await.map_err(fault)?;
        let got = retry_dead(&mut conn, &DeadFilter::job(id), 1).await.map_err(fault)?;
        let mut expected = Retried::default();
        if is_dead(self.model.jobs[&id].place) {
            match self.model.revive(id) {
                Ok(()) => {
                    expected.jobs.push(id);
                    expected.queues.push(QUEUES[self.model.jobs[&id].new.queue].to_owned());
                }
                Err(holder) => expected.refused.push(KeyTaken {
                    id,
                    holder: Some(holder),
                }),
            }
        }
        same("what the retry did", got, expected)
    }

    pub(super) async fn purge_dead(&mut self, job: Pick) -> Step {
        let is_dead = |p| matches!(p, Place::Dead { .. });
        let ids: Vec<i64> = self
            .model
            .jobs
            .values()
            .filter(|j| is_dead(j.place))
            .map(|j| j.id)
            .collect();
        let Some(&id) = pick(&ids, job) else { return Ok(()) };
        let mut conn = self.db.pool().acquire().await.map_err(fault)?;
        let purged = purge_dead(&mut conn, &DeadFilter::job(id), 1, "the test")
            .await
            .map_err(fault)?;
        same("the jobs purged", purged, vec![id])?;
        let fence = sqlx::query_scalar("select max(fence) from causelist.attempt where job_id = $1")
            .bind(id)
            .fetch_one(&mut *conn)
            .await
            .map_err(fault)?;
        self.model.purge(id, fence);
        Ok(())
    }
}
