//! What may come in the way while the demo starts: a signal, a crash, somebody else's database.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use causelist_testkit::TestDb;

use crate::program::{PATIENCE, Process, causelist};

fn starting(dir: &Path) -> Process {
    let mut command = causelist();
    Process::start(command.args(["demo", "--json", "--port", "0", "--data-dir"]).arg(dir))
}

fn has(dir: &Path, begins: &str) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|e| e.file_name().to_string_lossy().starts_with(begins)))
    })
}

/// The process that says it owns the data directory.
fn owner(dir: &Path) -> String {
    let text = std::fs::read_to_string(dir.join("owner.lock")).unwrap_or_default();
    text.trim().to_owned()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_signal_or_a_crash_while_it_starts_leaves_nothing_in_the_way() {
    let tmp = tempfile::tempdir().expect("a directory");
    let dir = tmp.path();
    // Killed while it makes the cluster: `initdb` goes on alone.
    let killed = starting(dir);
    wait_until("a cluster in the making", || has(dir, "data.new"));
    let first = owner(dir);
    killed.signal("KILL");
    assert_eq!(killed.wait().0, None);
    // The next start does not wait for that. Asked to end at once, it does, with a whole cluster.
    let early = starting(dir);
    let begun = Instant::now();
    wait_until("another cluster in the making", || {
        owner(dir) != first && has(dir, &format!("data.new.{}.", owner(dir)))
    });
    early.signal("INT");
    let (code, said) = early.wait();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        begun.elapsed() < Duration::from_secs(45),
        "it took {:?}",
        begun.elapsed()
    );
    assert!(dir.join("data/PG_VERSION").exists(), "{said}");
    // And while it migrates or loads.
    let late = starting(dir);
    let pid = dir.join("data/postmaster.pid");
    wait_until("a server", || pid.exists());
    late.signal("TERM");
    let begun = Instant::now();
    let (code, said) = late.wait();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "it took {:?}",
        begun.elapsed()
    );
    assert!(said.contains("stopping PostgreSQL") && !pid.exists(), "{said}");
    assert!(!has(dir, "data.new"), "what was left half made is cleared away");
}

#[tokio::test]
async fn somebody_elses_database_is_refused_untouched() {
    for (table, sql) in [
        ("customers", "create table customers (id bigint primary key)"),
        ("tasks", "create table tasks (id bigint primary key)"),
        (
            "tenants",
            "create table tenants (number int); insert into tenants values (1)",
        ),
    ] {
        let db = TestDb::new().await;
        sqlx::raw_sql("drop schema causelist cascade")
            .execute(db.pool())
            .await
            .expect("drops");
        sqlx::raw_sql(sql).execute(db.pool()).await.expect("creates");
        let dir = tempfile::tempdir().expect("a directory");
        let (code, said) = refused(db.url(), dir.path(), "0");
        assert_eq!(code, Some(2), "{said}");
        for word in [table, "\"public\"", "using DATABASE_URL"] {
            assert!(said.contains(word), "no {word} in {said}");
        }
        let left: Vec<String> = sqlx::query_scalar(
            "select nspname::text || '.' || relname::text from pg_class c join pg_namespace n on n.oid = relnamespace
             where relkind = 'r' and nspname !~ '^pg_|^information_schema$'",
        )
        .fetch_all(db.pool())
        .await
        .expect("names");
        assert_eq!(left, [format!("public.{table}")]);
        assert!(!has(dir.path(), ""), "nothing was written to the data directory");
    }
}

#[tokio::test]
async fn a_causelist_that_works_for_another_schema_is_refused() {
    let db = TestDb::new().await;
    sqlx::query("select causelist.enqueue('work-of-others')")
        .execute(db.pool())
        .await
        .expect("enqueues");
    let dir = tempfile::tempdir().expect("a directory");
    let (code, said) = refused(db.url(), dir.path(), "0");
    assert!(code == Some(2) && said.contains("\"causelist\""), "{code:?} {said}");
}

#[test]
fn a_taken_port_and_a_missing_database_are_told_before_anything_is_done() {
    let dir = tempfile::tempdir().expect("a directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let (code, said) = refused("", dir.path(), &port);
    assert!(
        code == Some(2) && said.contains(&port) && said.contains("--port"),
        "{code:?} {said}"
    );
    let (code, said) = refused("postgres://nobody@127.0.0.1:1/none", dir.path(), "0");
    assert!(code == Some(3) && said.contains("unset it"), "{code:?} {said}");
    assert!(!has(dir.path(), ""), "nothing was written to the data directory");
}

fn refused(database: &str, dir: &Path, port: &str) -> (Option<i32>, String) {
    let mut command = causelist();
    command.args(["demo", "--port", port, "--data-dir"]).arg(dir);
    if !database.is_empty() {
        command.env("DATABASE_URL", database);
    }
    Process::start(&mut command).wait()
}
