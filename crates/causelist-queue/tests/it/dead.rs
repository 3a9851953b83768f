//! Dead letters: by cause, previewed, taken back with their keys, purged.

use causelist_core::JobId;
use causelist_queue::{DeadFilter, KeyTaken, NewJob, count_dead, dead_causes, enqueue, purge_dead, retry_dead, show};
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::fixture::{Act, act_job, assert_idle, count, db, finished, options, put, state, until, worker};

fn ends(error: &str) -> NewJob {
    act_job(&Act::End { error: error.into() })
}

/// Runs jobs until all of them are dead.
async fn die(pool: &PgPool, jobs: Vec<NewJob>) -> Vec<JobId> {
    let worker = worker(pool, options());
    let mut ids = Vec::new();
    for job in jobs {
        ids.push(put(pool, job).await);
    }
    for id in &ids {
        assert_eq!(finished(pool, *id).await.0.state, "dead");
    }
    worker.stop().await;
    ids
}

async fn matching(db: &mut PgConnection, filter: &DeadFilter) -> i64 {
    count_dead(db, filter).await.expect("a count")
}

async fn keys(pool: &PgPool) -> Vec<(String, JobId)> {
    sqlx::query_as("select key, job_id from causelist.job_key order by key")
        .fetch_all(pool)
        .await
        .expect("rows")
}

#[tokio::test]
async fn a_filter_finds_what_it_names() {
    let db = db().await;
    let tenant = Uuid::new_v4();
    let ids = die(
        db.pool(),
        vec![
            ends("permanent").tenant(tenant),
            ends("uncertain"),
            ends("Row 17 of 90 is BROKEN").max_attempts(1),
            ends("Row 4 of 8 is broken").max_attempts(1),
            NewJob::raw("brief", json!({})).max_attempts(1),
        ],
    )
    .await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    let any = DeadFilter::default;
    let died: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("select died_at from causelist.dead where id = $1")
        .bind(ids[2])
        .fetch_one(db.pool())
        .await
        .expect("a time");
    let text = |t: &str| Some(t.to_owned());
    for (filter, expected) in [
        (any(), 5),
        (
            DeadFilter {
                kind: text("act"),
                ..any()
            },
            4,
        ),
        (
            DeadFilter {
                kind: text("none"),
                ..any()
            },
            0,
        ),
        (
            DeadFilter {
                tenant: Some(tenant),
                ..any()
            },
            1,
        ),
        (
            DeadFilter {
                reason: text("attempts"),
                ..any()
            },
            3,
        ),
        (
            DeadFilter {
                error: text("is broken"),
                ..any()
            },
            2,
        ),
        (
            DeadFilter {
                error: text("100%"),
                ..any()
            },
            0,
        ),
        (
            DeadFilter {
                ids: vec![ids[0], ids[1], 7],
                ..any()
            },
            2,
        ),
        (
            DeadFilter {
                reason: text("attempts"),
                kind: text("brief"),
                ..any()
            },
            1,
        ),
    ] {
        assert_eq!(matching(&mut conn, &filter).await, expected, "{filter:?}");
    }
    let before = matching(
        &mut conn,
        &DeadFilter {
            before: Some(died),
            ..any()
        },
    )
    .await;
    let after = matching(
        &mut conn,
        &DeadFilter {
            after: Some(died),
            ..any()
        },
    )
    .await;
    assert_eq!(before + after, 5);
    assert!(after >= 1);

    let causes = dead_causes(&mut conn, &any(), 10).await.expect("causes");
    assert_eq!(causes.len(), 5, "numbers and letter case: {causes:?}");
    let broken = DeadFilter {
        error: text("of 8 is"),
        ..any()
    };
    let cause = dead_causes(&mut conn, &broken, 10).await.expect("causes").remove(0);
    assert_eq!(
        (cause.error.as_str(), cause.jobs, cause.example),
        ("Row # of # is broken", 1, ids[3])
    );
    assert_eq!((cause.kind.as_str(), cause.reason.as_str()), ("act", "attempts"));
}

#[tokio::test]
async fn errors_that_differ_in_numbers_are_one_cause() {
    let db = db().await;
    sqlx::query(
        "insert into causelist.dead (id, kind, attempt, reason, error)
         select i, 'act', 1, 'permanent', format(E'client %s: row %s\\nat line %s', gen_random_uuid(), i, i) from generate_series(1, 300) i
         union all select 1000, 'act', 1, 'permanent', null",
    )
    .execute(db.pool())
    .await
    .expect("runs");
    let mut conn = db.pool().acquire().await.expect("a connection");
    let causes = dead_causes(&mut conn, &DeadFilter::default(), 10)
        .await
        .expect("causes");
    let told: Vec<_> = causes.iter().map(|c| (c.error.as_str(), c.jobs, c.example)).collect();
    assert_eq!(told, [("client #: row #", 300, 300), ("", 1, 1000)]);
}

#[tokio::test]
async fn many_are_taken_back_up_to_the_limit_and_the_others_stay() {
    let db = db().await;
    let mut jobs: Vec<NewJob> = (0..30).map(|_| ends("permanent")).collect();
    jobs.push(ends("uncertain"));
    let ids = die(db.pool(), jobs).await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    let filter = DeadFilter {
        reason: Some("permanent".into()),
        ..DeadFilter::default()
    };
    let first = retry_dead(&mut conn, &filter, 10).await.expect("answers");
    assert_eq!((first.jobs.len(), first.refused.len()), (10, 0));
    assert_eq!(first.queues, ["default"]);
    assert_eq!(matching(&mut conn, &filter).await, 20);
    for id in &first.jobs {
        assert_eq!(state(db.pool(), *id).await, "ready");
    }
    assert_eq!(state(db.pool(), ids[30]).await, "dead", "the filter did not name it");
    // They are tried again, with all their attempts before them.
    let worker = worker(db.pool(), options());
    until("all are dead again", || async {
        count(db.pool(), "select count(*) from causelist.dead").await == 31
    })
    .await;
    worker.stop().await;
    assert_eq!(count(db.pool(), "select count(*) from causelist.attempt").await, 41);
    assert_idle(db.pool()).await;
}

#[tokio::test]
async fn a_retried_job_holds_its_key_again() {
    let db = db().await;
    let tenant = Uuid::new_v4();
    let ids = die(
        db.pool(),
        vec![ends("permanent").key("k").tenant(tenant), ends("permanent").key("k")],
    )
    .await;
    assert_eq!(keys(db.pool()).await, [], "freed by their death");
    let mut conn = db.pool().acquire().await.expect("a connection");
    let back = retry_dead(&mut conn, &DeadFilter::default(), 10)
        .await
        .expect("answers");
    assert_eq!(back.jobs.len(), 2, "one key, two tenants");
    let again = enqueue(&mut conn, ends("permanent").key("k").tenant(tenant))
        .await
        .expect("is answered");
    assert_eq!((again.id, again.duplicate), (ids[0], true));
    // And gives it up again.
    let worker = worker(db.pool(), options());
    until("both are dead again", || async {
        count(db.pool(), "select count(*) from causelist.dead where key = 'k'").await == 2
    })
    .await;
    worker.stop().await;
    assert_eq!(keys(db.pool()).await, []);
}

#[tokio::test]
async fn a_key_that_another_job_holds_now_keeps_the_letter_dead() {
    let db = db().await;
    let ids = die(
        db.pool(),
        vec![
            ends("permanent").key("taken"),
            ends("permanent").key("free"),
            ends("permanent"),
        ],
    )
    .await;
    let holder = put(db.pool(), act_job(&Act::Count).key("taken")).await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    let mut back = retry_dead(&mut conn, &DeadFilter::default(), 10)
        .await
        .expect("answers");
    back.jobs.sort_unstable();
    assert_eq!(back.jobs, ids[1..]);
    assert_eq!(
        back.refused,
        [KeyTaken {
            id: ids[0],
            holder: Some(holder)
        }]
    );
    assert_eq!(state(db.pool(), ids[0]).await, "dead");
    assert_eq!(
        keys(db.pool()).await,
        [("free".to_owned(), ids[1]), ("taken".to_owned(), holder)]
    );
    // Once the holder has finished, the letter can go.
    causelist_queue::cancel(db.pool(), holder).await.expect("answers");
    let back = retry_dead(&mut conn, &DeadFilter::job(ids[0]), 1)
        .await
        .expect("answers");
    assert_eq!(back.jobs, [ids[0]]);
}

#[tokio::test]
async fn of_two_dead_letters_with_one_key_one_goes() {
    let db = db().await;
    let first = die(db.pool(), vec![ends("permanent").key("k")]).await[0];
    let second = die(db.pool(), vec![ends("permanent").key("k")]).await[0];
    let mut conn = db.pool().acquire().await.expect("a connection");
    let back = retry_dead(&mut conn, &DeadFilter::default(), 10)
        .await
        .expect("answers");
    assert_eq!(back.jobs, [first]);
    assert_eq!(
        back.refused,
        [KeyTaken {
            id: second,
            holder: Some(first)
        }]
    );
}

#[tokio::test]
async fn a_job_that_crashed_to_death_takes_its_key_again_too() {
    let db = db().await;
    let id = put(db.pool(), act_job(&Act::Count).key("k").max_attempts(1)).await;
    // A claim whose worker died, found by another worker.
    sqlx::query(
        "with gone as (delete from causelist.ready where id = $1)
         insert into causelist.claim (worker, queue, expires_at, ids, attempts)
         values (gen_random_uuid(), 'default', now() - interval '1 second', array[$1], array[1])",
    )
    .bind(id)
    .execute(db.pool())
    .await
    .expect("runs");
    let worker = worker(db.pool(), options());
    assert_eq!(finished(db.pool(), id).await.0.state, "dead");
    worker.stop().await;
    assert_eq!(keys(db.pool()).await, []);
    let mut conn = db.pool().acquire().await.expect("a connection");
    let back = retry_dead(&mut conn, &DeadFilter::job(id), 1).await.expect("answers");
    assert_eq!(back.jobs, [id]);
    assert_eq!(keys(db.pool()).await, [("k".to_owned(), id)]);
}

#[tokio::test]
async fn a_purged_job_is_discarded_and_says_by_whom() {
    let db = db().await;
    let ids = die(db.pool(), vec![ends("broken"), ends("permanent"), ends("uncertain")]).await;
    let mut conn = db.pool().acquire().await.expect("a connection");
    let filter = DeadFilter {
        ids: ids[..2].to_vec(),
        ..DeadFilter::default()
    };
    let gone = purge_dead(&mut conn, &filter, 10, "a test").await.expect("answers");
    assert_eq!(gone, ids[..2]);
    assert!(
        purge_dead(&mut conn, &filter, 10, "a test")
            .await
            .expect("answers")
            .is_empty()
    );
    for id in &ids[..2] {
        let (record, attempts) = show(&mut conn, *id).await.expect("answers").expect("is there");
        assert_eq!(record.state, "discarded");
        assert_eq!(record.error.as_deref(), Some("purged from the dead letters by a test"));
        assert_eq!(attempts.last().map(|a| a.outcome.as_str()), Some("discarded"));
        assert!(attempts.len() >= 2, "its history stays");
        let back = retry_dead(&mut conn, &DeadFilter::job(*id), 1).await.expect("answers");
        assert!(back.jobs.is_empty(), "it can't be taken back");
    }
    assert_eq!(matching(&mut conn, &DeadFilter::default()).await, 1);
    let one = purge_dead(&mut conn, &DeadFilter::default(), 10, "a test")
        .await
        .expect("answers");
    assert_eq!(one, ids[2..]);
}

#[tokio::test]
async fn callers_at_once_take_each_letter_back_once() {
    let db = db().await;
    let ids = die(db.pool(), (0..50).map(|_| ends("permanent")).collect()).await;
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..8 {
        let pool = db.pool().clone();
        callers.spawn(async move {
            let mut conn = pool.acquire().await.expect("a connection");
            if n % 2 == 0 {
                let done = retry_dead(&mut conn, &DeadFilter::default(), 20).await;
                done.expect("answers").jobs
            } else {
                purge_dead(&mut conn, &DeadFilter::default(), 20, "a test")
                    .await
                    .expect("answers")
            }
        });
    }
    let mut acted: Vec<JobId> = callers.join_all().await.into_iter().flatten().collect();
    acted.sort_unstable();
    let all = acted.len();
    acted.dedup();
    assert_eq!(acted.len(), all, "none twice");
    let dead = count(db.pool(), "select count(*) from causelist.dead").await;
    let ready = count(db.pool(), "select count(*) from causelist.ready").await;
    let purged = count(
        db.pool(),
        "select count(*) from causelist.attempt where outcome = 'discarded'",
    )
    .await;
    assert_eq!(dead + ready + purged, i64::try_from(ids.len()).expect("fits"));
}
