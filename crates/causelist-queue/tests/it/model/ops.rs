//! The operations. A `pick` chooses among whatever there is when its turn comes, so that a sequence
//! stays one when operations are left out of it.

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

pub type Pick = u16;

/// A job to be enqueued.
#[derive(Debug, Clone, Copy)]
pub struct New {
    pub queue: usize,
    pub priority: i16,
    pub max_attempts: u16,
    pub later: bool,
    pub key: Option<(u8, bool, Window)>,
    /// Of the kind of which only [`LIMIT`] may run.
    pub limited: bool,
}

/// The limit of the model's limited kind.
pub const LIMIT: usize = 2;

/// How long a key is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    While,
    Until,
    Ever,
}

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Done,
    Retry,
    RetryAfter,
    Snooze,
    Permanent,
    Discard,
    Uncertain,
    Cancelled,
    LeaseLost,
}

#[derive(Debug, Clone)]
pub enum Op {
    Enqueue(New),
    EnqueueMany(Vec<New>),
    EnqueueRolledBack(Vec<New>),
    /// One of them is refused.
    EnqueueRefused(Vec<New>),
    Claim {
        queue: usize,
        limit: usize,
    },
    /// Some jobs (a bit each) of a claim that may long be lost.
    Settle {
        claim: Pick,
        jobs: u8,
        ends: [End; 8],
    },
    SettleWhole {
        claim: Pick,
    },
    /// In the job's own transaction, with an effect.
    Complete {
        claim: Pick,
        job: Pick,
    },
    CommitPart {
        claim: Pick,
        job: Pick,
    },
    RollBackPart {
        claim: Pick,
        job: Pick,
    },
    Release {
        claim: Pick,
        jobs: u8,
    },
    Renew {
        claim: Pick,
    },
    Expire {
        claim: Pick,
    },
    Rescue,
    TurnDue {
        job: Pick,
    },
    Promote,
    Cancel {
        job: Pick,
    },
    ExpireKey {
        key: Pick,
    },
    Pause {
        queue: usize,
    },
    Resume {
        queue: usize,
    },
    RetryDead {
        job: Pick,
    },
    PurgeDead {
        job: Pick,
    },
    /// At the same time.
    SettleAndRescue {
        claim: Pick,
    },
    CompleteAndRescue {
        claim: Pick,
        job: Pick,
    },
    TwoClaims {
        queue: usize,
    },
    CancelAndPromote {
        job: Pick,
    },
    /// Two at the same time.
    Admit,
}

/// The queues of the model; both exist in every database.
pub const QUEUES: [&str; 2] = ["default", "practice"];

impl New {
    fn random(rng: &mut StdRng) -> Self {
        let mut new = Self {
            limited: false,
            queue: rng.random_range(0..QUEUES.len()),
            priority: rng.random_range(-1..=1),
            max_attempts: rng.random_range(1..=3),
            later: rng.random_ratio(1, 4),
            key: rng.random_ratio(1, 2).then(|| {
                let window = match rng.random_range(0..5) {
                    0 => Window::Ever,
                    1 => Window::Until,
                    _ => Window::While,
                };
                (rng.random_range(0..4), rng.random(), window)
            }),
        };
        // A key belongs to a kind; the model's keys are all of the other one.
        new.limited = new.key.is_none() && rng.random();
        new
    }

    fn some(rng: &mut StdRng) -> Vec<Self> {
        (0..rng.random_range(1..=6)).map(|_| Self::random(rng)).collect()
    }
}

impl End {
    fn random(rng: &mut StdRng) -> Self {
        match rng.random_range(0..12) {
            0..=2 => Self::Done,
            3 | 4 => Self::Retry,
            5 => Self::RetryAfter,
            6 => Self::Snooze,
            7 => Self::Permanent,
            8 => Self::Discard,
            9 => Self::Uncertain,
            10 => Self::Cancelled,
            _ => Self::LeaseLost,
        }
    }
}

impl Op {
    pub fn random(rng: &mut StdRng) -> Self {
        let pick = |rng: &mut StdRng| (rng.next_u32() >> 16) as Pick;
        let queue = rng.random_range(0..QUEUES.len());
        match rng.random_range(0..110) {
            0..6 => Self::Enqueue(New::random(rng)),
            6..18 => Self::EnqueueMany(New::some(rng)),
            18..20 => Self::EnqueueRolledBack(New::some(rng)),
            20..22 => Self::EnqueueRefused(New::some(rng)),
            22..36 => Self::Claim {
                queue,
                limit: rng.random_range(1..=5),
            },
            36..48 => Self::Settle {
                claim: pick(rng),
                jobs: rng.random(),
                ends: std::array::from_fn(|_| End::random(rng)),
            },
            48..51 => Self::SettleWhole { claim: pick(rng) },
            51..54 => Self::Complete {
                claim: pick(rng),
                job: pick(rng),
            },
            54..56 => Self::CommitPart {
                claim: pick(rng),
                job: pick(rng),
            },
            56..57 => Self::RollBackPart {
                claim: pick(rng),
                job: pick(rng),
            },
            57..60 => Self::Release {
                claim: pick(rng),
                jobs: rng.random(),
            },
            60..62 => Self::Renew { claim: pick(rng) },
            62..67 => Self::Expire { claim: pick(rng) },
            67..71 => Self::Rescue,
            71..77 => Self::TurnDue { job: pick(rng) },
            77..81 => Self::Promote,
            81..86 => Self::Cancel { job: pick(rng) },
            86..88 => Self::ExpireKey { key: pick(rng) },
            88..89 => Self::Pause { queue },
            89..91 => Self::Resume { queue },
            91..93 => Self::RetryDead { job: pick(rng) },
            93..94 => Self::PurgeDead { job: pick(rng) },
            94..96 => Self::SettleAndRescue { claim: pick(rng) },
            96..97 => Self::CompleteAndRescue {
                claim: pick(rng),
                job: pick(rng),
            },
            97..98 => Self::TwoClaims { queue },
            98..100 => Self::CancelAndPromote { job: pick(rng) },
            _ => Self::Admit,
        }
    }
}
