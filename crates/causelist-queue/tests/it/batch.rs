//! Batch jobs: many in one call, each with an end of its own.

use std::sync::{Arc, Mutex, PoisonError};

use causelist_core::{JobError, KindSpec, RetryPolicy, SystemClock};
use causelist_queue::{Batch, BatchJob, NewJob, Registry, States, Worker, enqueue_many};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::fixture::{assert_idle, count, db, finished, options, until};

/// What a letter of the batch is to do.
#[derive(Debug, Serialize, Deserialize)]
struct Letter {
    act: String,
}

/// How many letters each call took.
type Calls = Arc<Mutex<Vec<usize>>>;

impl BatchJob for Letter {
    type Report = Value;
    const MOST: usize = 10;

    fn spec() -> KindSpec {
        KindSpec {
            retry: RetryPolicy {
                max_attempts: 2,
                base: std::time::Duration::from_millis(1),
                cap: std::time::Duration::from_millis(2),
            },
            ..KindSpec::new("letter", "Letter", "Does what it says")
        }
    }

    async fn run(batch: &Batch<'_, Self>) -> Vec<Result<Value, JobError>> {
        let Some((first, cx)) = batch.jobs().first() else {
            return Vec::new();
        };
        let calls = cx.state::<Calls>().expect("is given");
        calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(batch.jobs().len());
        assert!(first.act != "panic", "as asked");
        if first.act == "commit" || first.act == "commit_late" {
            let ended = async {
                let mut tx = batch.begin().await?;
                for (_, cx) in batch.jobs() {
                    sqlx::query("insert into effect (job, attempt) values ($1, $2)")
                        .bind(cx.job_id())
                        .bind(i32::from(cx.attempt()))
                        .execute(&mut *tx)
                        .await
                        .map_err(causelist_queue::db_error)?;
                }
                if first.act == "commit_late" && cx.attempt() == 1 {
                    // Somebody else takes one of them away meanwhile.
                    sqlx::query("update causelist.claim set ids = ids[2:], attempts = attempts[2:]")
                        .execute(cx.pool())
                        .await
                        .map_err(causelist_queue::db_error)?;
                }
                let reports: Vec<Value> = batch.jobs().iter().map(|_| json!({ "sent": true })).collect();
                tx.complete(&reports).await
            };
            let ended: Result<(), JobError> = ended.await;
            return batch
                .jobs()
                .iter()
                .map(|_| ended.clone().map(|()| Value::Null))
                .collect();
        }
        if first.act == "too_few" {
            return Vec::new();
        }
        batch
            .jobs()
            .iter()
            .map(|(letter, cx)| match letter.act.as_str() {
                "fail_once" if cx.attempt() == 1 => Err(JobError::Retry("not yet".into())),
                "permanent" => Err(JobError::Permanent("no use".into())),
                "discard" => Err(JobError::Discard("not wanted".into())),
                other => Ok(json!({ "act": other, "attempt": cx.attempt() })),
            })
            .collect()
    }
}

/// Runs one worker over what `jobs` says until all of it has ended; gives the ids and the calls.
async fn run_all(pool: &PgPool, jobs: Vec<NewJob>) -> (Vec<i64>, Vec<usize>) {
    let made = enqueue_many(&mut pool.acquire().await.expect("a connection"), &jobs)
        .await
        .expect("are enqueued");
    let calls = Calls::default();
    let mut roomy = options();
    roomy.batch = 50;
    let worker = Worker::new(
        pool.clone(),
        Registry::default().batch::<Letter>(),
        States::default().with(Arc::clone(&calls)),
        Arc::new(SystemClock),
        roomy,
    );
    let stop = CancellationToken::new();
    let token = stop.clone();
    let task = tokio::spawn(async move { worker.run(token).await });
    until("nothing is left to do", || async {
        count(
            pool,
            "select (select count(*) from causelist.ready) + (select count(*) from causelist.claim)
                  + (select count(*) from causelist.scheduled)",
        )
        .await
            == 0
    })
    .await;
    stop.cancel();
    task.await.expect("ends").expect("runs");
    let calls = std::mem::take(&mut *calls.lock().unwrap_or_else(PoisonError::into_inner));
    (made.into_iter().map(|m| m.id).collect(), calls)
}

fn letter(act: &str) -> NewJob {
    NewJob::batch(&Letter { act: act.into() }).expect("is JSON")
}

#[tokio::test]
async fn a_call_takes_many_and_each_job_has_its_own_end() {
    let db = db().await;
    let acts = ["ok", "fail_once", "permanent", "discard"];
    let mut jobs: Vec<NewJob> = (0..24).map(|i| letter(acts[i % 4])).collect();
    jobs.push(NewJob::raw("letter", json!({ "unreadable": true })));
    let (ids, calls) = run_all(db.pool(), jobs).await;
    assert!(calls.iter().all(|n| *n <= 10), "{calls:?}");
    // 24 first attempts and 6 second ones.
    assert_eq!(calls.iter().sum::<usize>(), 30);
    assert!(calls[0] == 10, "the first call is full: {calls:?}");
    for (i, id) in ids.iter().take(24).enumerate() {
        let (job, attempts) = finished(db.pool(), *id).await;
        let (state, tries) = [("done", 1), ("done", 2), ("dead", 1), ("discarded", 1)][i % 4];
        assert_eq!((job.state.as_str(), attempts.len()), (state, tries), "job {i}");
    }
    let (job, _) = finished(db.pool(), ids[24]).await;
    assert_eq!(job.state, "dead");
    assert!(job.error.expect("a reason").contains("can't be read"));
}

#[tokio::test]
async fn a_transaction_completes_all_of_a_call() {
    let db = db().await;
    let (_, calls) = run_all(db.pool(), (0..10).map(|_| letter("commit")).collect()).await;
    assert_eq!(calls, [10]);
    assert_eq!(count(db.pool(), "select count(*) from effect").await, 10);
    let done = "select count(*) from causelist.attempt where outcome = 'done' and result = '{\"sent\": true}'";
    assert_eq!(count(db.pool(), done).await, 10);
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn who_lost_one_job_of_a_call_commits_none() {
    let db = db().await;
    let (_, calls) = run_all(db.pool(), (0..5).map(|_| letter("commit_late")).collect()).await;
    // The first call wrote nothing; what it still held came back when its lease ended.
    assert_eq!(calls[0], 5);
    assert_eq!(
        count(db.pool(), "select count(*) from effect where attempt = 1").await,
        0
    );
    assert_eq!(
        count(db.pool(), "select count(*) from effect where attempt = 2").await,
        4
    );
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt_of_every_job() {
    let db = db().await;
    let (ids, _) = run_all(db.pool(), (0..3).map(|_| letter("panic")).collect()).await;
    for id in ids {
        let (job, attempts) = finished(db.pool(), id).await;
        assert_eq!((job.state.as_str(), attempts.len()), ("dead", 2));
        assert!(job.error.expect("a reason").contains("panicked: as asked"));
    }
}

#[tokio::test]
async fn a_call_that_forgets_its_jobs_is_told() {
    let db = db().await;
    let (ids, _) = run_all(db.pool(), vec![letter("too_few"), letter("ok")]).await;
    for id in ids {
        let (job, _) = finished(db.pool(), id).await;
        assert_eq!(job.state, "dead");
        assert!(job.error.expect("a reason").contains("0 ends for 2 jobs"));
    }
}
