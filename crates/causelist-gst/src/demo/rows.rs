//! Rows on their way into the host's tables: collected, then one INSERT per table.

use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::Host;

/// Rows by table; tables are filled in the order in which they were first named, so that a row
/// comes after what it refers to.
#[derive(Debug, Default)]
pub(super) struct Rows {
    tables: Vec<(&'static str, Vec<Value>)>,
}

impl Rows {
    /// Adds a row. All rows of a table must have the same columns, given as an object.
    pub(super) fn add(&mut self, table: &'static str, row: Value) {
        match self.tables.iter_mut().find(|(name, _)| *name == table) {
            Some((_, rows)) => rows.push(row),
            None => self.tables.push((table, vec![row])),
        }
    }

    /// The rows that `table` gets.
    pub(super) fn of(&self, table: &str) -> &[Value] {
        self.tables
            .iter()
            .find(|(name, _)| *name == table)
            .map_or(&[], |(_, rows)| rows)
    }

    /// Inserts everything. A table is written as in SQL, such as `host.tasks`.
    pub(super) async fn insert(self, host: &Host, db: &mut PgConnection) -> Result<(), sqlx::Error> {
        for (table, rows) in self.tables {
            let columns = columns(&rows);
            let list = columns.join(", ");
            // Only the columns that the rows have: the others keep their defaults.
            let sql = host.sql(&format!(
                "insert into {table} ({list}) select {list} from jsonb_populate_recordset(null::{table}, $1)"
            ));
            sqlx::query(AssertSqlSafe(sql))
                .bind(Value::Array(rows))
                .execute(&mut *db)
                .await?;
        }
        Ok(())
    }
}

fn columns(rows: &[Value]) -> Vec<&str> {
    let keys = |row: &Value| row.as_object().map(Map::len);
    debug_assert!(
        rows.iter().all(|row| keys(row) == keys(&rows[0])),
        "rows of different columns"
    );
    rows.first()
        .and_then(Value::as_object)
        .map(|row| row.keys().map(String::as_str).collect())
        .unwrap_or_default()
}
