//! `causelist doctor`: what is wrong, and the statement that mends it.

use causelist_gst::{Finding, Severity, check_host};
use causelist_queue::{Registry, stats};
use serde::Serialize;
use sqlx::PgPool;

use super::error::Failure;
use super::out::Out;
use crate::app;
use crate::config::Config;

#[derive(Debug, Serialize)]
struct Report {
    healthy: bool,
    findings: Vec<Finding>,
}

/// Checks the database, the schema, the host's tables and the fleet.
///
/// # Errors
/// When a problem was found (exit code 1), or there is no database.
pub async fn run(pool: &PgPool, out: Out, config: &Config, registry: &Registry) -> Result<(), Failure> {
    let mut findings = Vec::new();
    let mut db = pool.acquire().await?;
    let (version, text): (i32, String) =
        sqlx::query_as("select current_setting('server_version_num')::int, current_setting('server_version')")
            .fetch_one(&mut *db)
            .await?;
    if version < 140_000 {
        findings.push(finding(
            Severity::Problem,
            "PostgreSQL",
            format!("version {text} is older than 14"),
            None,
        ));
    } else {
        findings.push(finding(Severity::Ok, "PostgreSQL", format!("version {text}"), None));
    }
    let pending = causelist_queue::pending(&mut db).await?;
    if pending.is_empty() {
        findings.push(finding(Severity::Ok, "schema causelist", "is up to date".into(), None));
    } else {
        let names: Vec<_> = pending.iter().map(|(v, name)| format!("{v} {name}")).collect();
        let what = format!("lacks {}", names.join(", "));
        findings.push(finding(
            Severity::Problem,
            "schema causelist",
            what,
            Some("causelist migrate".into()),
        ));
    }
    findings.extend(check_host(&app::host(config)?, &mut db).await?);
    drop(db);
    if pending.is_empty() {
        fleet(pool, registry, &mut findings).await?;
    }
    let healthy = findings.iter().all(|f| f.severity != Severity::Problem);
    let report = Report { healthy, findings };
    out.show(&report, text_of)?;
    if healthy {
        Ok(())
    } else {
        Err(Failure::Ran("problems were found".into()))
    }
}

async fn fleet(pool: &PgPool, registry: &Registry, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let mut queues: Vec<&str> = registry.specs().map(|s| s.queue).collect();
    queues.sort_unstable();
    queues.dedup();
    for queue in queues {
        let (severity, what) = if stats::is_served(pool, queue).await? {
            (Severity::Ok, "has a worker")
        } else {
            (
                Severity::Warning,
                "has no live worker: its jobs wait. Start one: causelist worker",
            )
        };
        findings.push(finding(severity, &format!("queue {queue}"), what.into(), None));
    }
    if !stats::has_partitions_ahead(pool).await? {
        let what = "there is none for next week, and nothing can be enqueued without one; workers make them".into();
        findings.push(finding(
            Severity::Problem,
            "partitions",
            what,
            Some("causelist migrate".into()),
        ));
    }
    let dead = stats::dead(pool).await?;
    if dead > 0 {
        let what = format!("{dead} jobs gave up: `causelist jobs list --state dead` shows them");
        findings.push(finding(Severity::Warning, "dead letters", what, None));
    }
    Ok(())
}

fn finding(severity: Severity, subject: &str, what: String, cure: Option<String>) -> Finding {
    Finding {
        severity,
        subject: subject.to_owned(),
        what,
        cure,
        needed_by: Vec::new(),
    }
}

fn text_of(report: &Report) -> String {
    let mut text = String::new();
    for f in &report.findings {
        let mark = match f.severity {
            Severity::Ok => "ok      ",
            Severity::Warning => "warning ",
            Severity::Problem => "PROBLEM ",
        };
        text.push_str(&format!("{mark} {}: {}\n", f.subject, f.what));
        if !f.needed_by.is_empty() {
            text.push_str(&format!("         needed by {}\n", f.needed_by.join(", ")));
        }
        if let Some(cure) = &f.cure {
            text.push_str(&format!("         cure: {}\n", cure.replace('\n', "\n               ")));
        }
    }
    text.push_str(if report.healthy {
        "No problems."
    } else {
        "There are problems."
    });
    text
}
