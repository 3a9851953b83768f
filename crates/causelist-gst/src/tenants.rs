//! Which tenants the host has.

use causelist_core::TenantId;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::Host;
use crate::demo::TENANTS;

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

    /// Whether the host's tables exist.
    ///
    /// # Errors
    /// When the database can't be reached.
    pub async fn has_tables(&self, db: &mut PgConnection) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar("select to_regclass($1) is not null")
            .bind(self.table("tenants"))
            .fetch_one(db)
            .await
    }

    /// Whether the demo practice, and nothing else, is in the host's tables.
    ///
    /// # Errors
    /// When the host's table can't be read.
    pub async fn holds_only_the_demo(&self, db: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let sql = self.sql("select count(*) filter (where id = any($1)), count(*) from host.tenants");
        let (demo, all): (i64, i64) = sqlx::query_as(AssertSqlSafe(sql))
            .bind(TENANTS.map(|firm| firm.id))
            .fetch_one(db)
            .await?;
        Ok(demo == all && demo > 0)
    }
}
