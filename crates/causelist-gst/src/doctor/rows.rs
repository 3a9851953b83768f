//! Whether the host takes the rows that jobs write: CHECK constraints, lengths, unique keys.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{
    Finding, Severity, actual, compare, expected, severity,
    uses::{self, UNIQUE, VALUES, Written},
};
use crate::Host;

fn written(table: &str) -> Vec<Written> {
    VALUES
        .iter()
        .filter(|written| written.table == table)
        .copied()
        .collect()
}

fn in_order(kinds: impl Iterator<Item = &'static [&'static str]>) -> Vec<&'static str> {
    let some: BTreeSet<_> = kinds.flatten().copied().collect();
    uses::ALL.iter().copied().filter(|kind| some.contains(kind)).collect()
}

/// Columns too short for what jobs write into them.
pub(super) fn lengths(host: &Host, table: &expected::Table, actual: &actual::Table, findings: &mut Vec<Finding>) {
    let mut short: BTreeMap<&str, Vec<Written>> = BTreeMap::new();
    for value in written(table.name) {
        let length = actual.columns.get(value.column).and_then(|found| found.length);
        if length.is_some_and(|length| usize::try_from(length).is_ok_and(|length| length < value.value.len())) {
            short.entry(value.column).or_default().push(value);
        }
    }
    for (name, values) in short {
        let (Some(column), Some(found)) = (table.column(name), actual.columns.get(name)) else {
            continue;
        };
        let list: BTreeSet<_> = values.iter().map(|value| format!("'{}'", value.value)).collect();
        findings.push(Finding::wrong(
            severity(table.name),
            format!("{}.{name}", table.name),
            format!(
                "is {}, too short for {}",
                found.written,
                list.into_iter().collect::<Vec<_>>().join(", ")
            ),
            Some(compare::retype(host, table, column, found)),
            in_order(values.iter().map(|value| value.kinds)),
        ));
    }
}

/// Keys that an upsert relies on.
pub(super) async fn uniques(
    host: &Host,
    table: &expected::Table,
    actual: &actual::Table,
    db: &mut PgConnection,
    findings: &mut Vec<Finding>,
) -> Result<(), sqlx::Error> {
    for key in UNIQUE.iter().filter(|key| key.table == table.name) {
        if actual::is_unique(actual.oid, key.columns, db).await? {
            continue;
        }
        let list = key.columns.join(", ");
        findings.push(Finding::wrong(
            severity(table.name),
            table.name,
            format!("nothing makes ({list}) unique, so that rows can't be replaced"),
            Some(format!("create unique index on {} ({list});", host.table(table.name))),
            key.kinds.to_vec(),
        ));
    }
    Ok(())
}

/// CHECK constraints that refuse a value which jobs write. Each condition is tried on such values,
/// whatever it's made of; nothing is inserted.
pub(super) async fn checks(
    host: &Host,
    table: &expected::Table,
    actual: &actual::Table,
    db: &mut PgConnection,
    findings: &mut Vec<Finding>,
) -> Result<(), sqlx::Error> {
    let values = written(table.name);
    if values.is_empty() {
        return Ok(());
    }
    // A column of a wrong type or length has its own finding; trying values on it tells no more.
    let sound = |column: &str| {
        let subject = format!("{}.{column}", table.name);
        !findings.iter().any(|finding| finding.subject == subject)
    };
    let values: Vec<_> = values.into_iter().filter(|value| sound(value.column)).collect();
    for (constraint, condition) in actual::checks(actual.oid, db).await? {
        match refused(host, table.name, &condition, &values, db).await? {
            Ok(refused) if refused.is_empty() => {}
            Ok(refused) => findings.push(too_narrow(host, table.name, &constraint, &condition, &refused)),
            Err(error) => findings.push(Finding {
                severity: Severity::Warning,
                subject: format!("{}, constraint {constraint}", table.name),
                what: format!("could not be tried on what jobs write: {error}"),
                cure: None,
                needed_by: in_order(values.iter().map(|value| value.kinds)),
            }),
        }
    }
    Ok(())
}

/// The values that a condition refuses; the inner error is what the database said to the condition.
async fn refused(
    host: &Host,
    table: &str,
    condition: &str,
    values: &[Written],
    db: &mut PgConnection,
) -> Result<Result<Vec<Written>, String>, sqlx::Error> {
    let table = host.table(table);
    let sql = format!("select ({condition}) is not false from jsonb_populate_record(null::{table}, $1) as r");
    let mut tx = db.begin().await?;
    // A function of the host's in the condition can't write either.
    sqlx::query("set transaction read only").execute(&mut *tx).await?;
    let mut refused = Vec::new();
    // The first row is empty: a condition that refuses it is about other columns.
    for value in std::iter::once(None).chain(values.iter().map(Some)) {
        let row: Map<_, _> = value
            .iter()
            .map(|w| (w.column.to_owned(), Value::from(w.value)))
            .collect();
        let admitted = sqlx::query_scalar::<_, bool>(AssertSqlSafe(sql.clone()))
            .bind(Value::Object(row))
            // Not kept: a table that is made anew has another row type.
            .persistent(false)
            .fetch_one(&mut *tx)
            .await;
        match (admitted, value) {
            (Ok(true), _) => {}
            (Ok(false), None) => break,
            (Ok(false), Some(value)) => refused.push(*value),
            (Err(sqlx::Error::Database(error)), _) => {
                tx.rollback().await?;
                return Ok(Err(error.message().to_owned()));
            }
            (Err(error), _) => return Err(error),
        }
    }
    tx.rollback().await?;
    Ok(Ok(refused))
}

fn too_narrow(host: &Host, table: &str, constraint: &str, condition: &str, refused: &[Written]) -> Finding {
    let mut columns: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for written in refused {
        let values = columns.entry(written.column).or_default();
        values.insert(format!("'{}'", written.value));
    }
    let values = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(", ");
    let what: Vec<_> = columns
        .iter()
        .map(|(column, list)| format!("{column} {}", values(list)))
        .collect();
    let or: String = columns
        .iter()
        .map(|(column, list)| format!(" or {column} in ({})", values(list)))
        .collect();
    let subject = match columns.keys().next() {
        Some(column) if columns.len() == 1 => format!("{table}.{column}"),
        _ => table.to_owned(),
    };
    Finding::wrong(
        severity(table),
        subject,
        format!("the constraint {constraint} refuses {}", what.join(" and ")),
        // NOT VALID: what is there met the narrower condition, so that no scan under lock is needed.
        Some(format!(
            "alter table {} drop constraint {constraint}, add constraint {constraint} check (({condition}){or}) not valid;",
            host.table(table)
        )),
        in_order(refused.iter().map(|value| value.kinds)),
    )
}
