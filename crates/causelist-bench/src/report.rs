//! What was measured, for people and for scripts.

use serde::Serialize;

use crate::measure::Measure;

/// All of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Jobs of a drain and of a bulk enqueue.
    pub jobs: usize,
    /// How often each was measured.
    pub rounds: usize,
    /// The length of what is measured over a time.
    pub seconds: f64,
    /// Jobs of a backlog or history.
    pub large: usize,
    /// In the order in which they were asked for.
    pub rows: Vec<Row>,
}

/// One measure: a figure a round.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What.
    pub measure: Measure,
    /// `jobs/s`, or `ms` and `MiB`, of which less is better.
    pub unit: &'static str,
    /// The queue's.
    pub ours: Vec<f64>,
    /// The limit's; none where it has no such thing.
    pub limit: Vec<f64>,
    /// CPU time of the server per job, in µs.
    pub server_us: Vec<f64>,
    /// CPU time of the client per job, in µs.
    pub client_us: Vec<f64>,
    /// The same of the limit.
    pub limit_server_us: Vec<f64>,
    /// The same of the limit.
    pub limit_client_us: Vec<f64>,
    /// A second figure, where one is not enough: the 99th percentile, the loaded worker's memory.
    pub more: Vec<f64>,
}

impl Row {
    pub(crate) fn new(measure: Measure) -> Self {
        Self {
            measure,
            unit: measure.unit(),
            ours: vec![],
            limit: vec![],
            server_us: vec![],
            client_us: vec![],
            limit_server_us: vec![],
            limit_client_us: vec![],
            more: vec![],
        }
    }

    /// The queue's median by the limit's.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        (!self.limit.is_empty()).then(|| median(&self.ours) / median(&self.limit))
    }
}

/// The middle one; not a number of nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
