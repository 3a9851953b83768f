//! Causelist's own schema: numbered migrations, embedded in the binary.

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::{Connection, PgConnection, PgPool};

/// Where sqlx keeps its list: in Causelist's schema, so that a host that uses sqlx itself is not
/// disturbed.
const TABLE: &str = "causelist._migrations";

/// The advisory lock of whoever migrates.
const LOCK: i64 = 7_205_759_403_792_794;

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("../../migrations");
    migrator.dangerous_set_table_name(TABLE);
    migrator.create_schema("causelist");
    // sqlx's own lock belongs to a session; see `migrate`.
    migrator.set_locking(false);
    migrator
}

/// Brings the schema up to this binary's version. Safe to run from several processes at once: the
/// second waits for the first. A schema that is newer than the binary is refused.
///
/// # Errors
/// When the database can't be reached, a migration fails (it leaves nothing behind) or an applied
/// migration differs from the one in this binary.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    // A transaction holds the lock, on a connection of its own: behind a pooler in transaction mode
    // a session's lock would stay with a session that is not ours.
    let mut keeper = PgConnection::connect_with(&pool.connect_options()).await?;
    let mut lock = keeper.begin().await?;
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *lock)
        .await?;
    let done = migrator().run(pool).await;
    lock.rollback().await?;
    done?;
    // An installation that slept for weeks has run out of them.
    keep_partitions(pool).await?;
    Ok(())
}

/// Creates the partitions of the weeks to come; without them nothing can be enqueued. Workers do so
/// every hour, and every role when it starts. Returns how many are new.
///
/// # Errors
/// When the database can't be reached, or this role may not.
pub async fn keep_partitions(pool: &PgPool) -> sqlx::Result<i32> {
    sqlx::query_scalar("select causelist.keep_partitions()")
        .fetch_one(pool)
        .await
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
