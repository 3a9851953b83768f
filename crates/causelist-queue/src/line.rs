//! A connection that one task of a worker keeps for itself. The jobs' pool may be exhausted by the
//! jobs; and a pool asks a connection whether it lives before and after each statement, which
//! doubles what a short statement costs.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection, PgPool};

/// A connection, made when it is needed and again after it failed.
#[derive(Debug)]
pub(crate) struct Line {
    options: Arc<PgConnectOptions>,
    open: Option<PgConnection>,
    /// How long one use may take before the connection is given up.
    patience: Duration,
}

impl Line {
    /// To the same database as the pool's.
    pub(crate) fn new(pool: &PgPool, patience: Duration) -> Self {
        Self {
            options: pool.connect_options(),
            open: None,
            patience,
        }
    }

    /// Does something with the connection. After an error, or when it took too long, the next use
    /// begins with a new one.
    pub(crate) async fn with<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> sqlx::Result<T> {
        let held = self.open.take();
        let options = &self.options;
        let done = tokio::time::timeout(self.patience, async move {
            let mut db = match held {
                Some(db) => db,
                None => options.connect().await?,
            };
            let out = work(&mut db).await?;
            Ok::<_, sqlx::Error>((db, out))
        });
        let (db, out) = done.await.map_err(|_| sqlx::Error::PoolTimedOut)??;
        self.open = Some(db);
        Ok(out)
    }
}
