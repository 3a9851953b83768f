//! `causelist schedules`: what fires when.

use causelist_core::Clock;
use causelist_queue::schedule::{self, ScheduleRecord};
use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use super::error::Failure;
use super::out::{Out, or_dash, table, time};

/// What to do with schedules.
#[derive(Debug, Subcommand)]
pub enum SchedulesCommand {
    /// List schedules
    List {
        /// Only this kind
        #[arg(long)]
        kind: Option<String>,
        /// Only this tenant's
        #[arg(long)]
        tenant: Option<Uuid>,
    },
    /// One schedule with its next five instants
    Show {
        /// The schedule's id
        id: i64,
    },
    /// Let a schedule rest; what falls into the pause is not made up for
    Pause {
        /// The schedule's id
        id: i64,
    },
    /// Let a paused schedule go on from its next instant
    Resume {
        /// The schedule's id
        id: i64,
    },
    /// Show the instants that an expression means
    ///
    /// Example: causelist schedules preview "0 8 * * 1-6" --zone Asia/Kolkata
    Preview {
        /// The cron expression
        cron: String,
        /// The IANA zone
        #[arg(long, default_value = schedule::DEFAULT_ZONE)]
        zone: String,
        /// How many instants
        #[arg(long, default_value_t = 5)]
        count: usize,
        /// From this instant instead of now
        #[arg(long)]
        from: Option<DateTime<Utc>>,
    },
}

/// Runs `preview`, which needs no database.
///
/// # Errors
/// When the expression or the zone can't be read.
pub fn preview(
    out: Out,
    clock: &dyn Clock,
    cron: &str,
    zone: &str,
    count: usize,
    from: Option<DateTime<Utc>>,
) -> Result<(), Failure> {
    if !(1..=1000).contains(&count) {
        return Err(Failure::input(format!("--count {count}: must be between 1 and 1000")));
    }
    let from = from.unwrap_or_else(|| clock.now());
    let instants = schedule::preview(cron, zone, from, count).map_err(|e| Failure::input(e.to_string()))?;
    out.show(&json!({ "cron": cron, "zone": zone, "instants": instants }), |_| {
        instants_text(&instants, zone)
    })?;
    Ok(())
}

/// Runs the others.
///
/// # Errors
/// No such schedule, or no database.
pub async fn run(pool: &PgPool, out: Out, clock: &dyn Clock, command: SchedulesCommand) -> Result<(), Failure> {
    match command {
        SchedulesCommand::List { kind, tenant } => {
            let all = schedule::list(pool, kind.as_deref(), tenant).await?;
            out.show(&all, |all| {
                if all.is_empty() {
                    return "No such schedules. A scheduler makes them for every active tenant.".into();
                }
                let rows: Vec<_> = all.iter().map(row).collect();
                table(
                    &["ID", "KIND", "TENANT", "CRON", "ZONE", "NEXT", "LAST", "STATE"],
                    &rows,
                )
            })?;
        }
        SchedulesCommand::Show { id } => show(pool, out, clock, id).await?,
        SchedulesCommand::Pause { id } => {
            if !schedule::pause(pool, id).await? {
                return Err(unknown(id));
            }
            show(pool, out, clock, id).await?;
        }
        SchedulesCommand::Resume { id } => {
            schedule::resume(pool, id, clock.now())
                .await?
                .ok_or_else(|| unknown(id))?;
            show(pool, out, clock, id).await?;
        }
        SchedulesCommand::Preview {
            cron,
            zone,
            count,
            from,
        } => preview(out, clock, &cron, &zone, count, from)?,
    }
    Ok(())
}

async fn show(pool: &PgPool, out: Out, clock: &dyn Clock, id: i64) -> Result<(), Failure> {
    let record = schedule::show(pool, id).await?.ok_or_else(|| unknown(id))?;
    let next =
        schedule::preview(&record.cron, &record.zone, clock.now(), 5).map_err(|e| Failure::input(e.to_string()))?;
    let mut body = json!(record);
    body["instants"] = json!(next);
    out.show(&body, |_| {
        format!(
            "{}\n\n{}",
            table(
                &["ID", "KIND", "TENANT", "CRON", "ZONE", "NEXT", "LAST", "STATE"],
                &[row(&record)]
            ),
            if record.paused {
                "It is paused; resumed, it would fire at:\n".to_owned()
            } else {
                "It fires at:\n".to_owned()
            } + &instants_text(&next, &record.zone)
        )
    })?;
    Ok(())
}

fn row(s: &ScheduleRecord) -> Vec<String> {
    vec![
        s.id.to_string(),
        s.kind.clone(),
        or_dash(s.tenant),
        s.cron.clone(),
        s.zone.clone(),
        if s.paused { "-".into() } else { time(s.next_at) },
        time(s.last_at),
        if s.paused { "paused" } else { "active" }.into(),
    ]
}

fn instants_text(instants: &[DateTime<Utc>], zone: &str) -> String {
    let local = |at: &DateTime<Utc>| {
        causelist_core::cron::parse_zone(zone).map_or_else(
            |_| "-".to_owned(),
            |tz| at.with_timezone(&tz).format("%a %d %b %Y %H:%M:%S").to_string(),
        )
    };
    let rows: Vec<_> = instants.iter().map(|at| vec![local(at), time(Some(*at))]).collect();
    table(&[zone, "UTC"], &rows)
}

fn unknown(id: i64) -> Failure {
    Failure::Ran(format!(
        "schedule {id} does not exist; `causelist schedules list` shows all"
    ))
}
