//! Least-privilege roles, with real logins: each can do its part and nothing more.

mod granting;

use std::str::FromStr;
use std::time::Duration;

use causelist_core::{DefaultSchedule, JobError, KindSpec};
use causelist_queue::retention::{self, Retention};
use causelist_queue::schedule::{self, ensure_defaults, tick};
use causelist_queue::{
    CancelEffect, DeadFilter, Job, JobCx, JobFilter, NewJob, Registry, cancel, enqueue, fair, limits, list, pending,
    purge_dead, queues, retry_dead, show, stats,
};
use causelist_testkit::TestDb;
use chrono::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use crate::fixture::{Act, act_job, assert_idle, count, db, finished, options, put, state, until, worker};

async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await
        .expect(sql);
}

/// Grants the roles, named after the database: roles belong to the whole server.
async fn grant(db: &TestDb) {
    let roles: Vec<String> = sqlx::query_scalar("select causelist.grant_roles($1::name)")
        .bind(db.name())
        .fetch_all(db.pool())
        .await
        .expect("are granted");
    assert_eq!(
        roles,
        ["enqueuer", "worker", "api"].map(|part| format!("{}_{part}", db.name()))
    );
}

/// A pool of a login that is a member of the part's role and of nothing else.
async fn login(db: &TestDb, part: &str) -> PgPool {
    let (name, role) = (format!("{}_{part}_login", db.name()), format!("{}_{part}", db.name()));
    run(
        db.pool(),
        &format!("create role {name} login password 'login' in role {role}"),
    )
    .await;
    let options = PgConnectOptions::from_str(db.direct_url())
        .expect("a URL")
        .username(&name)
        .password("login")
        // Where the tests' tables are: the schema named as the tests' own user.
        .options([("search_path", "causelist")]);
    PgPoolOptions::new()
        .max_connections(10)
        .connect_with(options)
        .await
        .expect("logs in")
}

/// The server outlives the test; its roles need not.
async fn drop_roles(db: &TestDb) {
    let roles: Vec<String> = sqlx::query_scalar("select rolname from pg_roles where starts_with(rolname, $1 || '_')")
        .bind(db.name())
        .fetch_all(db.pool())
        .await
        .expect("roles");
    for role in roles {
        run(db.pool(), &format!("drop owned by {role}; drop role {role}")).await;
    }
}

async fn denied(pool: &PgPool, statements: &[&str]) {
    for sql in statements {
        let error = sqlx::raw_sql(AssertSqlSafe((*sql).to_owned()))
            .execute(pool)
            .await
            .expect_err(sql);
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        assert_eq!(code.as_deref(), Some("42501"), "{sql}: {error}");
    }
}

#[tokio::test]
async fn the_enqueuer_enqueues_and_nothing_else() {
    let db = db().await;
    grant(&db).await;
    let enqueuer = login(&db, "enqueuer").await;
    let (id, duplicate): (i64, bool) = sqlx::query_as(
        r#"select id, duplicate from causelist.enqueue('act', '{"do": "count"}', key => 'k', tenant => $1)"#,
    )
    .bind(Uuid::new_v4())
    .fetch_one(&enqueuer)
    .await
    .expect("is taken");
    assert!(!duplicate);
    run(
        &enqueuer,
        r#"select * from causelist.enqueue_many('[{"kind": "act"}]')"#,
    )
    .await;
    assert_eq!(state(db.pool(), id).await, "ready");
    let tables: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relnamespace = 'causelist'::regnamespace and relkind in ('r', 'p')",
    )
    .fetch_all(db.pool())
    .await
    .expect("tables");
    assert!(tables.len() > 20, "with the partitions");
    for table in tables {
        let statements = [
            format!("select count(*) from causelist.{table}"),
            format!("insert into causelist.{table} default values"),
            format!("delete from causelist.{table}"),
            format!("truncate causelist.{table}"),
        ];
        denied(&enqueuer, &statements.each_ref().map(String::as_str)).await;
    }
    denied(
        &enqueuer,
        &[
            "select nextval('causelist.job_id_seq')",
            "select causelist.job_state(1)",
            "select causelist.keep_partitions()",
            "select causelist.grant_roles()",
            "select causelist.regrant_roles()",
            "select causelist.enqueue_rows('{}')",
            "select causelist.new_job_problem(null, 1)",
            "create table causelist.mine (x int)",
            "create function causelist.now() returns timestamptz language sql as 'select null::timestamptz'",
        ],
    )
    .await;
    drop_roles(&db).await;
}

#[tokio::test]
async fn the_enqueuers_own_objects_are_not_used_for_it() {
    let db = db().await;
    grant(&db).await;
    let enqueuer = login(&db, "enqueuer").await;
    let mut session = enqueuer.acquire().await.expect("a connection");
    // Had the function looked for names where its caller says, it would have found these.
    sqlx::raw_sql(
        "create temp table queue (name text); insert into queue values ('mine');
         create function pg_temp.cardinality(anyarray) returns int language sql as 'select 1 / 0';
         set search_path = pg_temp, pg_catalog",
    )
    .execute(&mut *session)
    .await
    .expect("are made");
    sqlx::raw_sql("select * from causelist.enqueue('act')")
        .execute(&mut *session)
        .await
        .expect("is taken");
    let path: String = sqlx::query_scalar("select current_setting('search_path')")
        .fetch_one(&mut *session)
        .await
        .expect("a path");
    assert_eq!(path, "pg_temp, pg_catalog", "the session is as it was");
    let error = sqlx::raw_sql("select * from causelist.enqueue('act', queue => 'mine')")
        .execute(&mut *session)
        .await
        .expect_err("is refused");
    assert!(error.to_string().contains("queue \"mine\" does not exist"), "{error}");
    drop(session);
    drop_roles(&db).await;
}

#[tokio::test]
async fn the_worker_does_all_its_work() {
    let db = db().await;
    grant(&db).await;
    // The tables of the test's jobs stand for the host's.
    run(
        db.pool(),
        &format!("grant select, insert on begun, effect, gate to {}_worker", db.name()),
    )
    .await;
    let pool = login(&db, "worker").await;
    assert_eq!(
        pending(&mut pool.acquire().await.expect("a connection"))
            .await
            .expect("may look"),
        []
    );
    // A claim of a worker that died, for the rescue.
    let lost = put(db.pool(), act_job(&Act::Count)).await;
    run(
        db.pool(),
        "with taken as (delete from causelist.ready returning id)
         insert into causelist.claim (worker, queue, expires_at, ids, attempts)
         select gen_random_uuid(), 'default', now() - interval '1 minute', array[id], array[1::smallint] from taken",
    )
    .await;
    let mut short = options();
    short.lease = Duration::from_millis(600);
    let running = worker(&pool, short);
    let mut done = vec![lost];
    done.push(put(&pool, act_job(&Act::Count).key("k")).await);
    done.push(put(&pool, act_job(&Act::FailUntil { attempt: 3 })).await);
    let held = put(&pool, act_job(&Act::WaitThenWrite)).await;
    until("its lease was renewed", || async {
        count(
            db.pool(),
            "select count(*) from causelist.claim where expires_at > claimed_at + interval '1.5 seconds'",
        )
        .await
            > 0
    })
    .await;
    run(db.pool(), "insert into gate values (true)").await;
    done.push(held);
    for id in done {
        assert_eq!(finished(db.pool(), id).await.0.state, "done");
    }
    let dead = put(&pool, NewJob::raw("act", json!({ "do": "dance" }))).await;
    assert_eq!(finished(db.pool(), dead).await.0.state, "dead");
    let polite = put(&pool, act_job(&Act::UntilCancelled)).await;
    until("it runs", || async { state(db.pool(), polite).await == "running" }).await;
    assert_eq!(
        cancel(db.pool(), polite).await.expect("answers"),
        CancelEffect::Requested
    );
    assert_eq!(finished(db.pool(), polite).await.0.state, "cancelled");
    assert_eq!(count(db.pool(), "select count(*) from effect").await, 1);
    assert_eq!(count(db.pool(), "select count(*) from causelist.worker").await, 1);
    running.stop().await;
    assert_eq!(
        count(db.pool(), "select count(*) from causelist.worker").await,
        0,
        "it says goodbye"
    );
    assert_idle(db.pool()).await;

    let made: i32 = sqlx::query_scalar("select causelist.keep_partitions('90 days')")
        .fetch_one(&pool)
        .await
        .expect("may");
    assert!(made > 0);
    retention::drop_old(&pool, &Retention::default())
        .await
        .expect("may drop old weeks");
    retention::drop_old_rows(&pool).await.expect("may drop old rows");
    run(&pool, "select * from causelist.old_weeks('30 days')").await;
    stats::queues(&pool).await.expect("may count");
    stats::dead(&pool).await.expect("may count");
    stats::last_success(&pool, &["act"]).await.expect("may look");
    drop_roles(&db).await;
}

/// Fires every minute.
#[derive(Debug, Serialize, Deserialize)]
struct Minutely {}

impl Job for Minutely {
    type Report = Value;
    fn spec() -> KindSpec {
        KindSpec {
            schedule: Some(DefaultSchedule {
                per_tenant: true,
                cron: "* * * * *",
                misfire_window: Duration::from_secs(300),
                stale_after: Duration::from_secs(600),
            }),
            ..KindSpec::new("minutely", "Minutely", "Runs every minute")
        }
    }
    async fn run(&self, _: &JobCx) -> Result<Value, JobError> {
        Ok(json!({}))
    }
}

#[tokio::test]
async fn the_worker_fires_schedules() {
    let db = db().await;
    grant(&db).await;
    let pool = login(&db, "worker").await;
    let registry = Registry::default().job::<Minutely>();
    let start = DateTime::from_timestamp(1_800_000_000, 0).expect("an instant");
    let made = ensure_defaults(&pool, &registry, &[Uuid::new_v4()], start)
        .await
        .expect("may");
    assert_eq!(made, 1);
    let ticked = tick(&pool, &registry, start + chrono::TimeDelta::seconds(90))
        .await
        .expect("may");
    assert_eq!(ticked.fired, 1);
    drop_roles(&db).await;
}

#[tokio::test]
async fn the_worker_does_nothing_else() {
    let db = db().await;
    grant(&db).await;
    let pool = login(&db, "worker").await;
    let partition: String = sqlx::query_scalar("select 'causelist.' || relname from pg_class where oid in (select inhrelid from pg_inherits) and relkind = 'r' limit 1")
        .fetch_one(db.pool())
        .await
        .expect("a partition");
    let drop_partition = format!("drop table {partition}");
    denied(
        &pool,
        &[
            "drop table causelist.job",
            drop_partition.as_str(),
            "drop schema causelist cascade",
            "alter table causelist.attempt add column x int",
            "truncate causelist.ready",
            "create table causelist.mine (x int)",
            "update causelist.job set args = '{}'",
            "delete from causelist.job",
            "update causelist.attempt set outcome = 'done'",
            "delete from causelist.attempt",
            "delete from causelist.dead",
            "delete from causelist.message",
            "update causelist.queue set paused = true",
            "update causelist.tenant_setting set zone = 'UTC'",
            "select hash from causelist.api_key",
            "select id from causelist.api_key",
            "insert into causelist.api_key (name, prefix, hash) values ('mine', 'x', sha256('x'))",
            "insert into causelist.role_right values ('worker', 'all', 'table causelist.job')",
            "select causelist.grant_roles()",
            "select causelist.enqueue_rows('{}')",
        ],
    )
    .await;
    drop_roles(&db).await;
}

#[tokio::test]
async fn the_api_does_its_part() {
    let db = db().await;
    grant(&db).await;
    let pool = login(&db, "api").await;
    let mut conn = pool.acquire().await.expect("a connection");
    assert_eq!(pending(&mut conn).await.expect("may look"), []);
    let made = enqueue(&mut conn, act_job(&Act::Count).key("k"))
        .await
        .expect("may enqueue");
    let again = enqueue(&mut conn, act_job(&Act::Count).key("k"))
        .await
        .expect("may enqueue");
    assert_eq!((again.id, again.duplicate), (made.id, true));
    let filter = JobFilter {
        limit: 10,
        ..JobFilter::default()
    };
    assert_eq!(list(&mut conn, &filter).await.expect("may list").len(), 1);
    assert_eq!(
        cancel(&pool, made.id).await.expect("may cancel"),
        CancelEffect::Cancelled
    );
    show(&mut conn, made.id).await.expect("may look").expect("is there");
    let soon = put(
        &pool,
        act_job(&Act::Count).run_at(DateTime::from_timestamp(4_000_000_000, 0)),
    )
    .await;
    assert_eq!(cancel(&pool, soon).await.expect("may cancel"), CancelEffect::Cancelled);
    let running = put(&pool, act_job(&Act::Count)).await;
    run(
        db.pool(),
        "with taken as (delete from causelist.ready returning id)
         insert into causelist.claim (worker, queue, expires_at, ids, attempts)
         select gen_random_uuid(), 'default', now() + interval '1 minute', array[id], array[1::smallint] from taken",
    )
    .await;
    assert_eq!(cancel(&pool, running).await.expect("may ask"), CancelEffect::Requested);
    for id in [made.id, soon] {
        sqlx::query("insert into causelist.dead (id, kind, attempt, reason) values ($1, 'act', 1, 'permanent')")
            .bind(id)
            .execute(db.pool())
            .await
            .expect("runs");
    }
    let back = retry_dead(&mut conn, &DeadFilter::job(made.id), 1)
        .await
        .expect("may retry");
    assert_eq!(back.jobs, [made.id]);
    let gone = purge_dead(&mut conn, &DeadFilter::job(soon), 1, "test")
        .await
        .expect("may purge");
    assert_eq!(gone, [soon]);

    queues::create(&pool, "mine").await.expect("may make a queue");
    assert!(queues::pause(&pool, "mine").await.expect("may pause it"));
    stats::queues(&pool).await.expect("may count");
    stats::dead(&pool).await.expect("may count");
    stats::last_success(&pool, &["act"]).await.expect("may look");
    stats::is_served(&pool, "default").await.expect("may look");
    schedule::list(&pool, None, None).await.expect("may list");
    assert!(!schedule::pause(&pool, 999).await.expect("may pause"));
    schedule::resume(&pool, 999, DateTime::UNIX_EPOCH)
        .await
        .expect("may resume");
    run(
        &pool,
        "insert into causelist.api_key (name, prefix, hash, tenant) values ('n', 'p', sha256('k'), null);
         update causelist.api_key set last_used = now() where hash = sha256('k') and revoked_at is null;
         update causelist.api_key set revoked_at = coalesce(revoked_at, now()) where id = 1;
         select count(*) from causelist.message where state = 'unknown'",
    )
    .await;
    denied(
        &pool,
        &[
            "delete from causelist.attempt",
            "update causelist.attempt set outcome = 'done'",
            "update causelist.job set args = '{}'",
            "delete from causelist.job",
            "delete from causelist.claim",
            "insert into causelist.claim (worker, queue, expires_at, ids, attempts)
             values (gen_random_uuid(), 'default', now(), '{}', '{}')",
            "update causelist.api_key set hash = sha256('mine')",
            "delete from causelist.api_key",
            "update causelist.message set state = 'accepted'",
            "drop table causelist.job",
            "select causelist.keep_partitions()",
            "select causelist.drop_old_partitions('1 day')",
            "select causelist.grant_roles()",
        ],
    )
    .await;
    drop_roles(&db).await;
}

#[tokio::test]
async fn limits_are_set_by_the_api_and_kept_by_workers() {
    let db = db().await;
    grant(&db).await;
    run(
        db.pool(),
        &format!("grant select, insert on begun, effect, gate to {}_worker", db.name()),
    )
    .await;
    let api = login(&db, "api").await;
    let rule = limits::Rule {
        kind: Some("act".into()),
        scope: limits::Scope::Fleet,
        max_running: Some(1),
        rate: Some(limits::Rate {
            jobs: 100,
            per: Duration::from_secs(1),
            burst: None,
        }),
    };
    limits::set(&api, &rule).await.expect("may");
    fair::set_fair(&api, "default", true).await.expect("may");
    let cancelled = put(&api, act_job(&Act::Count).key("k")).await;
    assert_eq!(cancel(&api, cancelled).await.expect("may"), CancelEffect::Cancelled);
    let mut ids = vec![
        put(&api, act_job(&Act::Count)).await,
        put(&api, act_job(&Act::Count)).await,
    ];
    let mut conn = api.acquire().await.expect("a connection");
    assert_eq!(
        show(&mut conn, ids[1]).await.expect("may").expect("is there").0.state,
        "waiting"
    );
    let pool = login(&db, "worker").await;
    let running = worker(&pool, options());
    ids.push(put(&pool, act_job(&Act::FailUntil { attempt: 2 })).await);
    for id in ids {
        assert_eq!(finished(db.pool(), id).await.0.state, "done");
    }
    until("it has published the queue's clock", || async {
        count(db.pool(), "select count(*) from causelist.fair_clock").await == 1
    })
    .await;
    running.stop().await;
    assert_eq!(limits::list(&api).await.expect("may").len(), 1);
    limits::remove(&api, Some("act"), limits::Scope::Fleet)
        .await
        .expect("may");
    assert_idle(db.pool()).await;
    drop_roles(&db).await;
}

#[tokio::test]
async fn a_family_is_made_by_the_api_and_ended_by_workers() {
    let db = db().await;
    grant(&db).await;
    run(
        db.pool(),
        &format!("grant select, insert on begun, effect, gate to {}_worker", db.name()),
    )
    .await;
    let (api, pool) = (login(&db, "api").await, login(&db, "worker").await);
    let worker = worker(&pool, options());
    // The parent stops when it is asked to; its child runs then, and is asked to by the worker.
    let parent = put(&api, act_job(&Act::UntilCancelled)).await;
    until("the parent runs", || async {
        state(db.pool(), parent).await == "running"
    })
    .await;
    let child = put(&api, act_job(&Act::UntilCancelled).parent(parent)).await;
    until("the child runs", || async {
        state(db.pool(), child).await == "running"
    })
    .await;
    cancel(&api, parent).await.expect("may ask");
    assert_eq!(finished(db.pool(), child).await.0.state, "cancelled");
    assert_eq!(finished(db.pool(), parent).await.0.state, "cancelled");
    // A parent that ends by itself, with a child at work.
    let parent = put(
        &api,
        act_job(&Act::End {
            error: "cancelled".into(),
        })
        .run_at(DateTime::UNIX_EPOCH + chrono::Duration::days(40_000)),
    )
    .await;
    let child = put(&api, act_job(&Act::UntilCancelled).parent(parent)).await;
    until("the child runs", || async {
        state(db.pool(), child).await == "running"
    })
    .await;
    run(db.pool(), "update causelist.scheduled set run_at = now()").await;
    assert_eq!(finished(db.pool(), parent).await.0.state, "cancelled");
    assert_eq!(finished(db.pool(), child).await.0.state, "cancelled");
    worker.stop().await;
    drop_roles(&db).await;
}
