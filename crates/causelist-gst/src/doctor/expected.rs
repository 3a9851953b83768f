//! What the host's tables look like, read from the script that makes them for the demo, so that
//! there is one description of them.

use crate::{Host, host::SCHEMA_SQL};

/// A table as the script makes it.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// The statements that make the table and its indexes, with the token `host.`.
    pub(super) script: String,
    pub(super) columns: Vec<Column>,
}

/// A column as the script makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: &'static str,
    /// As written: `uuid`, `varchar(50)`, `text[]`, `host.app_role`.
    pub(super) kind: &'static str,
    /// The default's expression, as written.
    pub(super) default: Option<&'static str>,
}

impl Table {
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// All tables, in an order in which they can be made.
pub(super) fn tables() -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for statement in SCHEMA_SQL.split_inclusive(";\n").map(without_comments) {
        if let Some(rest) = statement.strip_prefix("create table host.") {
            let Some((name, body)) = rest.split_once(" (\n") else {
                continue;
            };
            let columns = body.lines().filter_map(column).collect();
            tables.push(Table {
                name,
                script: statement.to_owned(),
                columns,
            });
        } else if statement.starts_with("create index") {
            // An index follows its table.
            if let Some(table) = tables.last_mut() {
                table.script.push('\n');
                table.script.push_str(statement);
            }
        }
    }
    tables
}

/// The statement that makes the type of `user_roles.role`.
pub(super) fn app_role(host: &Host) -> String {
    let statement = SCHEMA_SQL.split_inclusive(";\n").map(without_comments);
    host.sql(
        statement
            .into_iter()
            .find(|s| s.starts_with("create type"))
            .unwrap_or_default(),
    )
}

/// Comments stand before a statement, never inside.
fn without_comments(mut statement: &'static str) -> &'static str {
    loop {
        statement = statement.trim();
        if !statement.starts_with("--") {
            return statement;
        }
        statement = statement.split_once('\n').map_or("", |(_, rest)| rest);
    }
}

/// A column's line is indented by four; what continues it by more, and constraints begin otherwise.
fn column(line: &'static str) -> Option<Column> {
    let line = line.strip_prefix("    ").filter(|line| !line.starts_with(' '))?;
    let (name, rest) = line.split_once(' ')?;
    if matches!(name, "unique" | "check" | "primary" | "foreign" | "constraint") {
        return None;
    }
    let rest = rest.trim_start();
    let kind = rest.split([' ', ',']).next()?;
    let default = rest.split_once(" default ").map(|(_, value)| {
        let end = match value.strip_prefix('\'') {
            Some(quoted) => quoted.find('\'').map(|at| at + 2),
            None => value.find([' ', ',']),
        };
        &value[..end.unwrap_or(value.len())]
    });
    Some(Column { name, kind, default })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_whole_script() {
        let tables = tables();
        assert_eq!(tables.len(), SCHEMA_SQL.matches("create table").count());
        assert_eq!(
            tables
                .iter()
                .map(|t| t.script.matches("create index").count())
                .sum::<usize>(),
            SCHEMA_SQL.matches("create index").count()
        );
        let table = |name: &str| tables.iter().find(|t| t.name == name).unwrap();
        let column = |t: &str, c: &str| table(t).column(c).unwrap().clone();
        assert_eq!(table("audit_log").columns.len(), 8);
        assert_eq!(
            column("notification_preferences", "reminder_days"),
            Column {
                name: "reminder_days",
                kind: "integer[]",
                default: Some("'{1,0}'")
            }
        );
        assert_eq!(column("tasks", "id").default, Some("gen_random_uuid()"));
        assert_eq!(
            column("tasks", "sla_hours"),
            Column {
                name: "sla_hours",
                kind: "integer",
                default: None
            }
        );
        assert_eq!(column("employees", "status").default, Some("'Active'"));
        assert_eq!(column("audit_log", "action_type").kind, "varchar(50)");
        assert_eq!(column("user_roles", "role").kind, "host.app_role");
        assert!(app_role(&Host::new("x").unwrap()).starts_with("create type \"x\".app_role as enum"));
    }
}
