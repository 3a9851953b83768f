//! Test jobs, and a worker to run them.

use std::time::Duration;

use causelist_core::{JobError, JobId, KindSpec, RetryPolicy, SystemClock};
use causelist_queue::{AttemptRecord, Job, JobCx, JobRecord, NewJob, Registry, States, Worker, WorkerOptions};
use causelist_testkit::TestDb;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a test waits for something that should happen before it fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A job that does what its arguments say.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Act {
    /// Report how often it has begun.
    Count,
    /// Fail until the given attempt.
    FailUntil { attempt: u16 },
    /// End with this error.
    End { error: String },
    /// Panic.
    Panic,
    /// Begin, then wait until a row says `go`.
    Wait,
    /// Begin, wait for `go`, then write a row in the transaction that completes the job.
    WaitThenWrite,
    /// Begin, wait for `go`, then fail.
    WaitThenFail,
    /// Begin, then wait for the cancellation.
    UntilCancelled,
    /// Run for ever.
    Hang,
    /// Report a text that PostgreSQL can't store.
    Nul,
}

impl Job for Act {
    type Report = Value;

    fn spec() -> KindSpec {
        KindSpec {
            timeout: Duration::from_secs(30),
            retry: RetryPolicy {
                max_attempts: 3,
                base: Duration::from_millis(20),
                cap: Duration::from_millis(40),
            },
            ..KindSpec::new("act", "Act", "Does what its arguments say")
        }
    }

    async fn run(&self, cx: &JobCx) -> Result<Value, JobError> {
        act(self, cx).await
    }
}

/// The same with a time limit of a moment.
#[derive(Debug, Serialize, Deserialize)]
pub struct Brief {}

impl Job for Brief {
    type Report = Value;
    fn spec() -> KindSpec {
        KindSpec {
            timeout: Duration::from_millis(50),
            ..Act::spec_of("brief")
        }
    }
    async fn run(&self, cx: &JobCx) -> Result<Value, JobError> {
        act(&Act::Hang, cx).await
    }
}

impl Act {
    fn spec_of(kind: &'static str) -> KindSpec {
        KindSpec { kind, ..Self::spec() }
    }
}

async fn act(what: &Act, cx: &JobCx) -> Result<Value, JobError> {
    let begun: i64 = sqlx::query_scalar(
        "with new as (insert into begun (job, attempt) values ($1, $2)) select count(*) + 1 from begun where job = $1",
    )
    .bind(cx.job_id())
    .bind(i32::from(cx.attempt()))
    .fetch_one(cx.pool())
    .await
    .map_err(causelist_queue::db_error)?;
    match what {
        Act::Count => Ok(json!({ "begun": begun })),
        Act::FailUntil { attempt } if cx.attempt() < *attempt => Err(JobError::Retry("not yet".into())),
        Act::FailUntil { .. } => Ok(json!({ "attempt": cx.attempt() })),
        Act::End { error } => Err(match error.as_str() {
            "permanent" => JobError::Permanent("no use".into()),
            "cancelled" => JobError::Cancelled,
            "discard" => JobError::Discard("not wanted".into()),
            "uncertain" => JobError::Uncertain("who knows".into()),
            "retry_never" => JobError::RetryAfter(Duration::MAX, "in the next world".into()),
            "retry_after" => JobError::RetryAfter(Duration::from_secs(60), "in a minute".into()),
            "snooze" if begun < 6 => JobError::Snooze(Duration::from_millis(10), "later".into()),
            "snooze" => return Ok(json!({ "begun": begun, "attempt": cx.attempt() })),
            other => JobError::Retry(other.to_owned()),
        }),
        Act::Panic => panic!("as asked"),
        Act::Wait => {
            gate(cx.pool()).await;
            Ok(json!({}))
        }
        Act::WaitThenWrite => {
            gate(cx.pool()).await;
            let mut tx = cx.begin().await?;
            sqlx::query("insert into effect (job, attempt) values ($1, $2)")
                .bind(cx.job_id())
                .bind(i32::from(cx.attempt()))
                .execute(&mut *tx)
                .await
                .map_err(causelist_queue::db_error)?;
            tx.complete(&json!({ "wrote": true })).await?;
            Ok(json!({}))
        }
        Act::WaitThenFail => {
            gate(cx.pool()).await;
            Err(JobError::Retry("after the gate".into()))
        }
        Act::UntilCancelled => {
            cx.cancelled().cancelled().await;
            Err(JobError::Cancelled)
        }
        Act::Hang => std::future::pending().await,
        Act::Nul => Ok(json!({ "text": "a\0b" })),
    }
}

pub async fn gate(pool: &PgPool) {
    until("the gate opens", || async {
        sqlx::query_scalar("select exists (select from gate)")
            .fetch_one(pool)
            .await
            .unwrap_or(false)
    })
    .await;
}

/// A database with the tables that the test jobs write.
pub async fn db() -> TestDb {
    TestDb::with_sql(
        "create table begun (job bigint, attempt int); create table effect (job bigint, attempt int);
         create table gate (go boolean)",
    )
    .await
}

pub fn registry() -> Registry {
    Registry::default().job::<Act>().job::<Brief>()
}

/// Quick turns, so that tests need not wait.
pub fn options() -> WorkerOptions {
    WorkerOptions {
        name: "test".into(),
        queues: vec!["default".into()],
        concurrency: 4,
        queue_concurrency: std::collections::HashMap::new(),
        batch: 4,
        lease: Duration::from_secs(2),
        poll: Duration::from_millis(50),
        grace: Duration::from_secs(20),
        listen: !causelist_testkit::is_pooled(),
    }
}

/// A worker in the background.
pub struct Running {
    stop: CancellationToken,
    pub task: JoinHandle<()>,
}

impl Running {
    /// Ends it in good order.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the worker ends well");
    }

    /// Asks it to end, and does not wait.
    pub fn ask_to_stop(&self) {
        self.stop.cancel();
    }
}

pub fn worker(pool: &PgPool, options: WorkerOptions) -> Running {
    worker_with(pool, registry(), options)
}

/// The same for other jobs.
pub fn worker_with(pool: &PgPool, registry: Registry, options: WorkerOptions) -> Running {
    let worker = Worker::new(
        pool.clone(),
        registry,
        States::default(),
        std::sync::Arc::new(SystemClock),
        options,
    );
    let stop = CancellationToken::new();
    let token = stop.clone();
    let task = tokio::spawn(async move { worker.run(token).await.expect("the worker runs") });
    Running { stop, task }
}

pub async fn put(pool: &PgPool, job: NewJob) -> JobId {
    let mut db = pool.acquire().await.expect("a connection");
    causelist_queue::enqueue(&mut db, job).await.expect("is enqueued").id
}

pub fn act_job(what: &Act) -> NewJob {
    NewJob::of(what).expect("is JSON")
}

pub async fn finished(pool: &PgPool, id: JobId) -> (JobRecord, Vec<AttemptRecord>) {
    causelist_queue::wait_until_finished(pool, id, PATIENCE)
        .await
        .expect("the database answers")
        .expect("the job finishes")
}

pub async fn state(pool: &PgPool, id: JobId) -> String {
    sqlx::query_scalar("select causelist.job_state($1)")
        .bind(id)
        .fetch_one(pool)
        .await
        .expect("a state")
}

pub async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.expect("a count")
}

/// Waits for a condition.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether any row of a queue table still speaks of unfinished work.
pub async fn assert_idle(pool: &PgPool) {
    for sql in [
        "select count(*) from causelist.ready",
        "select count(*) from causelist.waiting",
        "select count(*) from causelist.slot",
        "select count(*) from causelist.scheduled",
        "select count(*) from causelist.claim",
        "select count(*) from causelist.parent",
        "select count(*) from causelist.child",
        "select count(*) from causelist.child_end",
    ] {
        assert_eq!(count(pool, sql).await, 0, "{sql}");
    }
}
