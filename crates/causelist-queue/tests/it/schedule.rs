//! Schedules: every instant once, whoever fires it.

use std::sync::Arc;
use std::time::Duration;

use causelist_core::{DefaultSchedule, JobError, KindSpec};
use causelist_queue::schedule::{self, Scheduler, ensure_defaults, tick};
use causelist_queue::{Job, JobCx, Registry, States, Worker};
use causelist_testkit::{TestDb, TurnedClock};
use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::fixture::{PATIENCE, count, options, until};

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

/// Fires daily at eight.
#[derive(Debug, Serialize, Deserialize)]
struct Daily {}

impl Job for Daily {
    type Report = Value;
    fn spec() -> KindSpec {
        KindSpec {
            schedule: Some(DefaultSchedule {
                per_tenant: true,
                cron: "0 8 * * *",
                misfire_window: Duration::from_secs(7200),
                stale_after: Duration::from_secs(600),
            }),
            ..KindSpec::new("daily", "Daily", "Runs every day")
        }
    }
    async fn run(&self, _: &JobCx) -> Result<Value, JobError> {
        Ok(json!({}))
    }
}

fn registry() -> Registry {
    Registry::default().job::<Minutely>().job::<Daily>()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("an instant")
}

async fn with_tenants(pool: &PgPool, zones: &[&str]) -> Vec<Uuid> {
    let mut tenants = Vec::new();
    for zone in zones {
        let tenant = Uuid::new_v4();
        sqlx::query("insert into causelist.tenant_setting (tenant, zone) values ($1, $2)")
            .bind(tenant)
            .bind(zone)
            .execute(pool)
            .await
            .expect("runs");
        tenants.push(tenant);
    }
    tenants
}

#[tokio::test]
async fn two_schedulers_and_three_workers_fire_every_instant_of_ten_minutes_once() {
    let db = TestDb::new().await;
    let tenants = with_tenants(db.pool(), &["Asia/Kolkata", "Asia/Kolkata", "Europe/London"]).await;
    let clock = TurnedClock::at_text("2026-11-23T02:20:30Z");
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let tenants = tenants.clone();
        let scheduler = Arc::new(Scheduler::new(
            db.another_pool(3).await,
            registry(),
            Arc::new(clock.clone()),
            Box::new(move || {
                let tenants = tenants.clone();
                async move { Ok(tenants) }.boxed()
            }),
        ));
        let stop = stop.clone();
        tasks.spawn(async move { scheduler.run(stop).await.expect("the scheduler runs") });
    }
    for _ in 0..3 {
        let worker = Worker::new(
            db.another_pool(5).await,
            registry(),
            States::default(),
            Arc::new(clock.clone()),
            options(),
        );
        let stop = stop.clone();
        tasks.spawn(async move { worker.run(stop).await.expect("the worker runs") });
    }
    until("every tenant has its schedules", || async {
        count(db.pool(), "select count(*) from causelist.schedule").await == 6
    })
    .await;
    // Turn the clock through ten minutes in steps of ten seconds, each seen by both schedulers
    // before the next: none is due any more.
    for _ in 0..60 {
        let now = clock.advance(TimeDelta::seconds(10));
        until("nothing is due", || async {
            sqlx::query_scalar::<_, i64>("select count(*) from causelist.schedule where next_at <= $1")
                .bind(now)
                .fetch_one(db.pool())
                .await
                .expect("a count")
                == 0
        })
        .await;
    }
    // 3 tenants x 10 minutes, and eight o'clock in Kolkata for two of them.
    until("all have run", || async {
        count(
            db.pool(),
            "select count(*) from causelist.attempt where outcome = 'done'",
        )
        .await
            >= 32
    })
    .await;
    stop.cancel();
    tokio::time::timeout(PATIENCE, tasks.join_all()).await.expect("all end");
    assert_eq!(
        count(
            db.pool(),
            "select count(*) from causelist.schedule_fire where reason = 'fired'"
        )
        .await,
        32
    );
    assert_eq!(
        count(db.pool(), "select count(*) from causelist.schedule_fire").await,
        32
    );
    assert_eq!(
        count(db.pool(), "select count(*) from causelist.job").await,
        32,
        "one job per instant"
    );
    assert_eq!(
        count(db.pool(), "select count(*) from causelist.attempt").await,
        32,
        "each run and settled once"
    );
    assert_eq!(
        count(db.pool(), "select count(distinct job_id) from causelist.schedule_fire").await,
        32
    );
}

#[tokio::test]
async fn instants_are_in_the_tenants_zone() {
    let db = TestDb::new().await;
    let tenants = with_tenants(db.pool(), &["Asia/Kolkata", "Europe/London", "America/New_York"]).await;
    let now = at("2026-03-28T12:00:00Z");
    ensure_defaults(db.pool(), &registry(), &tenants, now)
        .await
        .expect("answers");
    let next: Vec<DateTime<Utc>> = sqlx::query_scalar(
        "select next_at from causelist.schedule where kind = 'daily' order by array_position($1, tenant)",
    )
    .bind(&tenants)
    .fetch_all(db.pool())
    .await
    .expect("rows");
    // The day on which London's clocks go forward; New York's went three weeks before.
    assert_eq!(
        next,
        [
            at("2026-03-29T02:30:00Z"),
            at("2026-03-29T07:00:00Z"),
            at("2026-03-28T12:00:00Z") + TimeDelta::days(1)
        ]
    );
    assert_eq!(
        ensure_defaults(db.pool(), &registry(), &tenants, now)
            .await
            .expect("answers"),
        0,
        "once"
    );
}

#[tokio::test]
async fn after_three_days_away_the_last_instant_fires_if_its_window_allows() {
    let db = TestDb::new().await;
    let tenants = with_tenants(db.pool(), &["Asia/Kolkata"]).await;
    ensure_defaults(db.pool(), &registry(), &tenants, at("2026-11-20T00:00:00Z"))
        .await
        .expect("answers");
    // 08:00 in Kolkata is 02:30 UTC: within its two hours, so the last of three fires.
    let ticked = tick(db.pool(), &registry(), at("2026-11-22T04:00:00Z"))
        .await
        .expect("answers");
    assert_eq!(ticked.fired, 2, "one per schedule");
    let daily: Vec<(DateTime<Utc>, String)> = sqlx::query_as(
        "select instant, reason from causelist.schedule_fire f join causelist.schedule s on s.id = f.schedule_id
         where s.kind = 'daily' order by instant",
    )
    .fetch_all(db.pool())
    .await
    .expect("rows");
    let words: Vec<_> = daily.iter().map(|(_, reason)| reason.as_str()).collect();
    assert_eq!(words, ["misfire", "misfire", "fired"]);
    assert_eq!(daily[2].0, at("2026-11-22T02:30:00Z"));
    // Another three days, and later than two hours: nothing fires.
    let ticked = tick(db.pool(), &registry(), at("2026-11-25T10:00:00Z"))
        .await
        .expect("answers");
    assert_eq!(ticked.fired, 1, "only the minutely one");
    assert_eq!(
        tick(db.pool(), &registry(), at("2026-11-25T10:00:00Z"))
            .await
            .expect("answers"),
        schedule::Ticked::default()
    );
}

#[tokio::test]
async fn a_pause_is_not_made_up_for() {
    let db = TestDb::new().await;
    let tenants = with_tenants(db.pool(), &["Asia/Kolkata"]).await;
    ensure_defaults(db.pool(), &registry(), &tenants, at("2026-11-20T00:00:00Z"))
        .await
        .expect("answers");
    let daily = schedule::list(db.pool(), Some("daily"), None)
        .await
        .expect("answers")
        .remove(0);
    assert!(schedule::pause(db.pool(), daily.id).await.expect("answers"));
    tick(db.pool(), &registry(), at("2026-11-21T02:30:10Z"))
        .await
        .expect("answers");
    let resumed = schedule::resume(db.pool(), daily.id, at("2026-11-21T03:00:00Z"))
        .await
        .expect("answers")
        .expect("is there");
    assert_eq!(resumed.next_at, Some(at("2026-11-22T02:30:00Z")));
    tick(db.pool(), &registry(), at("2026-11-21T03:00:00Z"))
        .await
        .expect("answers");
    let fired: i64 = sqlx::query_scalar("select count(*) from causelist.schedule_fire where schedule_id = $1")
        .bind(daily.id)
        .fetch_one(db.pool())
        .await
        .expect("a count");
    assert_eq!(fired, 0);
    assert!(!schedule::pause(db.pool(), 999).await.expect("answers"));
}
