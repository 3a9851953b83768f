//! What is handed to apalis at a time: a job, several short ones, or the arguments of one batch call.

use std::collections::{HashMap, VecDeque};

use tokio_util::sync::CancellationToken;

use crate::claim::Claimed;

/// A claimed job on its way to, or in, its run.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) job: Claimed,
    /// Fires when it should stop: somebody asked for it, or the lease is over.
    pub(crate) stop: CancellationToken,
    /// The lease is over or nearly so: it must not write any more. Shared by all of a claim.
    pub(crate) lost: CancellationToken,
}

/// Jobs that start together.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) jobs: Vec<Held>,
    /// They are the arguments of one call.
    pub(crate) batch: bool,
    /// How many of the worker's slots they take: one for a batch, else one each.
    pub(crate) slots: usize,
}

/// Jobs that end this fast share a task, so that starting one costs less than running it: a bundle
/// is what ends in half a millisecond at the present rate.
const SHARE: usize = 2000;
/// A bundle that turns out to be slow keeps no more than these on one task.
const MOST: usize = 32;

impl Bundle {
    /// Takes from the front of the buffer what `free` slots can run. `rate` is jobs ended per second
    /// lately, `batches` the kinds that run many in one call.
    pub(crate) fn take(
        buffer: &mut VecDeque<Held>,
        free: usize,
        rate: usize,
        batches: &HashMap<&'static str, usize>,
    ) -> Option<Self> {
        let head = &buffer.front()?.job;
        if let Some(&most) = batches.get(&*head.kind) {
            let (kind, fence) = (head.kind.clone(), head.fence);
            // One that may kill its worker takes no others along.
            let most = if head.among_suspects { 1 } else { most };
            let mut jobs = Vec::new();
            let mut i = 0;
            while jobs.len() < most && i < buffer.len() {
                // One claim's only: they keep or lose their lease together.
                if buffer[i].job.kind == kind && buffer[i].job.fence == fence {
                    jobs.extend(buffer.remove(i));
                } else {
                    i += 1;
                }
            }
            return Some(Self {
                jobs,
                batch: true,
                slots: 1,
            });
        }
        let many = (rate / SHARE).clamp(1, MOST).min(free);
        let until = buffer
            .iter()
            .take(many)
            .position(|h| batches.contains_key(&*h.job.kind))
            .unwrap_or(many)
            .min(buffer.len());
        let jobs: Vec<Held> = buffer.drain(..until).collect();
        Some(Self {
            slots: jobs.len(),
            jobs,
            batch: false,
        })
    }
}
