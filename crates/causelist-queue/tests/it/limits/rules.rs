//! Rules: made, changed, removed, refused; and how waiting jobs are shown.

use std::time::Duration;

use causelist_queue::limits::{self, LimitError, Rate, Rule, Scope};
use causelist_queue::{JobFilter, list, stats};
use uuid::Uuid;

use super::{admit, at_most, claim, put_some, ready, settle, slots};
use crate::fixture::{Act, act_job, count, db, finished, options, put, state, worker};

#[tokio::test]
async fn a_lower_limit_takes_effect_as_jobs_end() {
    let db = db().await;
    at_most(db.pool(), Scope::Fleet, 3).await;
    put_some(&db, None, 9).await;
    assert_eq!(admit(&db).await, 3);
    let (hand, jobs) = claim(&db, 3).await;
    at_most(db.pool(), Scope::Fleet, 1).await;
    for job in &jobs[..2] {
        settle(&hand, job, Ok(serde_json::json!({}))).await;
        assert_eq!(admit(&db).await, 0);
    }
    settle(&hand, &jobs[2], Ok(serde_json::json!({}))).await;
    assert_eq!(admit(&db).await, 1);
    at_most(db.pool(), Scope::Fleet, 4).await;
    assert_eq!(admit(&db).await, 3);
    let rules = limits::list(db.pool()).await.expect("a list");
    assert_eq!(rules.len(), 1);
    assert_eq!((rules[0].max_running, rules[0].running), (Some(4), 4));
}

#[tokio::test]
async fn what_waits_for_a_removed_rule_becomes_ready_by_itself() {
    let db = db().await;
    let before = put_some(&db, None, 1).await;
    at_most(db.pool(), Scope::Fleet, 1).await;
    at_most(db.pool(), Scope::Each, 1).await;
    let ids = put_some(&db, None, 5).await;
    assert_eq!(ready(&db).await, before, "it was ready before there was a rule");
    assert_eq!(admit(&db).await, 1);
    limits::remove(db.pool(), Some("act"), Scope::Each)
        .await
        .expect("is removed");
    assert_eq!(admit(&db).await, 0, "the other rule still holds");
    limits::remove(db.pool(), Some("act"), Scope::Fleet)
        .await
        .expect("is removed");
    let worker = worker(db.pool(), options());
    for id in ids {
        finished(db.pool(), id).await;
    }
    worker.stop().await;
    assert_eq!(slots(&db).await, 0);
}

#[tokio::test]
async fn a_rule_for_all_kinds_counts_them_together() {
    let db = db().await;
    let rule = Rule {
        kind: None,
        scope: Scope::Fleet,
        max_running: Some(2),
        rate: None,
    };
    limits::set(db.pool(), &rule).await.expect("is set");
    for kind in ["act", "brief", "other"] {
        put(db.pool(), causelist_queue::NewJob::raw(kind, serde_json::json!({}))).await;
    }
    assert_eq!(admit(&db).await, 2);
    assert_eq!(count(db.pool(), "select count(*) from causelist.waiting").await, 1);
}

#[tokio::test]
async fn rules_that_make_no_sense_are_refused_with_the_reason() {
    let db = db().await;
    let fine = Rule {
        kind: Some("act".into()),
        scope: Scope::Fleet,
        max_running: Some(1),
        rate: Some(Rate {
            jobs: 1,
            per: Duration::from_secs(1),
            burst: None,
        }),
    };
    let rate = |jobs, per, burst| Rule {
        rate: Some(Rate { jobs, per, burst }),
        ..fine.clone()
    };
    let second = Duration::from_secs(1);
    let wrong = [
        (
            Rule {
                kind: Some("No Kind".into()),
                ..fine.clone()
            },
            "kind \"No Kind\"",
        ),
        (
            Rule {
                kind: Some("a\0b".into()),
                ..fine.clone()
            },
            "kind \"a\\0b\"",
        ),
        (
            Rule {
                max_running: Some(0),
                ..fine.clone()
            },
            "max-running \"0\"",
        ),
        (
            Rule {
                max_running: Some(1_000_001),
                ..fine.clone()
            },
            "max-running \"1000001\"",
        ),
        (
            Rule {
                max_running: None,
                rate: None,
                ..fine.clone()
            },
            "limits nothing",
        ),
        (rate(0, second, None), "rate \"0\""),
        (rate(1, second, Some(0)), "burst \"0\""),
        (rate(1, Duration::ZERO, None), "per \"0ns\""),
        (rate(1, Duration::from_millis(1500), None), "per \"1.5s\""),
        (rate(1, Duration::from_secs(8 * 86_400), None), "per \"691200s\""),
    ];
    for (rule, word) in wrong {
        let said = limits::set(db.pool(), &rule).await.expect_err("is refused").to_string();
        assert!(said.contains(word), "{said}");
    }
    assert_eq!(limits::list(db.pool()).await.expect("a list"), []);
    let tenant = Uuid::new_v4();
    for (scope, word) in [
        (Scope::Fleet, "kind \"act\""),
        (Scope::Each, "each tenant"),
        (Scope::One(tenant), &tenant.to_string()),
    ] {
        let error = limits::remove(db.pool(), Some("act"), scope)
            .await
            .expect_err("is refused");
        assert!(matches!(error, LimitError::Unknown(_)));
        assert!(error.to_string().contains(word), "{error}");
    }
    limits::set(db.pool(), &fine).await.expect("is set");
    let rules = limits::list(db.pool()).await.expect("a list");
    assert_eq!(
        (rules[0].rate, rules[0].per_seconds, rules[0].burst),
        (Some(1), Some(1), Some(1))
    );
}

#[tokio::test]
async fn waiting_jobs_are_shown_as_such_and_keep_their_week() {
    let db = db().await;
    at_most(db.pool(), Scope::Fleet, 1).await;
    let id = put(db.pool(), act_job(&Act::Count)).await;
    assert_eq!(state(db.pool(), id).await, "waiting");
    let filter = JobFilter {
        state: Some("waiting".into()),
        limit: 10,
        ..JobFilter::default()
    };
    let mut conn = db.pool().acquire().await.expect("a connection");
    let listed = list(&mut conn, &filter).await.expect("a list");
    assert_eq!(
        listed.iter().map(|j| (j.id, j.state.as_str())).collect::<Vec<_>>(),
        [(id, "waiting")]
    );
    let shown = stats::queues(db.pool()).await.expect("queues");
    let queue = shown.iter().find(|q| q.name == "default").expect("is listed");
    assert_eq!((queue.ready, queue.waiting), (0, 1));
    let why: Option<String> = sqlx::query_scalar("select causelist.unfinished_in($1, $1 + 1)")
        .bind(id)
        .fetch_one(&mut *conn)
        .await
        .expect("an answer");
    assert_eq!(why.as_deref(), Some("1 waiting"));
}
