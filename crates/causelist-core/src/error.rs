use std::time::Duration;

use thiserror::Error;

/// How a job's run can end other than well. The text is stored with the attempt and shown to
/// people: it must hold no secret and no personal data.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JobError {
    /// Try again after the kind's backoff, until its attempts are used up.
    #[error("{0}")]
    Retry(String),
    /// Try again after this long (at least), until the attempts are used up.
    #[error("{1}")]
    RetryAfter(Duration, String),
    /// Not now: run again after this long. Counts no attempt.
    #[error("{1}")]
    Snooze(Duration, String),
    /// Trying again would not help: to the dead letters at once.
    #[error("{0}")]
    Permanent(String),
    /// No longer wanted: finish without effect.
    #[error("{0}")]
    Discard(String),
    /// Whether the effect took place is not known: to the dead letters, for a person to decide.
    #[error("{0}")]
    Uncertain(String),
    /// The job noticed its cancellation and stopped.
    #[error("cancelled")]
    Cancelled,
    /// The lease was lost: another worker has the job, nothing was written, nothing is recorded.
    #[error("the lease was lost; nothing was written")]
    LeaseLost,
}
