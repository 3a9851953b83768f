//! `causelist bench`: the queue, beside the limit where that is asked for.

use std::time::Duration;

use anyhow::Context;
use causelist_bench::{Measure, Plan, Report, Row, median};
use sqlx::Connection;

use super::{QueueArgs, Server};
use crate::cli::error::Failure;
use crate::cli::out::{Out, table};

/// What the peers were measured with: durable, and with room for a backlog. The defaults of fsync and
/// synchronous_commit (on) stay.
pub(super) fn settings() -> Vec<(String, String)> {
    [("shared_buffers", "1GB"), ("max_wal_size", "8GB")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

pub(super) async fn run(out: Out, server: &Server, args: &QueueArgs, measures: Vec<Measure>) -> Result<(), Failure> {
    let endpoint = server.cluster.endpoint();
    let mut db = sqlx::PgConnection::connect(&endpoint.url()).await?;
    for name in ["bench_queue", "bench_limit"] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("create database {name}")))
            .execute(&mut db)
            .await?;
    }
    let plan = Plan {
        url: endpoint.url_of("bench_queue"),
        limit_url: args.against_limit.then(|| endpoint.url_of("bench_limit")),
        postmaster: server.postmaster(),
        program: std::env::current_exe().context("find this program")?,
        measures,
        rounds: args.rounds,
        jobs: args.jobs,
        time: Duration::from_secs(args.seconds),
        large: args.large,
        long: Duration::from_secs(args.minutes * 60),
    };
    let report = causelist_bench::run(&plan, |step| eprintln!("causelist: {step}")).await?;
    out.show(&report, human)?;
    Ok(())
}

fn human(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report.rows.iter().map(line).collect();
    format!(
        "medians of {} rounds in turns; {} jobs, {} s, large: {} jobs\n\n{}",
        report.rounds,
        report.jobs,
        report.seconds,
        report.large,
        table(
            &[
                "MEASURE",
                "QUEUE",
                "LIMIT",
                "TIMES",
                "CPU µs/JOB server+client",
                "LIMIT'S",
                "UNIT"
            ],
            &rows
        )
    )
}

fn line(row: &Row) -> Vec<String> {
    let figure = |values: &[f64]| {
        let m = median(values);
        match m {
            m if m.is_nan() => "-".to_owned(),
            m if m >= 100.0 => format!("{m:.0}"),
            m => format!("{m:.2}"),
        }
    };
    let cpu = |server: &[f64], client: &[f64]| {
        if server.is_empty() || client.is_empty() {
            "-".to_owned()
        } else {
            format!("{:.1} + {:.1}", median(server), median(client))
        }
    };
    let ours = if row.more.is_empty() {
        figure(&row.ours)
    } else {
        format!("{} / {}", figure(&row.ours), figure(&row.more))
    };
    vec![
        row.measure.words().to_owned(),
        ours,
        figure(&row.limit),
        row.ratio().map_or_else(|| "-".to_owned(), |r| format!("{r:.2}")),
        cpu(&row.server_us, &row.client_us),
        cpu(&row.limit_server_us, &row.limit_client_us),
        row.unit.to_owned(),
    ]
}
