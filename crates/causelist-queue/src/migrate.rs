//! Causelist's own schema: numbered migrations, embedded in the binary.

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::{PgConnection, PgPool};

/// Where sqlx keeps its list: in Causelist's schema, so that a host that uses sqlx itself is not
/// disturbed.
const TABLE: &str = "causelist._migrations";

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("../../migrations");
    migrator.dangerous_set_table_name(TABLE);
    migrator.create_schema("causelist");
    migrator
}

/// Brings the schema up to this binary's version. Safe to run from several processes at once: the
/// second waits for the first. A schema that is newer than the binary is refused.
///
/// # Errors
/// When the database can't be reached, a migration fails (it leaves nothing behind) or an applied
/// migration differs from the one in this binary.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    migrator().run(pool).await
}

/// The versions that the database has.
///
/// # Errors
/// When the database can't be reached.
pub async fn applied(db: &mut PgConnection) -> Result<Vec<i64>, MigrateError> {
    let present: bool = sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(TABLE)
        .fetch_one(&mut *db)
        .await?;
    if !present {
        return Ok(Vec::new());
    }
    let applied = db.list_applied_migrations(TABLE).await?;
    Ok(applied.into_iter().map(|m| m.version).collect())
}

/// The migrations that this binary has and the database lacks: (version, description).
///
/// # Errors
/// When the database can't be reached.
pub async fn pending(db: &mut PgConnection) -> Result<Vec<(i64, String)>, MigrateError> {
    let applied = applied(db).await?;
    Ok(migrator()
        .iter()
        .filter(|m| !applied.contains(&m.version))
        .map(|m| (m.version, m.description.to_string()))
        .collect())
}
