//! Which tenants the host has.

use causelist_core::TenantId;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::Host;
use crate::demo::TENANTS;
use crate::host::SCHEMA_SQL;

impl Host {
    /// The tenants for whom schedules fire.
    ///
    /// # Errors
    /// When the host's table can't be read.
    pub async fn active_tenants(&self, db: &mut PgConnection) -> Result<Vec<TenantId>, sqlx::Error> {
        sqlx::query_scalar(AssertSqlSafe(
            self.sql("select id from host.tenants where is_active order by id"),
        ))
        .fetch_all(db)
        .await
    }

    /// Whether there is an active tenant of this id.
    ///
    /// # Errors
    /// When the host's table can't be read.
    pub async fn is_active_tenant(&self, db: &mut PgConnection, tenant: TenantId) -> Result<bool, sqlx::Error> {
        let sql = self.sql("select exists (select from host.tenants where is_active and id = $1)");
        sqlx::query_scalar(AssertSqlSafe(sql)).bind(tenant).fetch_one(db).await
    }

    /// What is in the host's schema, for the demo: it may fill an empty one, and use its own.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn found(&self, db: &mut PgConnection) -> Result<Found, sqlx::Error> {
        // Indexes and TOAST tables belong to tables. Types count too: they would be in the way.
        let names: Vec<String> = sqlx::query_scalar(
            "select c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where n.nspname = $1 and c.relkind not in ('i', 'I', 't')
             union
             select t.typname::text from pg_type t join pg_namespace n on n.oid = t.typnamespace
             where n.nspname = $1 and t.typtype in ('e', 'd', 'r')
             order by 1",
        )
        .bind(self.schema())
        .fetch_all(&mut *db)
        .await?;
        if names.is_empty() {
            return Ok(Found::Nothing);
        }
        let foreign: Vec<String> = names.iter().filter(|name| !is_the_demos(name)).cloned().collect();
        if !foreign.is_empty() {
            return Ok(Found::Foreign(foreign));
        }
        if !names.iter().any(|name| name == "tenants") {
            return Ok(Found::Foreign(names));
        }
        // As JSON: a table of this name may have other columns.
        let sql =
            self.sql("select count(*) filter (where to_jsonb(t) ->> 'id' = any($1)), count(*) from host.tenants t");
        let (demo, all): (i64, i64) = sqlx::query_as(AssertSqlSafe(sql))
            .bind(TENANTS.map(|firm| firm.id.to_string()))
            .fetch_one(db)
            .await?;
        Ok(if demo == all && demo > 0 {
            Found::Demo
        } else {
            Found::Foreign(names)
        })
    }
}

/// What a host's schema holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or there is no such schema.
    Nothing,
    /// The demo practice and nothing else.
    Demo,
    /// Tables, views or types that are not the demo's, or are called as the demo's but hold other
    /// tenants: their names.
    Foreign(Vec<String>),
}

/// Whether the demo makes a table or type of this name.
fn is_the_demos(name: &str) -> bool {
    SCHEMA_SQL.lines().any(|line| {
        ["create table host.", "create type host."].iter().any(|made| {
            line.strip_prefix(made)
                .and_then(|rest| rest.strip_prefix(name))
                .is_some_and(|rest| rest.starts_with(' '))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_tables_are_known_by_their_whole_names() {
        for name in ["tenants", "tasks", "app_role", "analytics_snapshots"] {
            assert!(is_the_demos(name), "{name}");
        }
        for name in ["", "task", "customers", "tenants_tenant_idx"] {
            assert!(!is_the_demos(name), "{name}");
        }
    }
}
