//! `causelist bench sla`: the SLA check beside a plain UPDATE of the same rows.

use std::time::{Duration, Instant};

use anyhow::Context;
use causelist_core::{Clock, RunArgs, SystemClock};
use causelist_notify::Secret;
use causelist_queue::{NewJob, Worker, wait_until_finished};
use serde::Serialize;
use serde_json::json;
use sqlx::AssertSqlSafe;
use tokio_util::sync::CancellationToken;

use causelist_bench::median;

use crate::app::{self, App};
use crate::cli::error::Failure;
use crate::cli::out::{Out, table};
use crate::config::Config;

#[derive(Debug, Serialize)]
struct SlaReport {
    tasks: i64,
    tenants: i64,
    marked: i64,
    plain_seconds: Vec<f64>,
    job_seconds: Vec<f64>,
    /// Median of the job by median of the plain statement.
    ratio: f64,
    /// The most memory this process held, in MiB; none where the system does not tell.
    peak_mib: Option<f64>,
}

/// Measures it.
///
/// # Errors
/// When a run fails, or the job and the plain statement disagree.
pub async fn run(
    out: Out,
    mut config: Config,
    url: String,
    tasks: i64,
    tenants: i64,
    rounds: usize,
) -> Result<(), Failure> {
    config.database.url = Secret::new(url);
    let pool = app::pool(&config)?;
    causelist_queue::migrate(&pool).await?;
    let app = App::new(config, false).await?;
    app.host.create_tables(&mut *pool.acquire().await?).await?;
    let now = SystemClock.now();
    eprintln!("causelist: generating {tasks} tasks of {tenants} tenants");
    generate(&app, tasks, tenants, now).await?;
    let worker = Worker::new(
        pool.clone(),
        app.registry.clone(),
        app.states.clone(),
        app.clock.clone(),
        app.worker_options(),
    );
    let stop = CancellationToken::new();
    let token = stop.clone();
    let worker = tokio::spawn(async move { worker.run(token).await });
    let mut report = SlaReport {
        tasks,
        tenants,
        marked: 0,
        plain_seconds: vec![],
        job_seconds: vec![],
        ratio: 0.0,
        peak_mib: None,
    };
    for round in 1..=rounds {
        eprintln!("causelist: round {round} of {rounds}");
        reset(&app).await?;
        let (marked, seconds) = plain(&app, now).await?;
        report.marked = marked;
        report.plain_seconds.push(seconds);
        reset(&app).await?;
        let (overdue, seconds) = job(&app, now).await?;
        if overdue != marked {
            return Err(Failure::Ran(format!(
                "the job marked {overdue} tasks, the plain statement {marked}"
            )));
        }
        report.job_seconds.push(seconds);
    }
    stop.cancel();
    worker.await.context("the worker")?.context("the worker")?;
    report.ratio = median(&report.job_seconds) / median(&report.plain_seconds);
    report.peak_mib = peak_mib();
    out.show(&report, |r| {
        let rows = [
            vec!["plain UPDATE … RETURNING".into(), format!("{:.2}", median(&r.plain_seconds)), "1.00".into()],
            vec!["check-sla-and-overdue".into(), format!("{:.2}", median(&r.job_seconds)), format!("{:.2}", r.ratio)],
        ];
        format!(
            "{} tasks, {} tenants, {} marked; medians of {} rounds in turns\n\n{}\n\npeak memory of worker and bench: {}",
            r.tasks,
            r.tenants,
            r.marked,
            r.job_seconds.len(),
            table(&["", "SECONDS", "TIMES"], &rows),
            r.peak_mib.map_or_else(|| "unknown".into(), |m| format!("{m:.0} MiB"))
        )
    })?;
    Ok(())
}

/// Tasks in every state and of every priority, a sixth of them past their due date; kept aside in a
/// copy, from which every round starts.
async fn generate(app: &App, tasks: i64, tenants: i64, now: chrono::DateTime<chrono::Utc>) -> Result<(), Failure> {
    let sql = app.host.sql(
        "insert into host.tenants (name, license_key, is_active) select 'Firm ' || n, 'bench-' || n, true from generate_series(1, $1) n",
    );
    sqlx::query(AssertSqlSafe(sql)).bind(tenants).execute(&app.pool).await?;
    let sql = app.host.sql(
        "with t as (select id, row_number() over (order by id) - 1 as n from host.tenants),
              c as (insert into host.cases (tenant_id, case_number, title, status)
                    select t.id, 'BENCH/' || n, 'A case', 'open' from t returning id, tenant_id)
         insert into host.tasks (tenant_id, case_id, title, status, priority, due_date, created_at, updated_at)
         select t.id, c.id, 'Task ' || i,
                (array['Open','In Progress','Review','Completed','Completed','Cancelled'])[1 + i % 6],
                (array['Critical','High','Medium','Low'])[1 + (i / 6) % 4],
                $2 + make_interval(hours => ((i * 7919) % 960)::int - 320), $2 - interval '20 days', $2 - interval '20 days'
         from generate_series(1, $1) i join t on t.n = i % $3 join c on c.tenant_id = t.id",
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(tasks)
        .bind(now)
        .bind(tenants)
        .execute(&app.pool)
        .await?;
    let sql = app
        .host
        .sql("create table causelist.bench_tasks as select * from host.tasks");
    sqlx::query(AssertSqlSafe(sql)).execute(&app.pool).await?;
    Ok(())
}

async fn reset(app: &App) -> Result<(), Failure> {
    let sql = app.host.sql(
        "truncate host.tasks, host.case_statutory_deadlines, host.escalation_events, host.notifications, host.audit_log,
                  causelist.event, causelist.message, causelist.audit_mark;
         insert into host.tasks select * from causelist.bench_tasks",
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&app.pool).await?;
    for statement in ["vacuum analyze", "checkpoint"] {
        sqlx::raw_sql(statement).execute(&app.pool).await?;
    }
    Ok(())
}

async fn plain(app: &App, now: chrono::DateTime<chrono::Utc>) -> Result<(i64, f64), Failure> {
    let sql = app.host.sql(
        "update host.tasks set status = 'Overdue', updated_at = $1
         where due_date < $1 and status not in ('Completed', 'Cancelled', 'Overdue') returning id",
    );
    let begun = Instant::now();
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(now)
        .execute(&app.pool)
        .await?
        .rows_affected();
    Ok((i64::try_from(rows).unwrap_or(i64::MAX), begun.elapsed().as_secs_f64()))
}

/// Through the queue, as a schedule would: the time is that of the attempt.
async fn job(app: &App, now: chrono::DateTime<chrono::Utc>) -> Result<(i64, f64), Failure> {
    let spec = app.registry.spec("check-sla-and-overdue").context("is registered")?;
    let args = RunArgs {
        executed_at: Some(now),
        dry_run: false,
    };
    let made = causelist_queue::enqueue(&mut *app.pool.acquire().await?, NewJob::with_spec(spec, json!(args))).await?;
    causelist_queue::notify_enqueued(&app.pool, spec.queue, &made).await;
    let (job, attempts) = wait_until_finished(&app.pool, made.id, Duration::from_secs(600))
        .await?
        .context("the SLA check did not finish within 10 minutes")?;
    let result = job
        .result
        .with_context(|| format!("the SLA check ended as {}: {:?}", job.state, job.error))?;
    let overdue = result["overdueTasks"].as_i64().context("the report has overdueTasks")?;
    let attempt = attempts.last().context("one attempt")?;
    let begun = attempt.started_at.context("it began")?;
    Ok((overdue, (attempt.finished_at - begun).as_seconds_f64()))
}

fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}
