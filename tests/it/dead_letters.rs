//! `causelist jobs dead, retry, purge` and `causelist queues`, as people and scripts use them.

use causelist_testkit::TestDb;
use serde_json::{Value, json};

use crate::program::{json, run};

/// Jobs of a kind that gave up, through the real enqueue.
async fn dead(db: &TestDb, kind: &str, how_many: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..how_many {
        let made = json(db.url(), &["enqueue", kind, "{}", "--unknown-kind"]);
        ids.push(made["id"].as_str().expect("an id").to_owned());
    }
    sqlx::query(
        "with gone as (delete from causelist.ready returning id)
         insert into causelist.dead (id, kind, attempt, reason, error, died_at)
         select j.id, j.kind, 3, 'attempts', 'no answer from port ' || j.id, now() - interval '2 hours'
         from gone join causelist.job j using (id)",
    )
    .execute(db.pool())
    .await
    .expect("runs");
    ids
}

#[tokio::test]
async fn dead_letters_are_previewed_taken_back_and_purged() {
    let db = TestDb::new().await;
    let url = db.url();
    let mail = dead(&db, "mail", 5).await;
    let fax = dead(&db, "fax", 2).await;

    let causes = json(url, &["jobs", "dead"]);
    assert_eq!(causes.as_array().map(Vec::len), Some(2), "one cause per kind: {causes}");
    assert_eq!(
        (&causes[0]["jobs"], &causes[0]["error"]),
        (&json!(5), &json!("no answer from port #"))
    );
    assert_eq!(json(url, &["jobs", "dead", "--kind", "post"]), json!([]));

    let asked = |verb, more: &[&str]| -> Value { json(url, &[&["jobs", verb, "--dead"], more].concat()) };
    let preview = asked("retry", &["--kind", "mail", "--limit", "3", "--dry-run"]);
    assert_eq!(
        (&preview["matching"], &preview["wouldAct"], &preview["dryRun"]),
        (&json!(5), &json!(3), &json!(true))
    );
    let young = asked("retry", &["--newer-than", "1h", "--dry-run"]);
    assert_eq!(young["matching"], json!(0));
    assert_eq!(
        json(url, &["jobs", "list", "--state", "dead"]).as_array().map(Vec::len),
        Some(7),
        "nothing was done"
    );

    let back = asked("retry", &["--kind", "mail", "--older-than", "1h", "--limit", "3"]);
    assert_eq!(back, json!({ "retried": 3, "refused": [], "left": 2 }));
    let one = json(url, &["jobs", "retry", &fax[0]]);
    assert_eq!(one, json!({ "id": fax[0], "effect": "ready" }));
    let again = run(url, &["jobs", "retry", &fax[0]]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is ready: only a dead job"));

    let gone = json(url, &["jobs", "purge", &fax[1]]);
    assert_eq!(gone["effect"], "discarded");
    assert_eq!(json(url, &["jobs", "show", &fax[1]])["state"], "discarded");
    assert_eq!(
        asked("purge", &["--error", "NO ANSWER"]),
        json!({ "purged": 2, "left": 0 })
    );
    assert_eq!(json(url, &["jobs", "dead"]), json!([]));
    assert_eq!(
        json(url, &["jobs", "list", "--kind", "mail", "--state", "ready"])
            .as_array()
            .map(Vec::len),
        Some(3)
    );
    assert_eq!(mail.len(), 5);
    // For people, too.
    let text = run(url, &["jobs", "purge", "--dead", "--older-than", "0s"]);
    assert_eq!(
        String::from_utf8_lossy(&text.stdout),
        "0 dead letters purged; 0 that match are left\n"
    );
}

#[tokio::test]
async fn queues_are_listed_made_paused_and_resumed() {
    let db = TestDb::new().await;
    let url = db.url();
    assert_eq!(
        json(url, &["queues", "create", "reports"]),
        json!({ "name": "reports", "effect": "created" })
    );
    assert_eq!(json(url, &["queues", "pause", "reports"])["effect"], "paused");
    json(url, &["enqueue", "x", "{}", "--unknown-kind", "--queue", "reports"]);
    let all = json(url, &["queues", "list"]);
    let of = |name: &str| {
        all.as_array()
            .and_then(|a| a.iter().find(|q| q["name"] == name))
            .expect("is listed")
    };
    assert_eq!(
        (&of("reports")["paused"], &of("reports")["ready"]),
        (&json!(true), &json!(1))
    );
    assert_eq!(of("default")["paused"], json!(false));
    assert_eq!(json(url, &["queues", "resume", "reports"])["effect"], "active");
    let text = run(url, &["queues", "resume", "reports"]);
    assert_eq!(String::from_utf8_lossy(&text.stdout), "queue reports was not paused\n");
}

#[tokio::test]
async fn jobs_are_limited_and_queues_made_fair() {
    fn limit<'a>(args: &[&'a str]) -> Vec<&'a str> {
        [&["queues", "limits"], args].concat()
    }
    let db = TestDb::new().await;
    let url = db.url();
    let set = limit(&[
        "set",
        "--kind",
        "x",
        "--each-tenant",
        "--max-running",
        "2",
        "--rate",
        "60",
        "--per",
        "1m",
    ]);
    assert_eq!(json(url, &set)["effect"], "set");
    json(url, &["enqueue", "x", "{}", "--unknown-kind"]);
    let waiting = json(url, &["jobs", "list", "--state", "waiting"]);
    assert_eq!(waiting.as_array().map(Vec::len), Some(1));
    let all = json(url, &["queues", "limits"]);
    assert_eq!(
        (
            &all[0]["kind"],
            &all[0]["scope"],
            &all[0]["maxRunning"],
            &all[0]["perSeconds"],
            &all[0]["burst"]
        ),
        (&json!("x"), &json!("each"), &json!(2), &json!(60), &json!(2))
    );
    let remove = limit(&["remove", "--kind", "x", "--each-tenant"]);
    assert_eq!(json(url, &remove)["effect"], "removed");
    for (args, code, word) in [
        (remove, 1, "kind \"x\" of each tenant"),
        (limit(&["set", "--kind", "x"]), 2, "max-running"),
        (limit(&["set", "--kind", "X", "--max-running", "1"]), 2, "kind \"X\""),
        (
            limit(&["set", "--kind", "x", "--max-running", "0"]),
            2,
            "max-running \"0\"",
        ),
        (
            limit(&["set", "--kind", "x", "--rate", "1", "--per", "soon"]),
            2,
            "--per \"soon\"",
        ),
        (limit(&["set", "--kind", "x", "--rate", "1"]), 2, "--per"),
        (limit(&["set", "--max-running", "1"]), 2, "--kind"),
        (vec!["queues", "fair", "nowhere", "on"], 1, "nowhere"),
    ] {
        let refused = run(url, &args);
        assert_eq!(refused.status.code(), Some(code), "{args:?}");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains(word), "{args:?}: {said}");
    }
    assert_eq!(json(url, &["queues", "limits"]), json!([]));
    assert_eq!(
        json(url, &["queues", "create", "reports", "--fair"])["effect"],
        "created"
    );
    assert_eq!(json(url, &["queues", "fair", "default", "on"])["effect"], "fair");
    let queues = json(url, &["queues", "list"]);
    let fair = queues
        .as_array()
        .map(|q| q.iter().filter(|q| q["fair"] == true).count());
    assert_eq!(fair, Some(2));
    let text = run(url, &["queues", "fair", "default", "on"]);
    assert_eq!(
        String::from_utf8_lossy(&text.stdout),
        "queue default was fair already\n"
    );
}
