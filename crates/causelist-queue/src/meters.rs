//! Metrics of what a worker claims and ends, with their handles kept: looking one up by its labels
//! costs more than a short job.

use std::collections::HashMap;
use std::sync::Arc;

use metrics::{Counter, Histogram};

use crate::claim::Claimed;
use crate::driver::Report;
use crate::run::Ended;

/// For the settling task.
#[derive(Default)]
pub(crate) struct Meters {
    kinds: HashMap<(Arc<str>, Arc<str>), KindMeters>,
}

struct KindMeters {
    run: Histogram,
    outcomes: HashMap<&'static str, Counter>,
}

impl Meters {
    pub(crate) fn ended(&mut self, report: &Report) {
        let outcome = match &report.ended {
            Ended::Completed => "done",
            Ended::Settle(settled) => settled.outcome.word(),
            Ended::Lost => "lost",
        };
        let (kind, queue) = (&report.kind, &report.queue);
        let meters = self
            .kinds
            .entry((Arc::clone(kind), Arc::clone(queue)))
            .or_insert_with(|| KindMeters {
                run: metrics::histogram!("causelist_job_run_seconds", "kind" => kind.to_string()),
                outcomes: HashMap::new(),
            });
        meters.run.record(report.ran.as_secs_f64());
        meters
            .outcomes
            .entry(outcome)
            .or_insert_with(|| {
                metrics::counter!("causelist_jobs_finished_total",
                    "kind" => kind.to_string(), "queue" => queue.to_string(), "outcome" => outcome)
            })
            .increment(1);
    }
}

/// For the claiming task.
#[derive(Default)]
pub(crate) struct WaitMeters {
    queues: HashMap<Arc<str>, Histogram>,
}

impl WaitMeters {
    pub(crate) fn claimed(&mut self, queue: &Arc<str>, jobs: &[Claimed]) {
        let wait = self
            .queues
            .entry(Arc::clone(queue))
            .or_insert_with(|| metrics::histogram!("causelist_job_wait_seconds", "queue" => queue.to_string()));
        for job in jobs {
            wait.record(job.waited.as_secs_f64());
        }
    }
}
