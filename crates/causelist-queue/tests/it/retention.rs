//! Retention: whole weeks go, nothing unfinished goes with them, archives are complete.

use std::collections::BTreeMap;
use std::time::Duration;

use causelist_queue::retention::{Archive, Retention, Week, drop_old, drop_old_rows};
use causelist_queue::{Hold, enqueue};
use sqlx::{AssertSqlSafe, Executor, PgPool};

use crate::fixture::{Act, act_job, count, db, finished, options, put, state, until, worker};

/// The week so many weeks ago, with its partitions: its name and its lowest id.
async fn old_week(pool: &PgPool, ago: i32) -> (String, i64) {
    let (week, lo, hi): (String, i64, i64) = sqlx::query_as(
        "select to_char(w at time zone 'UTC', 'IYYY\"w\"IW'), causelist.id_at(w), causelist.id_at(w + interval '7 days')
         from (select date_trunc('week', now() - make_interval(weeks => $1), 'UTC') w) w",
    )
    .bind(ago)
    .fetch_one(pool)
    .await
    .expect("a week");
    for table in ["job", "attempt"] {
        run(
            pool,
            format!(
                "create table causelist.{table}_{week} partition of causelist.{table} for values from ({lo}) to ({hi})"
            ),
        )
        .await;
    }
    (week, lo)
}

async fn run(pool: &PgPool, sql: String) {
    pool.execute(AssertSqlSafe(sql)).await.expect("runs");
}

/// Jobs with these ids, and no trace of what became of them.
async fn jobs(pool: &PgPool, from: i64, how_many: i64) {
    run(
        pool,
        format!(
            "insert into causelist.job (id, kind, queue, priority, args, max_attempts, created_at)
             select i, 'act', 'default', 0, '{{\"do\": \"count\"}}', 3, causelist.id_time(i)
             from generate_series({from}, {from} + {how_many} - 1) i"
        ),
    )
    .await;
}

/// Jobs with these ids that finished.
async fn done(pool: &PgPool, from: i64, how_many: i64) {
    jobs(pool, from, how_many).await;
    ended(pool, from, how_many, "done").await;
}

async fn ended(pool: &PgPool, from: i64, how_many: i64, outcome: &str) {
    run(
        pool,
        format!(
            "insert into causelist.attempt (job_id, attempt, fence, outcome, worker, claimed_at)
             select i, 1, 1, '{outcome}', gen_random_uuid(), now() from generate_series({from}, {from} + {how_many} - 1) i"
        ),
    )
    .await;
}

async fn exists(pool: &PgPool, table: &str) -> bool {
    sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(table)
        .fetch_one(pool)
        .await
        .expect("answers")
}

/// What becomes of each week. What was busy is tried again: statistics may just be gathered.
async fn let_go(pool: &PgPool, archive: Archive) -> Vec<Week> {
    let mut told = BTreeMap::new();
    for _ in 0..100 {
        for week in once(pool, archive.clone()).await {
            told.insert(week.week.clone(), week);
        }
        if told.values().all(|week| week.outcome != "busy") {
            return told.into_values().collect();
        }
    }
    panic!("always busy: {told:?}");
}

async fn once(pool: &PgPool, archive: Archive) -> Vec<Week> {
    let retention = Retention {
        archive,
        ..Retention::default()
    };
    drop_old(pool, &retention).await.expect("answers")
}

fn week(week: &str, outcome: &str, reason: Option<&str>) -> Week {
    Week {
        week: week.into(),
        outcome: outcome.into(),
        reason: reason.map(Into::into),
    }
}

#[tokio::test]
async fn finished_weeks_go_after_their_time_and_keys_for_ever_stay() {
    let db = db().await;
    let (old, lo) = old_week(db.pool(), 10).await;
    let (recent, recent_lo) = old_week(db.pool(), 3).await;
    done(db.pool(), lo, 1000).await;
    done(db.pool(), recent_lo, 10).await;
    run(
        db.pool(),
        format!(
            "insert into causelist.job_key (kind, key, job_id, hold, expires_at) values
             ('act', 'ever', {lo}, 'ever', null), ('act', 'stray', {lo} + 1, 'while', null),
             ('act', 'over', {lo} + 2, 'until', now()), ('act', 'on', {lo} + 3, 'until', now() + interval '1 day')"
        ),
    )
    .await;
    assert_eq!(
        let_go(db.pool(), Archive::Off).await,
        [week(&old, "dropped", None)],
        "only the one that is over 30 days old"
    );
    assert!(!exists(db.pool(), &format!("causelist.job_{old}")).await);
    assert!(!exists(db.pool(), &format!("causelist.attempt_{old}")).await);
    assert!(exists(db.pool(), &format!("causelist.job_{recent}")).await);
    assert_eq!(state(db.pool(), recent_lo).await, "done");
    let gone: Option<String> = sqlx::query_scalar("select causelist.job_state($1)")
        .bind(lo)
        .fetch_one(db.pool())
        .await
        .expect("answers");
    assert_eq!(gone, None, "nothing is known of it any more");
    let keys: Vec<String> = sqlx::query_scalar("select key from causelist.job_key order by key")
        .fetch_all(db.pool())
        .await
        .expect("rows");
    assert_eq!(keys, ["ever", "on"]);
    let mut conn = db.pool().acquire().await.expect("a connection");
    let again = enqueue(&mut conn, act_job(&Act::Count).key_held("ever", Hold::Ever))
        .await
        .expect("is answered");
    assert_eq!((again.id, again.duplicate), (lo, true), "still refused");
    assert_eq!(
        let_go(db.pool(), Archive::Off).await,
        [],
        "a second time there is nothing to do"
    );
}

#[tokio::test]
async fn a_week_with_anything_unfinished_stays_and_says_why() {
    let db = db().await;
    let mut weeks = Vec::new();
    for ago in 0..7 {
        weeks.push(old_week(db.pool(), 40 - ago).await);
    }
    for (_, lo) in &weeks {
        done(db.pool(), *lo, 20).await;
        jobs(db.pool(), lo + 100, 2).await;
    }
    let at = |i: usize| weeks[i].1 + 100;
    run(
        db.pool(),
        format!(
            "insert into causelist.ready (queue, priority, rank, id, attempt) values ('default', 0, 0, {}, 0), ('default', 0, 0, {}, 0);
             insert into causelist.scheduled (run_at, id, queue, priority, attempt, reason)
             values (now() + interval '40 days', {}, 'default', 0, 0, 'run_at');
             insert into causelist.claim (worker, queue, expires_at, ids, attempts)
             values (gen_random_uuid(), 'default', now() + interval '1 hour', array[1, {}], array[1, 1]);
             insert into causelist.dead (id, kind, attempt, reason) values ({}, 'act', 1, 'permanent')",
            at(0), at(0) + 1, at(1), at(2), at(3)
        ),
    )
    .await;
    ended(db.pool(), at(5), 2, "retry").await;
    ended(db.pool(), at(6), 2, "discarded").await;
    let name = |i: usize| weeks[i].0.as_str();
    assert_eq!(
        let_go(db.pool(), Archive::Off).await,
        [
            week(name(0), "kept", Some("2 ready")),
            week(name(1), "kept", Some("1 scheduled")),
            week(name(2), "kept", Some("1 running")),
            week(name(3), "kept", Some("1 dead")),
            week(name(4), "kept", Some("2 without an end")),
            week(name(5), "kept", Some("2 without an end")),
            week(name(6), "dropped", None),
        ]
    );
    assert_eq!(state(db.pool(), at(1)).await, "scheduled");
    assert_eq!(count(db.pool(), "select count(*) from causelist.job").await, 6 * 22);
}

#[tokio::test]
async fn a_job_scheduled_far_ahead_runs_and_then_its_week_goes() {
    let db = db().await;
    let (name, lo) = old_week(db.pool(), 6).await;
    jobs(db.pool(), lo, 1).await;
    run(
        db.pool(),
        format!(
            "insert into causelist.scheduled (run_at, id, queue, priority, attempt, reason)
             values (now() + interval '1 second', {lo}, 'default', 0, 0, 'run_at')"
        ),
    )
    .await;
    assert_eq!(
        let_go(db.pool(), Archive::Off).await,
        [week(&name, "kept", Some("1 scheduled"))]
    );
    let worker = worker(db.pool(), options());
    let (record, _) = finished(db.pool(), lo).await;
    assert_eq!(record.state, "done");
    worker.stop().await;
    assert_eq!(let_go(db.pool(), Archive::Off).await, [week(&name, "dropped", None)]);
}

#[tokio::test]
async fn tables_in_use_are_left_for_later() {
    let db = db().await;
    let (name, lo) = old_week(db.pool(), 10).await;
    done(db.pool(), lo, 10).await;
    let mut reader = db.pool().begin().await.expect("a transaction");
    sqlx::query("select count(*) from causelist.job")
        .execute(&mut *reader)
        .await
        .expect("reads");
    let busy = once(db.pool(), Archive::Off).await;
    assert_eq!((busy.len(), busy[0].outcome.as_str()), (1, "busy"));
    assert_eq!(count(db.pool(), "select count(*) from causelist.job").await, 10);
    assert!(exists(db.pool(), &format!("causelist.attempt_{name}")).await);
    reader.rollback().await.expect("ends");
    assert_eq!(let_go(db.pool(), Archive::Off).await, [week(&name, "dropped", None)]);
}

#[tokio::test]
async fn one_of_many_callers_does_it() {
    let db = db().await;
    let (name, lo) = old_week(db.pool(), 10).await;
    done(db.pool(), lo, 10).await;
    let mut other = db.pool().begin().await.expect("a transaction");
    sqlx::query("select pg_advisory_xact_lock(7205759403792794)")
        .execute(&mut *other)
        .await
        .expect("locks");
    assert_eq!(let_go(db.pool(), Archive::Off).await, []);
    let dir = tempfile::tempdir().expect("a directory");
    assert_eq!(let_go(db.pool(), Archive::Files(dir.path().into())).await, []);
    other.rollback().await.expect("ends");
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let pool = db.pool().clone();
        callers.spawn(async move { let_go(&pool, Archive::Off).await });
    }
    let told: Vec<Week> = callers.join_all().await.into_iter().flatten().collect();
    assert_eq!(
        told.iter().filter(|w| w.outcome == "dropped").count(),
        1,
        "{name}: {told:?}"
    );
}

#[tokio::test]
async fn an_archive_in_the_database_keeps_every_row() {
    let db = db().await;
    let (name, lo) = old_week(db.pool(), 10).await;
    done(db.pool(), lo, 500).await;
    assert_eq!(let_go(db.pool(), Archive::Table).await, [week(&name, "archived", None)]);
    assert_eq!(count(db.pool(), "select count(*) from causelist.job").await, 0);
    for table in ["job", "attempt"] {
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
            "select count(*) from causelist_archive.{table}_{name}"
        )))
        .fetch_one(db.pool())
        .await
        .expect("a count");
        assert_eq!(rows, 500);
    }
}

#[tokio::test]
async fn an_archive_of_files_is_complete_before_anything_is_dropped() {
    let db = db().await;
    let (first, lo) = old_week(db.pool(), 10).await;
    let (second, second_lo) = old_week(db.pool(), 9).await;
    let (kept, kept_lo) = old_week(db.pool(), 8).await;
    done(db.pool(), lo, 300).await;
    done(db.pool(), second_lo, 7).await;
    jobs(db.pool(), kept_lo, 1).await;
    let dir = tempfile::tempdir().expect("a directory");
    // A place that can't be written to: the reason is told, and nothing has gone.
    let nowhere = Retention {
        archive: Archive::Files(dir.path().join("nowhere")),
        ..Retention::default()
    };
    let refused = drop_old(db.pool(), &nowhere).await.expect_err("is refused").to_string();
    assert!(
        refused.contains("nowhere") && refused.contains("retention.archive"),
        "{refused}"
    );
    assert_eq!(count(db.pool(), "select count(*) from causelist.job").await, 308);
    // What a crash in the middle left behind is written anew.
    for stale in [format!("job_{first}.csv.part"), format!("attempt_{first}.csv")] {
        std::fs::write(dir.path().join(stale), "half a li").expect("is written");
    }
    assert_eq!(
        let_go(db.pool(), Archive::Files(dir.path().into())).await,
        [
            week(&first, "archived", None),
            week(&second, "archived", None),
            week(&kept, "kept", Some("1 without an end")),
        ]
    );
    assert_eq!(count(db.pool(), "select count(*) from causelist.job").await, 1);
    let mut files: Vec<String> = std::fs::read_dir(dir.path())
        .expect("is read")
        .map(|f| f.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    files.sort();
    let mut expected: Vec<String> = ["attempt", "job"]
        .iter()
        .flat_map(|t| [&first, &second].map(|w| format!("{t}_{w}.csv")))
        .collect();
    expected.sort();
    assert_eq!(files, expected);
    // It can be read back.
    run(db.pool(), "create table back (like causelist.job)".into()).await;
    let text = std::fs::read(dir.path().join(format!("job_{first}.csv"))).expect("is read");
    let mut conn = db.pool().acquire().await.expect("a connection");
    let mut copy = conn
        .copy_in_raw("copy back from stdin with (format csv, header)")
        .await
        .expect("begins");
    copy.send(text).await.expect("is sent");
    assert_eq!(copy.finish().await.expect("is taken"), 300);
    assert_eq!(
        count(
            db.pool(),
            "select count(*) from back where args = '{\"do\": \"count\"}'"
        )
        .await,
        300
    );
}

#[tokio::test]
async fn work_goes_on_while_old_weeks_go() {
    let db = db().await;
    let mut weeks = Vec::new();
    for ago in 10..20 {
        let (name, lo) = old_week(db.pool(), ago).await;
        done(db.pool(), lo, 1000).await;
        weeks.push(name);
    }
    let worker = worker(db.pool(), options());
    let pool = db.pool().clone();
    let load = tokio::spawn(async move {
        let mut last = 0;
        for _ in 0..300 {
            last = put(&pool, act_job(&Act::Count)).await;
        }
        last
    });
    until("all of them have gone", || async {
        let_go(db.pool(), Archive::Off).await.is_empty()
            && !exists(db.pool(), &format!("causelist.job_{}", weeks[9])).await
    })
    .await;
    load.await.expect("goes on");
    until("all jobs ran", || async {
        count(
            db.pool(),
            "select count(*) from causelist.attempt where outcome = 'done'",
        )
        .await
            == 300
    })
    .await;
    worker.stop().await;
    assert_eq!(count(db.pool(), "select count(*) from begun").await, 300);
}

#[tokio::test]
async fn a_worker_looks_after_it() {
    let db = db().await;
    let (name, lo) = old_week(db.pool(), 3).await;
    done(db.pool(), lo, 10).await;
    let worker = causelist_queue::Worker::new(
        db.pool().clone(),
        crate::fixture::registry(),
        causelist_queue::States::default(),
        std::sync::Arc::new(causelist_core::SystemClock),
        options(),
    )
    .retention(Retention {
        details: Duration::from_secs(7 * 86_400),
        archive: Archive::Off,
    });
    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(worker.run(stop.clone()));
    until("the week has gone", || async {
        !exists(db.pool(), &format!("causelist.job_{name}")).await
    })
    .await;
    stop.cancel();
    running.await.expect("ends").expect("ends well");
}

#[tokio::test]
async fn small_old_rows_go_and_what_guards_against_repetition_stays() {
    let db = db().await;
    run(
        db.pool(),
        "insert into causelist.schedule (kind, cron, zone) values ('act', '* * * * *', 'UTC');
         insert into causelist.schedule_fire (schedule_id, instant, fired_at, reason)
         select s.id, now() - make_interval(days => d), now() - make_interval(days => d), 'fired'
         from causelist.schedule s, generate_series(80, 99) d;
         insert into causelist.audit_mark (tenant, kind, instant, created_at)
         select gen_random_uuid(), 'act', '2001-01-01', now() - make_interval(days => d) from generate_series(80, 99) d;
         insert into causelist.job_key (kind, key, job_id, hold, expires_at)
         select 'act', 'k' || i, i, 'until', now() + make_interval(mins => i - 2500) from generate_series(1, 2600) i;
         insert into causelist.event (tenant, type, entity_id, occasion, payload, created_at)
         values (gen_random_uuid(), 'sla_violation', gen_random_uuid(), now() - interval '1 year', '{}', now() - interval '1 year')"
            .into(),
    )
    .await;
    // 90 days and more: 10 fires and 10 marks; keys up to the 2500th minute, in three batches.
    assert_eq!(drop_old_rows(db.pool()).await.expect("runs"), 10 + 10 + 2500);
    assert_eq!(drop_old_rows(db.pool()).await.expect("runs"), 0);
    assert_eq!(count(db.pool(), "select count(*) from causelist.event").await, 1);
    assert_eq!(
        count(db.pool(), "select count(*) from causelist.schedule_fire").await,
        10
    );
}

#[tokio::test]
async fn a_retention_of_less_than_a_day_is_refused() {
    let db = db().await;
    let nothing = Retention {
        details: Duration::from_secs(60),
        archive: Archive::Off,
    };
    let refused = drop_old(db.pool(), &nothing).await.expect_err("is refused").to_string();
    assert!(refused.contains("at least 1 day"), "{refused}");
}
