//! A database per test.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, query, query_scalar, raw_sql};

use crate::pooler::is_pooled;
use crate::server::Server;

/// Numbers the databases of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A database that belongs to one test. Dropping this drops it.
#[derive(Debug)]
pub struct TestDb {
    name: String,
    url: String,
    direct_url: String,
    pool: PgPool,
}

impl TestDb {
    /// A database with Causelist's schema. Panics, with the reason, if it can't be had.
    pub async fn new() -> TestDb {
        or_panic(TestDb::make(Some("")).await)
    }

    /// A database with Causelist's schema in which `sql` has been run: once for all tests that
    /// give the same text, so that the host's tables cost nothing in each.
    pub async fn with_sql(sql: &str) -> TestDb {
        or_panic(TestDb::make(Some(sql)).await)
    }

    /// An empty database, without Causelist's schema.
    pub async fn empty() -> TestDb {
        or_panic(TestDb::make(None).await)
    }

    /// A pool of up to ten connections.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The database's URL (a superuser; TCP, unless there is a pooler).
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL past the pooler, if there is one: for logins of a test's own.
    pub fn direct_url(&self) -> &str {
        &self.direct_url
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A pool of its own, as another process would have.
    pub async fn another_pool(&self, max_connections: u32) -> PgPool {
        or_panic(connect_pool(&self.url, max_connections).await)
    }

    async fn make(sql: Option<&str>) -> Result<TestDb> {
        let server = Server::get().await?;
        let template = match sql {
            Some(sql) => template(server, sql).await?,
            None => "template1".to_owned(),
        };
        let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        create(&mut admin(server).await?, server, &name, &template).await?;
        let url = server.url_of(&name);
        let direct_url = server.endpoint.url_of(&name);
        let pool = connect_pool(&url, 10).await?;
        Ok(TestDb {
            name,
            url,
            direct_url,
            pool,
        })
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        // The test's runtime can't be waited for in here, so a thread brings its own. What goes
        // wrong leaves a database behind, until the server stops.
        let dropped = std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut db = admin(Server::get().await?).await?;
                // `with (force)` alone ends the sessions too, but then sleeps for 100 ms.
                let sessions = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = $1";
                for _ in 0..100 {
                    if query_scalar::<_, i64>(sessions).bind(&name).fetch_one(&mut db).await? == 0 {
                        break;
                    }
                }
                let statement = format!("drop database {name} with (force)");
                let dropping = query(AssertSqlSafe(statement)).execute(&mut db);
                // It waits for a checkpoint and for all other sessions. The server goes on with it
                // when we no longer listen.
                if let Ok(dropped) = tokio::time::timeout(Duration::from_millis(300), dropping).await {
                    dropped?;
                }
                Ok(())
            })
        });
        if let Ok(Err(e)) = dropped.join() {
            eprintln!("a test's database was not dropped: {e:#}");
        }
    }
}

fn or_panic<T>(made: Result<T>) -> T {
    match made {
        Ok(made) => made,
        Err(e) => panic!("no database for this test: {e:#}"),
    }
}

/// A connection to the server's maintenance database.
async fn admin(server: &Server) -> Result<PgConnection> {
    PgConnection::connect(&server.endpoint.url_of("postgres"))
        .await
        .context("connect to the tests' PostgreSQL")
}

/// A pool over a test's database, for a process or runtime that has only its URL.
pub async fn connect(url: &str, max_connections: u32) -> PgPool {
    or_panic(connect_pool(url, max_connections).await)
}

async fn connect_pool(url: &str, max_connections: u32) -> Result<PgPool> {
    let mut options = PgConnectOptions::from_str(url)?;
    if is_pooled() {
        // As the product does it: a pooler refuses parameters that it does not know.
        options = options.extra_float_digits(None);
    }
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(Duration::from_secs(60))
        .connect_with(options)
        .await
        .context("connect to a test's database")
}

/// The name of the template with all migrations and `sql`; makes it if it is not there.
async fn template(server: &Server, sql: &str) -> Result<String> {
    let migrator = migrator().await?;
    let mut hash = DefaultHasher::new();
    for migration in migrator.iter() {
        (migration.version, &migration.checksum).hash(&mut hash);
    }
    sql.hash(&mut hash);
    let name = format!("template_{:016x}", hash.finish());

    let mut db = admin(server).await?;
    if exists(&mut db, &name).await? {
        return Ok(name);
    }
    let _lock = server.lock().await?;
    if exists(&mut db, &name).await? {
        return Ok(name);
    }
    // Under another name until it is whole.
    let half = format!("{name}_half");
    query(AssertSqlSafe(format!("drop database if exists {half} with (force)")))
        .execute(&mut db)
        .await?;
    create(&mut db, server, &half, "template1").await?;
    let mut inside = PgConnection::connect(&server.endpoint.url_of(&half)).await?;
    migrator.run(&mut inside).await.context("migrate the template")?;
    raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(&mut inside)
        .await
        .context("run the test's SQL")?;
    inside.close().await?;
    // A database can be cloned only while nobody is connected to it.
    for statement in [
        format!("alter database {half} with allow_connections false"),
        format!("alter database {half} rename to {name}"),
    ] {
        query(AssertSqlSafe(statement)).execute(&mut db).await?;
    }
    Ok(name)
}

/// Read anew from the files, so that a test never runs over an old schema. It keeps its list
/// where `causelist_queue::migrate` does.
async fn migrator() -> Result<Migrator> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
    let mut migrator = Migrator::new(dir.as_path())
        .await
        .with_context(|| format!("read {}", dir.display()))?;
    migrator.dangerous_set_table_name("causelist._migrations");
    migrator.create_schema("causelist");
    Ok(migrator)
}

async fn exists(db: &mut PgConnection, name: &str) -> Result<bool> {
    Ok(
        query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(name)
            .fetch_one(db)
            .await?,
    )
}

async fn create(db: &mut PgConnection, server: &Server, name: &str, template: &str) -> Result<()> {
    // Copying through the log needs no checkpoint: several times faster. Since version 15.
    let strategy = if server.major >= 15 { "strategy wal_log" } else { "" };
    query(AssertSqlSafe(format!(
        "create database {name} template {template} {strategy}"
    )))
    .execute(db)
    .await
    .with_context(|| format!("clone {template}"))?;
    Ok(())
}
