//! A job that kills its worker, and those that were claimed beside it.

use std::process::{Command, Stdio};
use std::time::Duration;

use causelist_core::{JobError, KindSpec, RetryPolicy};
use causelist_queue::testing::{self, Hand};
use causelist_queue::{Job, JobCx, NewJob, Registry, db_error};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::fixture::{assert_idle, count, db, finished, options, put, until, worker_with};

const URL: &str = "CAUSELIST_TEST_DOOMED_URL";

/// Ends its process, without a word, or does nothing.
#[derive(Debug, Serialize, Deserialize)]
struct Dose {
    poison: bool,
}

impl Job for Dose {
    type Report = Value;

    fn spec() -> KindSpec {
        KindSpec {
            retry: RetryPolicy {
                max_attempts: 3,
                base: Duration::from_millis(10),
                cap: Duration::from_millis(20),
            },
            ..KindSpec::new("dose", "Dose", "Ends its process, or does nothing")
        }
    }

    async fn run(&self, cx: &JobCx) -> Result<Value, JobError> {
        sqlx::query("insert into begun values ($1, $2)")
            .bind(cx.job_id())
            .bind(i32::from(cx.attempt()))
            .execute(cx.pool())
            .await
            .map_err(db_error)?;
        if self.poison {
            // As SIGKILL: nothing is unwound, dropped or flushed.
            std::process::abort();
        }
        if cx.attempt() <= 2 && !self.poison {
            // So that the first two crashes meet all of them in the claim.
            return std::future::pending().await;
        }
        // How many suspects run at this moment.
        sqlx::query(
            "insert into effect select $1, count(*) from causelist.claim c where trying > 0 and worker =
                 (select o.worker from causelist.claim o where $1 = any (o.ids))",
        )
        .bind(cx.job_id())
        .execute(cx.pool())
        .await
        .map_err(db_error)?;
        Ok(json!({}))
    }
}

/// Not a test of its own: the process of [`a_job_that_kills_its_worker_is_found_among_innocents`].
#[tokio::test]
async fn doomed_worker() {
    let Ok(url) = std::env::var(URL) else { return };
    let pool = causelist_testkit::connect(&url, 10).await;
    let mut wide = options();
    (wide.concurrency, wide.batch, wide.lease) = (21, 21, Duration::from_secs(1));
    let worker = worker_with(&pool, Registry::default().job::<Dose>(), wide);
    worker.task.await.expect("never ends well");
}

#[tokio::test]
async fn a_job_that_kills_its_worker_is_found_among_innocents() {
    let db = db().await;
    let mut ids = Vec::new();
    // First in the order, so that nobody is done before the first crash.
    let poison = put(
        db.pool(),
        NewJob::of(&Dose { poison: true }).expect("is JSON").priority(-1),
    )
    .await;
    for _ in 0..20 {
        ids.push(put(db.pool(), NewJob::of(&Dose { poison: false }).expect("is JSON")).await);
    }
    let mut starts = 0;
    while count(db.pool(), "select count(*) from causelist.dead").await == 0 {
        starts += 1;
        assert!(starts < 20, "the poisonous job is not found");
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", "quarantine::doomed_worker", "--nocapture"])
            .env(URL, db.url())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        until("the worker died, or has found the culprit and run the rest", || {
            let ended = child.try_wait().expect("can be waited for").is_some();
            let pool = db.pool().clone();
            let well = "select (select count(*) from causelist.dead) - (select count(*) from causelist.ready)
                             - (select count(*) from causelist.scheduled) - (select count(*) from causelist.claim)";
            async move { ended || count(&pool, well).await == 1 }
        })
        .await;
        let _ = child.kill();
        child.wait().expect("ends");
        sqlx::query("update causelist.scheduled set run_at = now()")
            .execute(db.pool())
            .await
            .expect("runs");
    }
    let worker = worker_with(db.pool(), Registry::default().job::<Dose>(), options());
    for id in ids {
        let (job, attempts) = finished(db.pool(), id).await;
        assert_eq!(job.state, "done");
        let outcomes: Vec<&str> = attempts.iter().map(|a| a.outcome.as_str()).collect();
        assert_eq!(
            outcomes,
            ["crashed", "crashed", "done"],
            "only the first two crashes were everybody's"
        );
    }
    let (job, attempts) = finished(db.pool(), poison).await;
    assert_eq!((job.state.as_str(), attempts.len()), ("dead", 3));
    let reason: String = sqlx::query_scalar("select reason from causelist.dead")
        .fetch_one(db.pool())
        .await
        .expect("a row");
    assert_eq!(reason, "crashed");
    worker.stop().await;
    let beside: Vec<i32> = sqlx::query_scalar("select distinct attempt from effect")
        .fetch_all(db.pool())
        .await
        .expect("rows");
    assert_eq!(beside, [1], "suspects ran one at a time");
    assert_idle(db.pool()).await;
}

async fn crash(pool: &sqlx::PgPool) -> (i64, i64) {
    sqlx::query("update causelist.claim set expires_at = now() - interval '1 second'")
        .execute(pool)
        .await
        .expect("runs");
    let told = testing::rescue(pool).await.expect("rescues");
    sqlx::query("update causelist.scheduled set run_at = now() where reason = 'crashed'")
        .execute(pool)
        .await
        .expect("runs");
    testing::promote(pool).await.expect("promotes");
    told
}

#[tokio::test]
async fn a_crash_is_counted_for_whom_was_tried() {
    let db = db().await;
    let hand = Hand::new(db.pool());
    let lease = Duration::from_secs(600);
    for _ in 0..3 {
        put(db.pool(), NewJob::raw("raw", json!({})).max_attempts(3)).await;
    }
    let jobs = hand.claim("default", 9, lease).await.expect("claims");
    assert_eq!(jobs.len(), 3);
    assert_eq!(crash(db.pool()).await, (3, 0));
    // The first crash may be the machine's, the second makes suspects.
    for (crashes, marks) in [(1, 0), (2, 1)] {
        let sum = count(db.pool(), "select sum(marks)::int8 from causelist.ready").await;
        assert_eq!(sum, 3 * marks, "after {crashes} crashes");
        let jobs = hand.claim("default", 9, lease).await.expect("claims");
        assert!(jobs.iter().all(|j| j.attempt() == crashes + 1));
        // The third time nobody was tried: nobody is to blame.
        assert_eq!(crash(db.pool()).await, (3, 0));
    }
    let jobs = hand.claim("default", 9, lease).await.expect("claims");
    let guilty = jobs.iter().min_by_key(|j| j.id()).expect("a job");
    assert_eq!(guilty.attempt(), 3);
    hand.begin(guilty).await.expect("may run");
    assert_eq!(crash(db.pool()).await, (2, 1));
    // Who comes to its end well is no suspect any more; who is given back stays one.
    let jobs = hand.claim("default", 9, lease).await.expect("claims");
    assert!(jobs.iter().all(|j| j.attempt() == 3));
    hand.begin(&jobs[0]).await.expect("may run");
    let end = Err(JobError::Snooze(Duration::ZERO, "later".into()));
    hand.settle(jobs[0].fence(), &[(&jobs[0], end)]).await.expect("settles");
    assert!(hand.release(jobs[1].fence(), &[&jobs[1]]).await.expect("releases"));
    testing::promote(db.pool()).await.expect("promotes");
    let marks: Vec<(i64, i16)> = sqlx::query_as("select id, marks from causelist.ready order by id")
        .fetch_all(db.pool())
        .await
        .expect("rows");
    let mut expected = vec![(jobs[0].id(), 0), (jobs[1].id(), 1)];
    expected.sort_unstable();
    assert_eq!(marks, expected);
    // Whose lease was lost is not started.
    let jobs = hand.claim("default", 9, lease).await.expect("claims");
    crash(db.pool()).await;
    let suspect = jobs.iter().find(|j| marks.contains(&(j.id(), 1))).expect("one");
    assert_eq!(hand.begin(suspect).await, Err(JobError::LeaseLost));
}
