//! Tables, columns, types and privileges: what is there against what the jobs use.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Use, actual, expected, inserts, kinds, severity, uses::Access, uses_of, uses_of_column};
use crate::Host;

pub(super) fn missing_table(host: &Host, table: &expected::Table) -> Finding {
    let mut cure = host.sql(&table.script);
    if table.columns.iter().any(|column| column.kind == "host.app_role") {
        // The type may have outlived the table.
        cure = format!(
            "do $$ begin {} exception when duplicate_object then end $$;\n{cure}",
            expected::app_role(host)
        );
    }
    let what = format!(
        "the table is missing; if it has another name in this database, make a view {} over it",
        host.table(table.name)
    );
    Finding::wrong(
        severity(table.name),
        table.name,
        what,
        Some(cure),
        kinds(uses_of(table.name)),
    )
}

/// Columns that are missing or of a type that the jobs' statements don't take.
pub(super) fn columns(host: &Host, table: &expected::Table, actual: &actual::Table, findings: &mut Vec<Finding>) {
    let used: BTreeSet<_> = uses_of(table.name).flat_map(Use::columns).collect();
    for column in table.columns.iter().filter(|column| used.contains(column.name)) {
        let subject = format!("{}.{}", table.name, column.name);
        let needed_by = kinds(uses_of_column(table.name, column.name));
        let kind = host.sql(column.kind);
        match actual.columns.get(column.name) {
            None => {
                let default = column
                    .default
                    .map(|value| format!(" default {value}"))
                    .unwrap_or_default();
                let cure = format!(
                    "alter table {} add column {} {kind}{default};",
                    host.table(table.name),
                    column.name
                );
                findings.push(Finding::wrong(
                    severity(table.name),
                    subject,
                    "the column is missing",
                    Some(cure),
                    needed_by,
                ));
            }
            Some(found) if !fits(column.kind, found) => {
                let what = format!("is {}, where the jobs need {kind}", found.written);
                let cure = retype(host, table, column, found);
                findings.push(Finding::wrong(
                    severity(table.name),
                    subject,
                    what,
                    Some(cure),
                    needed_by,
                ));
            }
            Some(_) => {}
        }
    }
}

/// Whether the jobs' statements take a column as it is in place of the kind in the script.
fn fits(kind: &str, found: &actual::Column) -> bool {
    let base = found.base.as_str();
    match kind {
        "timestamptz" => base == "timestamp with time zone",
        "time" => base == "time without time zone",
        "integer" => matches!(base, "integer" | "smallint"),
        "integer[]" => matches!(base, "integer[]" | "smallint[]" | "bigint[]"),
        "text[]" => found.is_text && base.ends_with("[]"),
        // Read through a cast to text.
        "host.app_role" => found.is_enum || found.is_text,
        _ if is_text(kind) => found.is_text && !base.ends_with("[]"),
        _ => base == kind,
    }
}

fn is_text(kind: &str) -> bool {
    kind == "text" || kind.starts_with("varchar")
}

/// The statement that changes a column's type, its default put aside meanwhile.
pub(super) fn retype(
    host: &Host,
    table: &expected::Table,
    column: &expected::Column,
    found: &actual::Column,
) -> String {
    let (name, kind) = (column.name, host.sql(column.kind));
    let value = match (column.kind, found.base.as_str()) {
        // What has no zone is taken to be UTC, whatever the session's zone is.
        ("timestamptz", "date" | "timestamp without time zone") => {
            format!("{name}::timestamp at time zone 'UTC'")
        }
        _ => format!("{name}::{kind}"),
    };
    let mut steps = vec![format!("alter column {name} type {kind} using {value}")];
    if found.has_default {
        steps.insert(0, format!("alter column {name} drop default"));
        if let Some(default) = column.default {
            steps.push(format!("alter column {name} set default {default}"));
        }
    }
    format!("alter table {} {};", host.table(table.name), steps.join(", "))
}

/// Columns that must not be null, and that the jobs' INSERTs leave empty.
pub(super) fn filled(host: &Host, table: &expected::Table, actual: &actual::Table, findings: &mut Vec<Finding>) {
    if !inserts(table.name) {
        return;
    }
    let mut empty: Vec<_> = actual
        .columns
        .values()
        .filter(|found| found.not_null)
        .filter(|found| !uses_of(table.name).any(|used| used.fills(&found.name)))
        // A default helps where the INSERT doesn't name the column.
        .filter(|found| {
            let named = uses_of(table.name)
                .any(|used| used.access == Access::Insert && used.columns().any(|c| c == found.name));
            named || !found.has_default
        })
        .collect();
    empty.sort_by(|a, b| a.name.cmp(&b.name));
    for found in empty {
        let name = quoted(&found.name);
        let step = if found.name == "id" && found.base == "uuid" {
            "set default gen_random_uuid()"
        } else {
            "drop not null"
        };
        findings.push(Finding::wrong(
            severity(table.name),
            format!("{}.{}", table.name, found.name),
            "must not be null and has no default, and the jobs have no value for it",
            Some(format!(
                "alter table {} alter column {name} {step};",
                host.table(table.name)
            )),
            kinds(uses_of(table.name).filter(|used| used.access == Access::Insert)),
        ));
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What the role may not do with columns that are there.
pub(super) fn privileges(
    host: &Host,
    table: &expected::Table,
    actual: &actual::Table,
    role: &str,
    findings: &mut Vec<Finding>,
) {
    let mut denied: BTreeMap<Access, BTreeSet<&str>> = BTreeMap::new();
    for used in uses_of(table.name) {
        for column in used.columns() {
            if actual.columns.get(column).is_some_and(|found| !found.can(used.access)) {
                denied.entry(used.access).or_default().insert(column);
            }
        }
    }
    if denied.is_empty() {
        return;
    }
    let list: Vec<_> = denied.keys().map(|access| access.name()).collect();
    let what: Vec<_> = denied
        .iter()
        .map(|(access, columns)| {
            format!(
                "{} ({})",
                access.name(),
                columns.iter().copied().collect::<Vec<_>>().join(", ")
            )
        })
        .collect();
    findings.push(Finding::wrong(
        severity(table.name),
        table.name,
        format!("the role {role} lacks {}", what.join(" and ")),
        Some(format!(
            "grant {} on {} to {role};",
            list.join(", "),
            host.table(table.name)
        )),
        kinds(uses_of(table.name).filter(|used| denied.contains_key(&used.access))),
    ));
}
