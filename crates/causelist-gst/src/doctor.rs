//! Whether a host's database is as the jobs need it, and the statement that mends what isn't.

mod actual;
mod compare;
mod expected;
mod rows;
mod uses;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use sqlx::PgConnection;

use crate::Host;
use uses::{Access, USES, Use};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// The jobs do their work, but something is left out (such as a row in the host's audit log).
    Warning,
    /// The jobs named by the finding fail.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at: `tasks`, `tasks.due_date`, `row-level security`.
    pub subject: String,
    /// How it is, and what that means.
    pub what: String,
    /// The statements that mend it, to be run by the owner of the host's tables (or a superuser).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
    /// The kinds of jobs that need it.
    pub needed_by: Vec<&'static str>,
}

impl Finding {
    fn ok(subject: impl Into<String>, what: impl Into<String>, needed_by: Vec<&'static str>) -> Self {
        Self {
            severity: Severity::Ok,
            subject: subject.into(),
            what: what.into(),
            cure: None,
            needed_by,
        }
    }

    fn wrong(
        severity: Severity,
        subject: impl Into<String>,
        what: impl Into<String>,
        cure: Option<String>,
        needed_by: Vec<&'static str>,
    ) -> Self {
        Self {
            severity,
            subject: subject.into(),
            what: what.into(),
            cure,
            needed_by,
        }
    }
}

/// The table that jobs write to if they can.
const AUDIT_LOG: &str = "audit_log";

/// Compares the host's tables with what the jobs use, as the current role sees them. Reads only.
///
/// The cures are meant to be run in the order of the findings.
///
/// # Errors
/// When the database can't be asked; whatever is wrong with the host's tables is a finding.
pub async fn check_host(host: &Host, db: &mut PgConnection) -> Result<Vec<Finding>, sqlx::Error> {
    let place = actual::place(host.schema(), db).await?;
    let schema = host.quoted_schema();
    match place.usable {
        Some(true) => {}
        Some(false) => {
            return Ok(vec![Finding::wrong(
                Severity::Problem,
                format!("schema {}", host.schema()),
                format!(
                    "the role {} may not use it, so nothing in it can be looked at",
                    place.role
                ),
                Some(format!("grant usage on schema {schema} to {};", place.role)),
                kinds(USES.iter()),
            )]);
        }
        None => {
            return Ok(vec![Finding::wrong(
                Severity::Problem,
                format!("schema {}", host.schema()),
                "there is no such schema in this database; set app_schema to the one with the host's tables, \
                 or DATABASE_URL to the host's database",
                None,
                kinds(USES.iter()),
            )]);
        }
    }

    let used: Vec<_> = expected::tables()
        .into_iter()
        .filter(|table| uses_of(table.name).next().is_some())
        .collect();
    let names: Vec<_> = used.iter().map(|table| table.name).collect();
    let actual = actual::tables(host.schema(), &names, db).await?;
    let mut findings = Vec::new();
    for table in &used {
        let Some(actual) = actual.get(table.name) else {
            findings.push(compare::missing_table(host, table));
            continue;
        };
        let before = findings.len();
        compare::columns(host, table, actual, &mut findings);
        compare::filled(host, table, actual, &mut findings);
        compare::privileges(host, table, actual, &place.role, &mut findings);
        rows::lengths(host, table, actual, &mut findings);
        rows::uniques(host, table, actual, db, &mut findings).await?;
        rows::checks(host, table, actual, db, &mut findings).await?;
        if findings.len() == before {
            let columns: BTreeSet<_> = uses_of(table.name).flat_map(Use::columns).collect();
            let what = format!("the {} columns that jobs use are as they need them", columns.len());
            findings.push(Finding::ok(table.name, what, kinds(uses_of(table.name))));
        }
    }
    findings.push(row_security(&place.role, &names, &actual));
    Ok(findings)
}

/// The statements that allow `role` (quoted, if it needs quotes) what the jobs do in the host's
/// schema, column by column, and nothing more.
#[must_use]
pub fn grants(host: &Host, role: &str) -> String {
    let mut grants = format!("grant usage on schema {} to {role};\n", host.quoted_schema());
    for table in expected::tables() {
        let mut columns: BTreeMap<Access, BTreeSet<&str>> = BTreeMap::new();
        for used in uses_of(table.name) {
            columns.entry(used.access).or_default().extend(used.columns());
        }
        for (access, columns) in columns {
            let list = columns.into_iter().collect::<Vec<_>>().join(", ");
            let (access, table) = (access.name(), host.table(table.name));
            grants.push_str(&format!("grant {access} ({list}) on {table} to {role};\n"));
        }
    }
    grants
}

/// Row-level security would hide rows, so that jobs would do too little without a word: where it
/// holds for the role, they refuse to run.
fn row_security(role: &str, names: &[&'static str], tables: &HashMap<String, actual::Table>) -> Finding {
    const SUBJECT: &str = "row-level security";
    let active: Vec<_> = names
        .iter()
        .copied()
        .filter(|name| tables.get(*name).is_some_and(|t| t.row_security))
        .collect();
    if active.is_empty() {
        return Finding::ok(
            SUBJECT,
            format!("hides nothing from the role {role}"),
            kinds(USES.iter()),
        );
    }
    Finding::wrong(
        if active == [AUDIT_LOG] {
            Severity::Warning
        } else {
            Severity::Problem
        },
        SUBJECT,
        format!(
            "holds for the role {role} on {}: a policy could hide rows, so the jobs refuse to run with it. \
             The statement needs a superuser; running the jobs as the tables' owner helps as well, unless \
             the tables force row-level security on it",
            active.join(", ")
        ),
        Some(format!("alter role {role} bypassrls;")),
        kinds(USES.iter().filter(|used| active.contains(&used.table))),
    )
}

/// How bad it is that something is wrong with a table: jobs go on without the host's audit log, and
/// without nothing else.
fn severity(table: &str) -> Severity {
    if table == AUDIT_LOG {
        Severity::Warning
    } else {
        Severity::Problem
    }
}

fn uses_of(table: &str) -> impl Iterator<Item = &'static Use> {
    USES.iter().filter(move |used| used.table == table)
}

fn uses_of_column(table: &str, column: &str) -> impl Iterator<Item = &'static Use> {
    uses_of(table).filter(move |used| used.columns().any(|c| c == column))
}

/// The kinds of jobs among some uses, each once, in the order in which they are documented.
fn kinds<'a>(uses: impl Iterator<Item = &'a Use>) -> Vec<&'static str> {
    let mentioned: BTreeSet<_> = uses.flat_map(|used| used.kinds.iter().copied()).collect();
    uses::ALL
        .iter()
        .copied()
        .filter(|kind| mentioned.contains(kind))
        .collect()
}

fn inserts(table: &str) -> bool {
    uses_of(table).any(|used| used.access == Access::Insert)
}
