//! The server that all test processes of a workspace share.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use causelist_pg::{Cluster, Endpoint, Options, PgBinaries, find_binaries};
use tokio::sync::OnceCell;

use crate::pooler::{Pooler, is_pooled};

/// How often a process says that it still uses the server; the keeper waits for a minute at least.
const TOUCH_EVERY: Duration = Duration::from_secs(10);

static SERVER: OnceCell<Server> = OnceCell::const_new();

/// The running server, as this process sees it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) endpoint: Endpoint,
    pub(crate) major: u16,
    pooler: Option<Pooler>,
    files: Files,
}

/// The files beside the cluster's directory.
#[derive(Debug, Clone)]
struct Files {
    cluster: PathBuf,
}

impl Files {
    fn with(&self, suffix: &str) -> PathBuf {
        let mut name = self.cluster.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    }
}

impl Server {
    /// The server; starts it if it does not run yet.
    pub(crate) async fn get() -> Result<&'static Server> {
        SERVER
            .get_or_try_init(|| async { tokio::task::spawn_blocking(Server::find_or_start).await? })
            .await
    }

    /// The URL under which tests reach a database.
    pub(crate) fn url_of(&self, database: &str) -> String {
        self.pooler
            .as_ref()
            .map_or_else(|| self.endpoint.url_of(database), |pooler| pooler.url_of(database))
    }

    /// Waits until no other process has this lock. The system lets go of it when the holder ends.
    pub(crate) async fn lock(&self) -> Result<File> {
        let files = self.files.clone();
        tokio::task::spawn_blocking(move || lock(&files)).await?
    }

    fn find_or_start() -> Result<Server> {
        let bin = match std::env::var_os("CAUSELIST_TEST_PG_BIN_DIR") {
            Some(dir) => PgBinaries::in_dir(Path::new(&dir))
                .map_err(anyhow::Error::msg)
                .context("CAUSELIST_TEST_PG_BIN_DIR")?,
            None => find_binaries()?,
        };
        let parent = target_dir().join("testkit");
        fs::create_dir_all(&parent).with_context(|| format!("make {}", parent.display()))?;
        let files = Files {
            cluster: parent.join(format!("pg-{}", bin.version())),
        };

        let _lock = lock(&files)?;
        wait_while_stopping(&files);
        let endpoint = match adopt(&files) {
            Some(endpoint) => {
                if !keeper_lives(&files) {
                    spawn_keeper(&files, &endpoint)?;
                }
                endpoint
            }
            None => {
                let endpoint = start(&bin, &files)?;
                // An earlier server's keeper ends by itself.
                spawn_keeper(&files, &endpoint)?;
                endpoint
            }
        };
        let touched = files.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(TOUCH_EVERY);
                touch(&touched);
            }
        });
        let pooler = is_pooled().then(|| Pooler::start(&endpoint)).transpose()?;
        Ok(Server {
            endpoint,
            pooler,
            major: bin.major(),
            files,
        })
    }
}

fn lock(files: &Files) -> Result<File> {
    let path = files.with(".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    file.lock().with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

/// Takes the running server, if there is one that nobody has decided to stop.
fn adopt(files: &Files) -> Option<Endpoint> {
    touch(files).then(|| causelist_pg::running(&files.cluster)).flatten()
}

/// Tells the keeper that the server is in use; false if it has been given up.
fn touch(files: &Files) -> bool {
    OpenOptions::new()
        .write(true)
        .open(files.with(".alive"))
        .and_then(|file| file.set_modified(SystemTime::now()))
        .is_ok()
}

/// Starts afresh: such a cluster may be broken after a crash of the machine, and the
/// leftovers of tests that were killed go too.
fn start(bin: &PgBinaries, files: &Files) -> Result<Endpoint> {
    causelist_pg::remove(&files.cluster)?;
    let options = Options {
        throwaway: true,
        max_connections: 300,
        ..Options::default()
    };
    let cluster = Cluster::start(bin, &files.cluster, &options)?;
    let alive = files.with(".alive");
    File::create(&alive).with_context(|| format!("make {}", alive.display()))?;
    Ok(cluster.detach())
}

fn wait_while_stopping(files: &Files) {
    let start = Instant::now();
    // The keeper gives the server ten seconds. If the keeper itself was killed, starting heals.
    while files.with(".stopping").exists() && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = fs::remove_file(files.with(".stopping"));
}

fn keeper_lives(files: &Files) -> bool {
    fs::read_to_string(files.with(".keeper"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .is_some_and(causelist_pg::is_alive)
}

fn spawn_keeper(files: &Files, endpoint: &Endpoint) -> Result<()> {
    // Cut off from this process: its group, its streams (a test runner waits for those to close).
    let keeper = Command::new("sh")
        .args(["-c", include_str!("keeper.sh"), "causelist-testkit-keeper"])
        .arg(&files.cluster)
        .arg(endpoint.pid.to_string())
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("run sh")?;
    fs::write(files.with(".keeper"), keeper.id().to_string()).context("note the keeper's id")
}

/// Cargo's target directory: the one above this test's program that cargo has marked.
fn target_dir() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|exe| {
            exe.ancestors()
                .find(|dir| dir.join("CACHEDIR.TAG").is_file())
                .map(Path::to_path_buf)
        })
        .unwrap_or_else(|| std::env::temp_dir().join("causelist"))
}
