//! A connection that one task of a worker keeps for itself. The jobs' pool may be exhausted by the
//! jobs; and a pool asks a connection whether it lives before and after each statement, which
//! doubles what a short statement costs.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection, PgPool};

/// Plans are made once, not for each claim, which would cost as much as a fifth of it; and so that one
/// which was made while the tables were empty is good when they are full.
const PLANS: &str = "set plan_cache_mode = force_generic_plan; set enable_seqscan = off; set enable_bitmapscan = off";

/// A connection, made when it is needed and again after it failed.
#[derive(Debug)]
pub(crate) struct Line {
    options: Arc<PgConnectOptions>,
    open: Option<PgConnection>,
    /// How long one use may take before the connection is given up.
    patience: Duration,
    /// Not through a pooler: what is set stays set.
    direct: bool,
}

impl Line {
    /// To the same database as the pool's.
    pub(crate) fn new(pool: &PgPool, patience: Duration, direct: bool) -> Self {
        Self {
            options: pool.connect_options(),
            open: None,
            patience,
            direct,
        }
    }

    /// Does something with the connection. After an error, or when it took too long, the next use
    /// begins with a new one.
    pub(crate) async fn with<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> sqlx::Result<T> {
        let held = self.open.take();
        let (options, direct, patience) = (&self.options, self.direct, self.patience);
        let done = tokio::time::timeout(self.patience, async move {
            let mut db = match held {
                Some(db) => db,
                None => {
                    let mut db = options.connect().await?;
                    if direct {
                        // What is given up here is to end there too, or its claim would be nobody's.
                        let most = (patience * 9 / 10).as_millis();
                        let set = format!("{PLANS}; set statement_timeout = {most}");
                        sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(&mut db).await?;
                    }
                    db
                }
            };
            let out = work(&mut db).await?;
            Ok::<_, sqlx::Error>((db, out))
        });
        let (db, out) = done.await.map_err(|_| sqlx::Error::PoolTimedOut)??;
        self.open = Some(db);
        Ok(out)
    }
}
