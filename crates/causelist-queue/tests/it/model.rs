//! Random operations on the queue against a model of it, over a real PostgreSQL: after every one,
//! each row of the queue's tables must be one that the model expects, and none may be missing. So
//! every job is in exactly one place, attempts are counted and recorded once, and keys and slots are
//! held and freed as they should be.
//!
//! A sequence that fails is made shorter as long as it still fails, and printed with its seed.
//! `CAUSELIST_TEST_SEED` repeats a run, `CAUSELIST_TEST_SEQUENCES` makes it longer or shorter.

mod check;
mod ops;
mod play;
mod race;
mod state;
mod wait;

use causelist_testkit::TestDb;
use rand::SeedableRng;
use rand::rngs::StdRng;

use self::ops::Op;
use self::play::play;

/// Sequences of one run, and operations of each.
const SEQUENCES: u64 = 300;
const LENGTH: usize = 30;
/// Replays spent on making a failing sequence shorter.
const REPLAYS: usize = 150;

#[tokio::test]
async fn random_operations_leave_what_the_model_says() {
    let seed = number("CAUSELIST_TEST_SEED").unwrap_or_else(rand::random);
    let sequences = number("CAUSELIST_TEST_SEQUENCES").unwrap_or(SEQUENCES);
    println!("CAUSELIST_TEST_SEED={seed}");
    // Two at a time, each with a database of its own.
    tokio::join!(
        run(seed, (0..sequences).step_by(2)),
        run(seed, (1..sequences).step_by(2))
    );
}

async fn run(seed: u64, sequences: impl Iterator<Item = u64>) {
    let db = TestDb::with_sql("create table effect (job bigint, fence bigint)").await;
    for n in sequences {
        let seed = seed.wrapping_add(n);
        let mut rng = StdRng::seed_from_u64(seed);
        let ops: Vec<Op> = (0..LENGTH).map(|_| Op::random(&mut rng)).collect();
        if let Err(problem) = Box::pin(play(&db, &ops)).await {
            let (ops, problem) = shorter(&db, ops, problem).await;
            panic!("CAUSELIST_TEST_SEED={seed} fails:\n{}\n{problem}", listed(&ops));
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no number")))
}

/// Leaves out halves, quarters and at last single operations, as long as what is left still fails.
async fn shorter(db: &TestDb, mut ops: Vec<Op>, mut problem: String) -> (Vec<Op>, String) {
    let mut replays = 0;
    let mut chunk = ops.len() / 2;
    while chunk > 0 && replays < REPLAYS {
        let mut at = 0;
        let before = ops.len();
        while at < ops.len() && replays < REPLAYS {
            let mut fewer = ops.clone();
            fewer.drain(at..(at + chunk).min(ops.len()));
            replays += 1;
            match Box::pin(play(db, &fewer)).await {
                Ok(()) => at += chunk,
                Err(still) => (ops, problem) = (fewer, still),
            }
        }
        if chunk > 1 || ops.len() == before {
            chunk /= 2;
        }
    }
    (ops, problem)
}

fn listed(ops: &[Op]) -> String {
    let lines: Vec<String> = ops.iter().enumerate().map(|(n, op)| format!("{n:3} {op:?}")).collect();
    lines.join("\n")
}
