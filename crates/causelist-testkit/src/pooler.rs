//! PgBouncer in transaction mode before the tests' server, when `CAUSELIST_TEST_POOLER` says 1: one per
//! test process, gone with it.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use causelist_pg::Endpoint;

/// The traditional "nobody"; PgBouncer refuses root.
const NOBODY: u32 = 65534;

/// Whether the tests reach their databases through a pooler in transaction mode. Tests that need a
/// session of their own (LISTEN) do without it then.
pub fn is_pooled() -> bool {
    std::env::var_os("CAUSELIST_TEST_POOLER").is_some_and(|value| value == "1")
}

/// Where the pooler listens.
#[derive(Debug)]
pub(crate) struct Pooler {
    sockets: PathBuf,
}

impl Pooler {
    pub(crate) fn start(server: &Endpoint) -> Result<Pooler> {
        let program = std::env::var("CAUSELIST_TEST_PGBOUNCER").unwrap_or_else(|_| "pgbouncer".to_owned());
        // Short, since a socket's path may have 107 characters.
        let parent = std::env::temp_dir();
        remove_leftovers(&parent);
        let dir = parent.join(format!("{PREFIX}{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("make {}", dir.display()))?;
        let settings = dir.join("pgbouncer.ini");
        fs::write(&settings, ini(&dir, server)).with_context(|| format!("write {}", settings.display()))?;
        let log = dir.join("log");
        let mut command = command(&program, &dir, &settings)?;
        command
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?);
        let (tell, told) = mpsc::channel();
        // It ends with the thread that started it: this one lives as long as the process.
        std::thread::spawn(move || {
            let _ = match command.spawn() {
                Ok(mut child) => tell.send(child.wait().map(|status| format!("it ended: {status}"))),
                Err(e) => tell.send(Err(e)),
            };
        });
        let socket = dir.join(".s.PGSQL.6432");
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            let ended = match told.try_recv() {
                Ok(end) => Some(end.unwrap_or_else(|e| e.to_string())),
                Err(_) if begun.elapsed() > Duration::from_secs(20) => Some("it does not listen".to_owned()),
                Err(_) => None,
            };
            if let Some(end) = ended {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("{program} did not start ({end}); CAUSELIST_TEST_PGBOUNCER names another. It said:\n{said}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Pooler { sockets: dir })
    }

    pub(crate) fn url_of(&self, database: &str) -> String {
        let host = self.sockets.display().to_string().replace('/', "%2F");
        format!("postgres://pooled@{host}:6432/{database}")
    }
}

const PREFIX: &str = "causelist-pooler-";

/// The directories of test processes that have ended.
fn remove_leftovers(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|n| n.strip_prefix(PREFIX))
            .and_then(|pid| pid.parse().ok());
        if pid.is_some_and(|pid| !causelist_pg::is_alive(pid)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Few server sessions, taken in turn: each transaction of a client is likely to meet another one,
/// so that whatever relies on a session shows.
fn ini(dir: &Path, server: &Endpoint) -> String {
    format!(
        "[databases]\n* = host=127.0.0.1 port={} user={} password={}\n\
         [pgbouncer]\nlisten_addr =\nlisten_port = 6432\nunix_socket_dir = {}\nauth_type = any\n\
         pool_mode = transaction\nmax_prepared_statements = 200\nserver_round_robin = 1\n\
         default_pool_size = 8\nmax_client_conn = 500\nquery_wait_timeout = 60\n",
        server.port,
        server.user(),
        server.password,
        dir.display()
    )
}

fn command(program: &str, dir: &Path, settings: &Path) -> Result<Command> {
    // "pdeathsig": PgBouncer is told to end when we have.
    let dying = ["--pdeathsig", "KILL"];
    let mut command;
    if !fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0) {
        command = Command::new("setpriv");
        command.args(dying);
    } else if Command::new("unshare")
        .args(NAMESPACE)
        .arg("true")
        .output()
        .is_ok_and(|o| o.status.success())
    {
        command = Command::new("unshare");
        command.args(NAMESPACE).arg("setpriv").args(dying);
    } else {
        for path in [dir, settings] {
            chown(path, Some(NOBODY), Some(NOBODY)).with_context(|| format!("give {} away", path.display()))?;
        }
        command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .args(dying);
    }
    command
        .arg("--")
        .arg(program)
        .arg(settings)
        .process_group(0)
        .current_dir("/");
    Ok(command)
}

/// Root that looks like nobody.
const NAMESPACE: [&str; 4] = ["--user", "--map-user=65534", "--map-group=65534", "--"];
