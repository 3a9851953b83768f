//! Whatever dies in between: nothing is handed off twice, nothing is forgotten.

use causelist_core::JobError;
use causelist_notify::{Channel, DeliverMessages, SweepMessages, ledger, request_delivery};
use causelist_queue::States;
use causelist_queue::testing::run_job;
use causelist_testkit::smtp::Reaction;
use serde_json::Value;
use sqlx::PgPool;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::fixture::{Post, mailer, reminder, reserve, settings};

const STUCK: &str = "stuck@x.example";

/// A delivery job on a task of its own, which can be killed.
fn spawn_job(post: &Post, pool: &PgPool) -> JoinHandle<Result<Value, JobError>> {
    let (pool, tenant, mailer) = (pool.clone(), post.tenant, mailer(settings(&post.server)));
    tokio::spawn(async move { crate::fixture::deliver(&pool, tenant, mailer).await })
}

/// A delivery job that waits for the server's answer to its second of four messages.
async fn stuck_job(post: &Post) -> (JoinHandle<Result<Value, JobError>>, i64) {
    post.server.script(STUCK, [Reaction::Hold]);
    post.reserve("first@x.example").await;
    let stuck = post.reserve(STUCK).await;
    post.reserve("third@x.example").await;
    post.reserve("fourth@x.example").await;
    let job = spawn_job(post, post.pool());
    post.server.wait_for_received(2).await;
    assert_eq!(post.row(stuck).await.state, "handed_off");
    (job, stuck)
}

/// What the rescue of a lease does, as far as the ledger sees.
async fn end_lease(post: &Post) {
    sqlx::query("delete from causelist.claim")
        .execute(post.pool())
        .await
        .expect("claims can be deleted");
}

fn assert_each_once(post: &Post) {
    for address in ["first@x.example", STUCK, "third@x.example", "fourth@x.example"] {
        assert_eq!(post.got(address), 1, "{address}");
    }
    assert_eq!(post.server.received().len(), 4);
}

#[tokio::test]
async fn a_crash_between_hand_off_and_answer_leaves_one_unknown_and_the_rest_goes_out() {
    let post = Post::new().await;
    let (job, stuck) = stuck_job(&post).await;
    job.abort();
    assert!(job.await.expect_err("it was killed").is_cancelled());
    assert_eq!(
        post.row(stuck).await.state,
        "handed_off",
        "while the lease lives, nobody may judge"
    );
    end_lease(&post).await;
    assert_eq!(post.deliver().await.expect("the rescued job ends well")["accepted"], 2);
    let row = post.row(stuck).await;
    assert_eq!(row.state, "unknown");
    assert_eq!(
        row.error.as_deref(),
        Some("the delivery job ended between hand-off and answer")
    );
    post.make_due().await;
    post.deliver().await.expect("nothing is left");
    assert_each_once(&post);
    assert_eq!(post.server.offers(STUCK), 1);
}

#[tokio::test]
async fn messages_in_the_hands_of_a_living_job_are_left_to_it() {
    let post = Post::new().await;
    let (job, stuck) = stuck_job(&post).await;
    let fifth = post.reserve("fifth@x.example").await;
    assert_eq!(
        post.deliver().await.expect("takes what is free and ends")["accepted"],
        1
    );
    assert_eq!(
        (
            post.row(stuck).await.state.as_str(),
            post.row(fifth).await.state.as_str()
        ),
        ("handed_off", "accepted")
    );
    post.server.release();
    assert_eq!(job.await.expect("was not killed").expect("ends well")["accepted"], 4);
    assert_eq!(post.server.received().len(), 5);
    assert!(post.rows().await.iter().all(|r| r.state == "accepted"));
}

#[tokio::test]
async fn a_late_answer_is_still_the_truth_and_the_late_job_goes_no_further() {
    let post = Post::new().await;
    let (job, stuck) = stuck_job(&post).await;
    end_lease(&post).await;
    assert_eq!(post.deliver().await.expect("the next job ends well")["accepted"], 2);
    assert_eq!(post.row(stuck).await.state, "unknown");
    post.server.release();
    assert_eq!(job.await.expect("was not killed"), Err(JobError::LeaseLost));
    assert_eq!(post.row(stuck).await.state, "accepted");
    assert_each_once(&post);
}

#[tokio::test]
async fn a_job_that_lost_its_lease_before_the_hand_off_sends_nothing_more() {
    let post = Post::new().await;
    let (job, _) = stuck_job(&post).await;
    end_lease(&post).await;
    post.server.release();
    assert_eq!(job.await.expect("was not killed"), Err(JobError::LeaseLost));
    assert_eq!(post.server.received().len(), 2, "the third was offered, not sent");
    assert_eq!(post.server.offers("third@x.example"), 1);
    assert_eq!(post.deliver().await.expect("ends well")["accepted"], 2);
    assert_each_once(&post);
}

#[tokio::test]
async fn ten_jobs_at_once_send_each_message_once() {
    let post = Post::new().await;
    for i in 0..200 {
        post.reserve(&format!("m{i}@x.example")).await;
    }
    let pool = post.db.another_pool(30).await;
    let jobs: Vec<_> = (0..10).map(|_| spawn_job(&post, &pool)).collect();
    for job in jobs {
        let mut end = job.await.expect("was not killed");
        // One that looked while another was just taking the rest comes back, as the queue has it.
        while let Err(JobError::Snooze(delay, _)) = end {
            assert!(delay.is_zero(), "nothing waits for later: {delay:?}");
            end = spawn_job(&post, &pool).await.expect("was not killed");
        }
        end.expect("ends well");
    }
    assert!(post.rows().await.iter().all(|r| r.state == "accepted"));
    assert_eq!(post.server.received().len(), 200);
    assert!((0..200).all(|i| post.got(&format!("m{i}@x.example")) == 1));
}

#[tokio::test]
async fn a_tenants_job_leaves_other_tenants_alone_and_the_fleets_job_serves_all() {
    let post = Post::new().await;
    let other = Uuid::from_u128(8);
    post.reserve("mine@x.example").await;
    reserve(
        post.pool(),
        other,
        "hearing-reminder",
        Some("theirs@x.example"),
        reminder(),
    )
    .await;
    assert_eq!(post.deliver().await.expect("ends well")["accepted"], 1);
    assert_eq!((post.got("mine@x.example"), post.got("theirs@x.example")), (1, 0));
    post.reserve("mine2@x.example").await;
    let states = States::default().with(mailer(settings(&post.server)));
    let report = run_job(post.pool(), DeliverMessages::default(), None, states)
        .await
        .expect("ends well");
    assert_eq!(report["accepted"], 2);
}

#[tokio::test]
async fn a_sweep_finds_what_dead_jobs_left() {
    let post = Post::new().await;
    let (job, stuck) = stuck_job(&post).await;
    let sweep = || run_job(post.pool(), SweepMessages::default(), None, States::default());
    let report = sweep().await.expect("ends well");
    assert_eq!(
        (report["unknown"].as_u64(), report["tenantsWaiting"].as_u64()),
        (Some(0), Some(0)),
        "the job lives"
    );
    job.abort();
    let _ = job.await;
    end_lease(&post).await;
    for _ in 0..2 {
        let report = sweep().await.expect("ends well");
        assert_eq!(report["tenantsWaiting"], 1);
    }
    assert_eq!(post.row(stuck).await.state, "unknown");
    let jobs: Vec<(Option<Uuid>, Value)> =
        sqlx::query_as("select tenant, args from causelist.job where kind = 'deliver-messages' and queue = 'delivery'")
            .fetch_all(post.pool())
            .await
            .expect("jobs can be read");
    assert_eq!(
        jobs,
        [(Some(post.tenant), serde_json::json!({"channel": "email"}))],
        "one job, however often swept"
    );
}

#[tokio::test]
async fn a_request_is_part_of_the_transaction_that_reserved() {
    let post = Post::new().await;
    let jobs = || async {
        sqlx::query_scalar::<_, i64>("select count(*) from causelist.job where kind = 'deliver-messages'")
            .fetch_one(post.pool())
            .await
            .expect("jobs can be counted")
    };
    let mut tx = post.pool().begin().await.expect("a transaction");
    request_delivery(&mut tx, post.tenant, Channel::Email, None)
        .await
        .expect("is enqueued");
    tx.rollback().await.expect("rolls back");
    assert_eq!(jobs().await, 0);
    for _ in 0..2 {
        let mut tx = post.pool().begin().await.expect("a transaction");
        let made = request_delivery(&mut tx, post.tenant, Channel::Email, None)
            .await
            .expect("is enqueued");
        assert!(!made.duplicate);
        tx.commit().await.expect("commits");
    }
    assert_eq!(jobs().await, 2, "no key: no job stands for another's messages");
}

#[tokio::test]
async fn a_hold_ends_with_the_job_not_only_with_the_whole_claim() {
    let post = Post::new().await;
    let id = post.reserve("a@x.example").await;
    let mut db = post.pool().acquire().await.expect("a connection");
    // Two jobs claimed together; the first has ended, the second still runs.
    let fence: i64 = sqlx::query_scalar(
        "insert into causelist.claim (worker, queue, expires_at, ids, attempts)
         values (gen_random_uuid(), 'delivery', now() + interval '1 hour', '{1,2}', '{1,1}') returning id",
    )
    .fetch_one(&mut *db)
    .await
    .expect("a claim");
    let first = ledger::Holder { job: 1, fence };
    let taken = ledger::take(&mut db, first, post.tenant, Channel::Email, 10)
        .await
        .expect("takes");
    assert_eq!(taken.iter().map(|m| m.key.id).collect::<Vec<_>>(), [id]);
    let second = ledger::Holder { job: 2, fence };
    assert_eq!(
        ledger::take(&mut db, second, post.tenant, Channel::Email, 10)
            .await
            .expect("takes")
            .len(),
        0
    );
    assert!(
        !ledger::hand_off(&mut db, second, id, "<x@y>").await.expect("asks"),
        "only the holder may hand off"
    );
    sqlx::query("update causelist.claim set ids = '{2}', attempts = '{1}'")
        .execute(&mut *db)
        .await
        .expect("shrinks");
    assert_eq!(
        ledger::take(&mut db, second, post.tenant, Channel::Email, 10)
            .await
            .expect("takes")
            .len(),
        1
    );
    assert!(!ledger::hand_off(&mut db, first, id, "<x@y>").await.expect("asks"));
    assert!(ledger::hand_off(&mut db, second, id, "<x@y>").await.expect("asks"));
    assert!(
        !ledger::hand_off(&mut db, second, id, "<x@y>").await.expect("asks"),
        "never twice"
    );
}
