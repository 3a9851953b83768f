//! A practice to try everything on: three firms with their people, cases, hearings and tasks, made
//! from a seed and laid out around a given instant, so that every job finds something of every kind
//! to do in each of them. The same seed and instant give the same rows, ids included.

mod automation;
mod cases;
mod clients;
mod deadlines;
mod firm;
mod gstin;
mod hearings;
mod history;
mod names;
mod people;
mod rows;
mod scene;
mod tasks;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use serde::Serialize;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use thiserror::Error;

pub use firm::{DemoTenant, TENANTS};

use crate::Host;
use rows::Rows;
use scene::Scene;

/// How many rows of what the demo practice was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DemoSummary {
    /// From which seed.
    pub seed: u64,
    /// Around which instant.
    pub now: DateTime<Utc>,
    /// The firms' names.
    pub tenants: Vec<&'static str>,
    /// Everybody who can sign in.
    pub members: usize,
    /// Clients of the firms.
    pub clients: usize,
    /// Cases, open and over.
    pub cases: usize,
    /// Hearings, past and to come.
    pub hearings: usize,
    /// Tasks in any status.
    pub tasks: usize,
    /// Automation rules.
    pub rules: usize,
    /// Rows of the automation log.
    pub automation_logs: usize,
    /// Statutory deadlines.
    pub deadlines: usize,
    /// Holidays.
    pub holidays: usize,
    /// Snapshots of analytics.
    pub snapshots: usize,
}

/// Why the demo practice was not loaded; nothing of it is.
#[derive(Debug, Error)]
pub enum DemoError {
    /// One of its tenants exists.
    #[error("the demo practice is there already (tenant {0:?}); it's loaded once into a database")]
    AlreadyThere(String),
    /// The database said no.
    #[error("the demo practice could not be loaded: {0}")]
    Database(#[from] sqlx::Error),
}

/// Loads the demo practice into the host's tables, in one transaction.
///
/// # Errors
/// [`DemoError::AlreadyThere`] when it's there; [`DemoError::Database`] otherwise, above all when
/// the host's tables or Causelist's schema are missing.
pub async fn load(host: &Host, db: &mut PgConnection, now: DateTime<Utc>, seed: u64) -> Result<DemoSummary, DemoError> {
    let now = now.duration_trunc(TimeDelta::seconds(1)).unwrap_or(now);
    let mut tx = db.begin().await?;
    let ids = TENANTS.map(|firm| firm.id);
    let there: Option<String> = sqlx::query_scalar(AssertSqlSafe(
        host.sql("select name from host.tenants where id = any($1) limit 1"),
    ))
    .bind(ids)
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(name) = there {
        return Err(DemoError::AlreadyThere(name));
    }

    let mut rows = Rows::default();
    let mut scenes = TENANTS.map(|firm| Scene::new(firm, now, seed));
    for scene in &mut scenes {
        add_firm(scene, &mut rows);
    }
    let count = |table: &str| rows.of(table).len();
    let mut summary = DemoSummary {
        seed,
        now,
        tenants: TENANTS.iter().map(|firm| firm.name).collect(),
        members: count("host.profiles"),
        clients: count("host.clients"),
        cases: count("host.cases"),
        hearings: count("host.hearings"),
        tasks: count("host.tasks"),
        rules: count("host.automation_rules"),
        automation_logs: count("host.automation_logs"),
        deadlines: count("host.case_statutory_deadlines"),
        holidays: count("host.holidays"),
        snapshots: 0,
    };
    rows.insert(host, &mut tx).await?;
    link(host, &mut tx, now).await?;

    // The past is made from what is there now.
    let mut past = Rows::default();
    for scene in &mut scenes {
        history::add(scene, &mut past, host, &mut tx).await?;
    }
    summary.snapshots = past.of("host.analytics_snapshots").len();
    past.insert(host, &mut tx).await?;
    tx.commit().await?;
    Ok(summary)
}

fn add_firm(scene: &mut Scene, rows: &mut Rows) {
    let firm = scene.firm;
    rows.add(
        "host.tenants",
        json!({
            "id": firm.id, "name": firm.name, "license_key": format!("DEMO-{}", firm.code),
            "license_tier": firm.tier, "is_active": true,
        }),
    );
    rows.add(
        "causelist.tenant_setting",
        json!({
            "tenant": firm.id, "zone": firm.zone.name(), "state": firm.state, "updated_at": scene.now,
        }),
    );
    let people = people::add(scene, rows);
    let clients = clients::add(scene, rows, &people);
    let (open, over) = cases::add(scene, rows, &people, &clients);
    let upcoming = hearings::add(scene, rows, &open, &over);
    let desk = tasks::Desk {
        people: &people,
        open: &open,
        over: &over,
        upcoming: &upcoming,
        made: 0,
    };
    tasks::add(scene, rows, desk);
    deadlines::add(scene, rows, &open);
    automation::add(scene, rows, &open);
    automation::escalation_rules(scene, rows);
}

/// What follows from the rows themselves: a case's next hearing and forum, a deadline's task.
async fn link(host: &Host, db: &mut PgConnection, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    let ids = TENANTS.map(|firm| firm.id);
    for sql in [
        "update host.cases c set next_hearing_date = h.at, forum_id = h.court_id
           from (select distinct on (case_id) case_id, hearing_date as at, court_id from host.hearings
                  where tenant_id = any($1) and lower(status) = 'scheduled' and hearing_date >= $2
                  order by case_id, hearing_date, id) h
          where c.id = h.case_id",
        "update host.case_statutory_deadlines d set task_id = t.id
           from (select distinct on (case_id) case_id, id from host.tasks
                  where tenant_id = any($1) and status not in ('Completed', 'Cancelled') and due_date > $2
                  order by case_id, due_date, id) t
          where d.case_id = t.case_id and d.tenant_id = any($1)",
    ] {
        sqlx::query(AssertSqlSafe(host.sql(sql)))
            .bind(ids)
            .bind(now)
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}
