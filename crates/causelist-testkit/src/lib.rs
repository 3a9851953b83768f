//! What the tests stand on: a database per test, a clock to turn.
//!
//! ```no_run
//! # async fn example() -> Result<(), sqlx::Error> {
//! let db = causelist_testkit::TestDb::new().await;
//! sqlx::query("select causelist.new_job_id()").execute(db.pool()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! All test processes of a workspace share one private PostgreSQL server under `target/testkit`. The
//! first one starts it; it stops by itself a minute or two after the last one has ended. Each test
//! has a database of its own, cloned from a template that is migrated once.
//! `CAUSELIST_TEST_PG_BIN_DIR` chooses another PostgreSQL; `CAUSELIST_TEST_POOLER=1` puts PgBouncer in
//! transaction mode before it (`CAUSELIST_TEST_PGBOUNCER` names the program).

mod clock;
mod db;
mod pooler;
mod server;
pub mod smtp;

pub use clock::TurnedClock;
pub use db::{TestDb, connect};
pub use pooler::is_pooled;
