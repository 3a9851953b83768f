//! A private server through its life, with the PostgreSQL of this machine.

#![expect(clippy::unwrap_used, reason = "a helper that can't go on ends its test")]

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use causelist_pg::{Cluster, Endpoint, Error, Options, PgBinaries, find_binaries, is_alive, remove};
use sqlx::{Connection, PgConnection, query, query_scalar};

fn bin() -> PgBinaries {
    match std::env::var_os("CAUSELIST_TEST_PG_BIN_DIR") {
        Some(dir) => PgBinaries::in_dir(Path::new(&dir)).unwrap(),
        None => find_binaries().unwrap(),
    }
}

/// `initdb` is quicker for a cluster that is thrown away.
fn start(dir: &Path) -> Result<Cluster, Error> {
    Cluster::start(
        &bin(),
        dir,
        &Options {
            throwaway: true,
            ..Options::default()
        },
    )
}

fn sql(url: &str, statement: &'static str) -> i64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut db = PgConnection::connect(url).await.unwrap();
        if statement.starts_with("select") {
            query_scalar(statement).fetch_one(&mut db).await.unwrap()
        } else {
            query(statement).execute(&mut db).await.unwrap().rows_affected() as i64
        }
    })
}

fn kill_9(pid: i32) {
    assert!(
        Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
}

/// The server's children go when they notice that it has; until then they hold its memory.
fn refuses_connections(endpoint: &Endpoint) -> bool {
    TcpStream::connect(("127.0.0.1", endpoint.port)).is_err()
}

#[test]
fn data_outlives_a_stop() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("not/yet there");
    // As the demo runs it.
    let cluster = Cluster::start(&bin(), &dir, &Options::default()).unwrap();
    let first = cluster.endpoint().clone();
    for (name, mode) in [("", 0o700), ("data", 0o700), ("run", 0o700), ("password", 0o600)] {
        let found = fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}: {found:o}");
    }
    assert_eq!(causelist_pg::running(&dir).as_ref(), Some(&first));
    assert_eq!(sql(&first.url(), "create table kept as select 42::bigint as answer"), 1);
    assert_eq!(sql(&first.socket_url(), "select answer from kept"), 42);
    cluster.stop().unwrap();
    assert!(!is_alive(first.pid));
    assert!(refuses_connections(&first));
    assert_eq!(causelist_pg::running(&dir), None);

    let cluster = Cluster::start(&bin(), &dir, &Options::default()).unwrap();
    assert_eq!(sql(&cluster.endpoint().url(), "select answer from kept"), 42);
    assert_eq!(
        sql(
            &cluster.endpoint().url(),
            "select count(*) from pg_settings where (name, setting) in (('fsync', 'on'),
             ('max_connections', '100'), ('server_encoding', 'UTF8'), ('listen_addresses', '127.0.0.1'))"
        ),
        4
    );
    let pid = cluster.endpoint().pid;
    drop(cluster);
    assert!(!is_alive(pid), "dropping it stops it too");
}

#[test]
fn a_killed_server_heals_at_the_next_start() {
    let tmp = tempfile::tempdir().unwrap();
    let cluster = start(tmp.path()).unwrap();
    let url = cluster.endpoint().url();
    sql(&url, "create table kept as select 7::bigint as answer");
    kill_9(cluster.endpoint().pid);
    cluster.stop().unwrap();
    assert!(tmp.path().join("data/postmaster.pid").exists(), "it left its pid file");

    let cluster = start(tmp.path()).unwrap();
    assert_eq!(sql(&cluster.endpoint().url(), "select answer from kept"), 7);
    let sockets = fs::read_dir(tmp.path().join("run")).unwrap().count();
    assert_eq!(sockets, 2, "one socket and its lock file: the killed server's are gone");
}

#[test]
fn a_server_whose_owner_died_is_stopped_first() {
    let tmp = tempfile::tempdir().unwrap();
    let orphan = start(tmp.path()).unwrap().detach();
    sql(&orphan.url(), "create table kept as select 8::bigint as answer");

    let cluster = start(tmp.path()).unwrap();
    assert_ne!(cluster.endpoint().pid, orphan.pid);
    assert!(refuses_connections(&orphan) || cluster.endpoint().port == orphan.port);
    assert_eq!(sql(&cluster.endpoint().url(), "select answer from kept"), 8);
    let log = fs::read_to_string(cluster.log()).unwrap();
    assert!(
        !log.contains("not properly shut down"),
        "the orphan was stopped in good order: {log}"
    );
}

#[test]
fn a_second_owner_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let cluster = start(tmp.path()).unwrap();
    let error = start(tmp.path()).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }));
    let message = error.to_string();
    for part in [
        tmp.path().display().to_string(),
        format!("process {},", std::process::id()),
    ] {
        assert!(message.contains(&part), "{part:?} is not in {message:?}");
    }
    assert!(matches!(remove(tmp.path()), Err(Error::InUse { .. })));
    assert_eq!(
        sql(&cluster.endpoint().url(), "select 1::bigint"),
        1,
        "the first is unharmed"
    );
}

#[test]
fn an_interrupted_initdb_leaves_nothing_in_the_way() {
    let tmp = tempfile::tempdir().unwrap();
    let half = tmp.path().join("data.new");
    fs::create_dir_all(half.join("base")).unwrap();
    fs::write(half.join("PG_VERSION"), "9.6\n").unwrap();
    fs::write(tmp.path().join("password"), "old").unwrap();
    // An empty directory is as good as none.
    fs::create_dir(tmp.path().join("data")).unwrap();

    let cluster = start(tmp.path()).unwrap();
    assert_eq!(sql(&cluster.endpoint().url(), "select 1::bigint"), 1);
    assert!(!half.exists());
}

#[test]
fn a_pid_that_passed_to_another_process_does_no_harm() {
    let tmp = tempfile::tempdir().unwrap();
    start(tmp.path()).unwrap().stop().unwrap();
    let pid_file = tmp.path().join("data/postmaster.pid");
    let mut other = Command::new("sleep").arg("600").spawn().unwrap();
    fs::write(
        &pid_file,
        format!("{}\n{}\n1\n5432\n\n\n\nready\n", other.id(), tmp.path().display()),
    )
    .unwrap();

    assert_eq!(causelist_pg::running(tmp.path()), None);
    let cluster = start(tmp.path());
    let untouched = other.try_wait().unwrap().is_none();
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(untouched, "a process that is no server must be left alone");
    assert_eq!(sql(&cluster.unwrap().endpoint().url(), "select 1::bigint"), 1);
}

#[test]
fn a_path_too_long_for_a_socket_works() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("a long name, with \"quotes\"".repeat(5));
    let cluster = start(&dir).unwrap();
    let endpoint = cluster.endpoint().clone();
    assert!(endpoint.socket_dir.as_os_str().len() < 100);
    let mode = fs::metadata(&endpoint.socket_dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "nobody else may enter it");
    assert_eq!(sql(&endpoint.url(), "select 1::bigint"), 1);
    assert_eq!(sql(&endpoint.socket_url(), "select 1::bigint"), 1);
    cluster.stop().unwrap();
    assert!(!endpoint.socket_dir.exists(), "the temporary directory is gone");

    let orphan = start(&dir).unwrap().detach();
    start(&dir).unwrap().stop().unwrap();
    assert!(!orphan.socket_dir.exists(), "an orphan's too");
}

#[test]
fn what_is_no_cluster_of_ours_is_left_alone() {
    let tmp = tempfile::tempdir().unwrap();
    let data = tmp.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("letter.txt"), "dear").unwrap();
    let message = start(tmp.path()).unwrap_err().to_string();
    assert!(
        message.contains("is not a PostgreSQL cluster (it has no PG_VERSION)"),
        "{message}"
    );

    fs::write(data.join("PG_VERSION"), "9\n").unwrap();
    let message = start(tmp.path()).unwrap_err().to_string();
    assert!(message.contains("the password file is missing"), "{message}");

    fs::write(tmp.path().join("password"), "secret\n").unwrap();
    let message = start(tmp.path()).unwrap_err().to_string();
    assert!(message.contains("was made by PostgreSQL 9, but "), "{message}");
    assert!(message.contains("PG_BIN_DIR"), "{message}");
    assert_eq!(fs::read_to_string(data.join("letter.txt")).unwrap(), "dear");
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let tmp = tempfile::tempdir().unwrap();
    let options = Options {
        throwaway: true,
        settings: vec![("work_mem".into(), "plenty".into())],
        ..Options::default()
    };
    let message = Cluster::start(&bin(), tmp.path(), &options).unwrap_err().to_string();
    assert!(message.contains("did not start"), "{message}");
    assert!(message.contains("work_mem"), "{message}");
}

#[test]
fn remove_takes_a_left_behind_server_with_it() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("cluster");
    remove(&dir).unwrap();
    let orphan = start(&dir).unwrap().detach();
    remove(&dir).unwrap();
    assert!(!is_alive(orphan.pid) && !dir.exists());
}
