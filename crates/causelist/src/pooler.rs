//! A pooler in transaction mode before the database: what is different, and whether it will do.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use crate::cli::Failure;

/// A pooler refuses connections with parameters that it does not know. sqlx sends one that changes
/// nothing here: PostgreSQL 12 and later print numbers exactly without it.
pub(crate) fn options(options: PgConnectOptions) -> PgConnectOptions {
    options.extra_float_digits(None)
}

/// Refuses a pooler that hands prepared statements to whoever comes next: two connections would
/// then run each other's statements.
///
/// # Errors
/// When it does, or the database can't be reached.
pub(crate) async fn check(pool: &PgPool) -> Result<(), Failure> {
    let options = pool.connect_options();
    let mut two = [
        PgConnection::connect_with(&options).await?,
        PgConnection::connect_with(&options).await?,
    ];
    // Both connections number their statements from 1: each statement has a namesake.
    for round in 0..8 {
        for (n, db) in two.iter_mut().enumerate() {
            let sql = format!("select $1::int8 + {}", 10 * round + n);
            let answer = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql))
                .bind(1_000_i64)
                .fetch_one(db)
                .await;
            match answer {
                Ok(sum) if usize::try_from(sum).is_ok_and(|sum| sum == 1_000 + 10 * round + n) => {}
                Ok(_) => return Err(unfit("one connection got another one's answer")),
                // Duplicate, unknown, or not the statement that was bound.
                Err(sqlx::Error::Database(e)) if matches!(e.code().as_deref(), Some("42P05" | "26000" | "08P01")) => {
                    return Err(unfit(e.message()));
                }
                Err(other) => return Err(other.into()),
            }
        }
    }
    for db in two {
        db.close().await?;
    }
    Ok(())
}

fn unfit(what: &str) -> Failure {
    Failure::Database(format!(
        "the pooler before the database mixes up prepared statements ({what}): use PgBouncer 1.21 or newer with \
         max_prepared_statements = 200, another pooler that keeps them in transaction mode, or session mode"
    ))
}
