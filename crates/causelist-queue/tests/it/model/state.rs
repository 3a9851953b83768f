//! What the model knows: where each job is, what was recorded of it, who holds which key.

use std::collections::BTreeMap;

use super::ops::{End, LIMIT, New, QUEUES, Window};

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Ready,
    /// Behind the gate of its kind.
    Waiting,
    Scheduled {
        due: bool,
        reason: &'static str,
    },
    Held {
        fence: i64,
    },
    Dead {
        reason: &'static str,
    },
    Ended {
        state: &'static str,
    },
}

impl Place {
    fn when_due(new: New) -> Self {
        if new.limited { Self::Waiting } else { Self::Ready }
    }
}

#[derive(Debug, Clone)]
pub struct Job {
    pub id: i64,
    pub new: New,
    pub place: Place,
    /// Attempts that count.
    pub used: i16,
    /// Its place in the order; none until it has been seen.
    pub rank: Option<i64>,
    /// (attempt, fence, outcome), in the order in which they were recorded.
    pub record: Vec<(i16, i64, &'static str)>,
    pub cancel_asked: bool,
    /// It was in a claim whose worker died.
    pub suspect: bool,
    /// The key that it held when it died, to be taken again when it is retried.
    pub key_at_death: Option<KeyName>,
}

#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub job: i64,
    pub window: Window,
    pub expired: bool,
}

/// (number, whether it is of the tenant)
pub type KeyName = (u8, bool);

#[derive(Debug, Default)]
pub struct Model {
    pub jobs: BTreeMap<i64, Job>,
    pub keys: BTreeMap<KeyName, Key>,
    /// Fences of claims whose lease has ended, though nobody has taken them away.
    pub expired: Vec<i64>,
    /// Fences of claims with a suspect: nobody is to blame until one is tried.
    pub guarded: Vec<i64>,
    pub paused: [bool; QUEUES.len()],
    /// (job, fence) of every effect that was committed.
    pub effects: Vec<(i64, i64)>,
}

impl Model {
    /// The job that stands for a new one, if its key is taken.
    pub fn holder(&self, new: &New) -> Option<i64> {
        let (number, of_tenant, _) = new.key?;
        let key = self.keys.get(&(number, of_tenant))?;
        (!key.expired).then_some(key.job)
    }

    pub fn add(&mut self, id: i64, new: New) {
        let place = if new.later {
            Place::Scheduled {
                due: false,
                reason: "run_at",
            }
        } else {
            Place::when_due(new)
        };
        if let Some((number, of_tenant, window)) = new.key {
            self.keys.insert(
                (number, of_tenant),
                Key {
                    job: id,
                    window,
                    expired: false,
                },
            );
        }
        let job = Job {
            id,
            new,
            place,
            used: 0,
            rank: None,
            record: Vec::new(),
            cancel_asked: false,
            suspect: false,
            key_at_death: None,
        };
        self.jobs.insert(id, job);
    }

    /// What a claim must hand out: the first ones, in order.
    pub fn next(&self, queue: usize, limit: usize) -> Vec<i64> {
        if self.paused[queue] {
            return Vec::new();
        }
        let mut ready: Vec<&Job> = self
            .jobs
            .values()
            .filter(|j| j.place == Place::Ready && j.new.queue == queue)
            .collect();
        ready.sort_by_key(|j| (j.new.priority, j.rank, j.id));
        ready.iter().take(limit).map(|j| j.id).collect()
    }

    /// Lets waiting jobs pass, in order, as far as there is room; how many.
    pub fn admit(&mut self) -> usize {
        let inside = |p| matches!(p, Place::Ready | Place::Held { .. });
        let taken = self.jobs.values().filter(|j| j.new.limited && inside(j.place)).count();
        let paused = self.paused;
        let mut waiting: Vec<&mut Job> = self
            .jobs
            .values_mut()
            .filter(|j| j.place == Place::Waiting && !paused[j.new.queue])
            .collect();
        waiting.sort_by_key(|j| (j.new.priority, j.rank, j.id));
        let pass = waiting.into_iter().take(LIMIT.saturating_sub(taken));
        pass.map(|job| job.place = Place::Ready).count()
    }

    pub fn held(&self, fence: i64) -> Vec<i64> {
        self.jobs
            .values()
            .filter(|j| j.place == Place::Held { fence })
            .map(|j| j.id)
            .collect()
    }

    pub fn holds(&self, fence: i64, id: i64) -> bool {
        self.jobs.get(&id).is_some_and(|j| j.place == Place::Held { fence })
    }

    fn job(&mut self, id: i64) -> &mut Job {
        self.jobs.get_mut(&id).expect("the model has the job")
    }

    pub fn take(&mut self, id: i64, fence: i64) {
        self.job(id).place = Place::Held { fence };
        if self.job(id).suspect {
            self.guarded.push(fence);
        }
    }

    pub fn give_back(&mut self, id: i64) {
        self.job(id).place = Place::Ready;
    }

    /// An attempt under this fence has ended; false, and nothing happens, when it is not the job's.
    pub fn settle(&mut self, id: i64, fence: i64, end: End) -> bool {
        if end == End::LeaseLost || !self.holds(fence, id) {
            return false;
        }
        let job = self.job(id);
        let attempt = job.used + 1;
        let last = attempt >= job.new.max_attempts.cast_signed();
        let (outcome, place) = match end {
            End::Retry | End::RetryAfter if last => ("dead", Place::Dead { reason: "attempts" }),
            End::Retry | End::RetryAfter => (
                "retry",
                Place::Scheduled {
                    due: false,
                    reason: "retry",
                },
            ),
            End::Snooze => (
                "snooze",
                Place::Scheduled {
                    due: false,
                    reason: "snooze",
                },
            ),
            End::Permanent => ("dead", Place::Dead { reason: "permanent" }),
            End::Uncertain => ("uncertain", Place::Dead { reason: "uncertain" }),
            End::Discard => ("discarded", Place::Ended { state: "discarded" }),
            End::Cancelled => ("cancelled", Place::Ended { state: "cancelled" }),
            End::Done | End::LeaseLost => ("done", Place::Ended { state: "done" }),
        };
        // A job that somebody wants stopped does not run again.
        let (outcome, place) = match place {
            Place::Scheduled { .. } if job.cancel_asked => ("cancelled", Place::Ended { state: "cancelled" }),
            _ => (outcome, place),
        };
        job.used = if end == End::Snooze { job.used } else { attempt };
        job.suspect = false;
        job.record.push((attempt, fence, outcome));
        self.move_to(id, place);
        true
    }

    /// The lease of this fence has ended and somebody has seen it.
    pub fn crash(&mut self, id: i64, fence: i64) {
        let counts = !self.guarded.contains(&fence);
        let job = self.job(id);
        let attempt = job.used + 1;
        let crashed_before = job.record.iter().any(|(_, _, outcome)| *outcome == "crashed");
        job.suspect = !counts || crashed_before || job.new.max_attempts.cast_signed() <= attempt + 1;
        if counts {
            job.used = attempt;
        }
        let last = counts && attempt >= job.new.max_attempts.cast_signed();
        let place = if job.cancel_asked {
            Place::Ended { state: "cancelled" }
        } else if last {
            Place::Dead { reason: "crashed" }
        } else {
            // The first crash costs no wait; the test puts the later ones off for an hour.
            Place::Scheduled {
                due: job.used <= 1,
                reason: "crashed",
            }
        };
        let outcome = if job.cancel_asked { "cancelled" } else { "crashed" };
        if counts || job.cancel_asked {
            job.record.push((attempt, fence, outcome));
        }
        self.move_to(id, place);
    }

    /// Rescues every claim whose lease has ended.
    pub fn rescue(&mut self) {
        for fence in std::mem::take(&mut self.expired) {
            for id in self.held(fence) {
                self.crash(id, fence);
            }
        }
    }

    /// Cancelled before it had started.
    pub fn cancel(&mut self, id: i64) {
        let job = self.job(id);
        job.record.push((job.used + 1, 0, "cancelled"));
        self.move_to(id, Place::Ended { state: "cancelled" });
    }

    pub fn promote(&mut self, id: i64) {
        let place = Place::when_due(self.job(id).new);
        self.move_to(id, place);
    }

    /// A dead letter is taken back, with its key; if that has another holder by now, it stays dead
    /// and the holder is given.
    pub fn revive(&mut self, id: i64) -> Result<(), i64> {
        if let Some(name) = self.job(id).key_at_death.take() {
            if let Some(key) = self.keys.get(&name).filter(|key| !key.expired) {
                let holder = key.job;
                self.job(id).key_at_death = Some(name);
                return Err(holder);
            }
            self.keys.insert(
                name,
                Key {
                    job: id,
                    window: Window::While,
                    expired: false,
                },
            );
        }
        self.job(id).used = 0;
        self.job(id).suspect = self.job(id).place == Place::Dead { reason: "crashed" };
        self.promote(id);
        Ok(())
    }

    /// A dead letter is given up for good; the record has a fence of its own.
    pub fn purge(&mut self, id: i64, fence: i64) {
        let job = self.job(id);
        job.record.push((job.used, fence, "discarded"));
        self.move_to(id, Place::Ended { state: "discarded" });
    }

    fn move_to(&mut self, id: i64, place: Place) {
        let job = self.job(id);
        job.place = place;
        if matches!(place, Place::Ready | Place::Waiting) {
            job.rank = None;
        }
        if matches!(place, Place::Dead { .. } | Place::Ended { .. }) {
            job.cancel_asked = false;
            let own = self
                .keys
                .iter()
                .find(|(_, key)| key.job == id && key.window == Window::While);
            let own = own.map(|(name, _)| *name);
            if matches!(place, Place::Dead { .. }) {
                self.job(id).key_at_death = own;
            }
            self.keys.retain(|_, key| key.job != id || key.window != Window::While);
        }
    }
}
