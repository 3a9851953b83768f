//! Progress and checkpoints: under the fence, once a second, kept until the job is finished.

use std::time::{Duration, Instant};

use causelist_core::{JobError, KindSpec, RetryPolicy};
use causelist_queue::testing::{self, Hand};
use causelist_queue::{DeadFilter, Job, JobCx, NewJob, Registry, purge_dead, retry_dead, show};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::fixture::{count, db, finished, gate, options, put, until, worker_with};

/// Does steps, three an attempt, and fails until they are done; or tells its progress all the time.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
enum Steps {
    ThreeAnAttempt { to: u64 },
    TalkALot { times: u64 },
}

impl Job for Steps {
    type Report = Value;

    fn spec() -> KindSpec {
        KindSpec {
            retry: RetryPolicy {
                max_attempts: 2,
                base: Duration::from_millis(10),
                cap: Duration::from_millis(20),
            },
            ..KindSpec::new("steps", "Steps", "Does steps")
        }
    }

    async fn run(&self, cx: &JobCx) -> Result<Value, JobError> {
        match self {
            Self::ThreeAnAttempt { to } => {
                let from: u64 = cx.last_checkpoint().await?.unwrap_or(0);
                for step in from..(from + 3).min(*to) {
                    cx.progress(step, *to, "at work").await?;
                    let mut tx = cx.begin().await?;
                    sqlx::query("insert into effect values ($1, $2)")
                        .bind(cx.job_id())
                        .bind(i32::try_from(step).unwrap_or(-1))
                        .execute(&mut *tx)
                        .await
                        .map_err(causelist_queue::db_error)?;
                    tx.checkpoint(&(step + 1))?;
                    tx.commit_part().await?;
                }
                if from + 3 < *to {
                    return Err(JobError::Retry("tired".into()));
                }
                Ok(json!({ "from": from }))
            }
            Self::TalkALot { times } => {
                for n in 1..=*times {
                    cx.progress(n, None, &format!("step {n}")).await?;
                }
                gate(cx.pool()).await;
                Ok(json!({}))
            }
        }
    }
}

fn registry() -> Registry {
    Registry::default().job::<Steps>()
}

const ROWS: &str = "select count(*) from causelist.progress";

#[tokio::test]
async fn an_attempt_goes_on_from_the_checkpoint_over_retry_and_death() {
    let db = db().await;
    let worker = worker_with(db.pool(), registry(), options());
    let id = put(
        db.pool(),
        NewJob::of(&Steps::ThreeAnAttempt { to: 8 }).expect("is JSON"),
    )
    .await;
    let (job, _) = finished(db.pool(), id).await;
    assert_eq!(job.state, "dead", "two attempts do six steps");
    let progress = job.progress.expect("is kept").0;
    assert_eq!((progress.total, progress.checkpoint), (Some(8), Some(json!(6))));
    assert_eq!(progress.done, Some(5), "the last word is written");
    let mut conn = db.pool().acquire().await.expect("a connection");
    retry_dead(&mut conn, &DeadFilter::job(id), 1).await.expect("retries");
    let (job, _) = finished(db.pool(), id).await;
    assert_eq!((job.state.as_str(), job.result), ("done", Some(json!({ "from": 6 }))));
    assert!(job.progress.is_none());
    worker.stop().await;
    assert_eq!(count(db.pool(), "select count(*) from effect").await, 8);
    assert_eq!(count(db.pool(), "select count(distinct attempt) from effect").await, 8);
    assert_eq!(count(db.pool(), ROWS).await, 0);
}

#[tokio::test]
async fn progress_is_written_once_a_second_and_the_last_word_always() {
    let db = db().await;
    sqlx::raw_sql(
        "create table written (note text);
         create function note() returns trigger language plpgsql as $$
         begin insert into written values (new.note); return new; end $$;
         create trigger note after insert or update on causelist.progress for each row execute function note()",
    )
    .execute(db.pool())
    .await
    .expect("runs");
    let worker = worker_with(db.pool(), registry(), options());
    let begun = Instant::now();
    let id = put(
        db.pool(),
        NewJob::of(&Steps::TalkALot { times: 5000 }).expect("is JSON"),
    )
    .await;
    until("the last word is written", || async {
        count(db.pool(), "select count(*) from causelist.progress where done = 5000").await == 1
    })
    .await;
    let most = i64::try_from(begun.elapsed().as_secs()).expect("fits") + 2;
    let written = count(db.pool(), "select count(*) from written").await;
    assert!((2..=most).contains(&written), "{written} writes, at most {most}");
    let (job, _) = show(&mut db.pool().acquire().await.expect("a connection"), id)
        .await
        .expect("answers")
        .expect("is there");
    assert_eq!(job.progress.expect("is shown").note.as_deref(), Some("step 5000"));
    sqlx::query("insert into gate values (true)")
        .execute(db.pool())
        .await
        .expect("runs");
    finished(db.pool(), id).await;
    worker.stop().await;
    assert_eq!(count(db.pool(), ROWS).await, 0);
}

#[tokio::test]
async fn who_lost_the_lease_notes_nothing() {
    let db = db().await;
    let hand = Hand::new(db.pool());
    let lease = Duration::from_secs(600);
    let id = put(db.pool(), NewJob::raw("raw", json!({})).max_attempts(3)).await;
    let old = hand.claim("default", 1, lease).await.expect("claims");
    let stale = hand.cx(&old[0]);
    stale.checkpoint("first").await.expect("holds the lease");
    sqlx::query("update causelist.claim set expires_at = now() - interval '1 second'")
        .execute(db.pool())
        .await
        .expect("runs");
    testing::rescue(db.pool()).await.expect("rescues");
    testing::promote(db.pool()).await.expect("promotes");
    assert_eq!(stale.checkpoint("stale").await, Err(JobError::LeaseLost));
    assert_eq!(stale.progress(9, 9, "stale").await, Err(JobError::LeaseLost));
    let mut tx = stale.begin().await.expect("begins");
    tx.checkpoint("stale").expect("can be stored");
    assert_eq!(tx.commit_part().await, Err(JobError::LeaseLost));
    let new = hand.claim("default", 1, lease).await.expect("claims");
    let fresh = hand.cx(&new[0]);
    let found: Option<String> = fresh.last_checkpoint().await.expect("is read");
    assert_eq!(found.as_deref(), Some("first"), "kept over the crash");
    let wrong = fresh.last_checkpoint::<u64>().await.expect_err("is a text");
    assert!(matches!(wrong, JobError::Permanent(text) if text.contains("can't be read")));
    // Dropped, it rolls back.
    let mut tx = fresh.begin().await.expect("begins");
    tx.checkpoint("second").expect("can be stored");
    drop(tx);
    let found: Option<String> = fresh.last_checkpoint().await.expect("is read");
    assert_eq!(found.as_deref(), Some("first"));
    for (value, why) in [("y".repeat(70_000), "65536"), ("a\0b".into(), "NUL")] {
        let error = fresh.checkpoint(&value).await.expect_err("is refused");
        assert!(
            matches!(&error, JobError::Permanent(text) if text.contains(why)),
            "{error}"
        );
    }
    // Kept over a snooze and over death; gone with the purge.
    let end = Err(JobError::Snooze(Duration::ZERO, "later".into()));
    hand.settle(new[0].fence(), &[(&new[0], end)]).await.expect("settles");
    testing::promote(db.pool()).await.expect("promotes");
    assert_eq!(count(db.pool(), ROWS).await, 1);
    let last = hand.claim("default", 1, lease).await.expect("claims");
    let end = Err(JobError::Permanent("no use".into()));
    hand.settle(last[0].fence(), &[(&last[0], end)]).await.expect("settles");
    assert_eq!(count(db.pool(), ROWS).await, 1);
    let mut conn = db.pool().acquire().await.expect("a connection");
    let gone = purge_dead(&mut conn, &DeadFilter::job(id), 1, "test")
        .await
        .expect("purges");
    assert_eq!((gone, count(db.pool(), ROWS).await), (vec![id], 0));
}

/// An earlier attempt's row goes, though the last attempt wrote none.
#[tokio::test]
async fn what_an_earlier_attempt_noted_goes_when_the_job_is_done_or_cancelled() {
    let db = db().await;
    let hand = Hand::new(db.pool());
    let lease = Duration::from_secs(600);
    for cancelled in [false, true] {
        let id = put(db.pool(), NewJob::raw("raw", json!({}))).await;
        let first = hand.claim("default", 1, lease).await.expect("claims");
        hand.cx(&first[0]).checkpoint(&1).await.expect("holds the lease");
        let end = Err(JobError::Snooze(Duration::ZERO, "later".into()));
        hand.settle(first[0].fence(), &[(&first[0], end)])
            .await
            .expect("settles");
        // The worker's own flag would say so; the hand's settle above did not look at it.
        sqlx::query("update causelist.scheduled set marks = 4")
            .execute(db.pool())
            .await
            .expect("runs");
        testing::promote(db.pool()).await.expect("promotes");
        if cancelled {
            causelist_queue::cancel(db.pool(), id).await.expect("cancels");
        } else {
            let again = hand.claim("default", 1, lease).await.expect("claims");
            let end = Ok(json!({}));
            hand.settle(again[0].fence(), &[(&again[0], end)])
                .await
                .expect("settles");
        }
        assert_eq!(count(db.pool(), ROWS).await, 0, "cancelled: {cancelled}");
    }
}
