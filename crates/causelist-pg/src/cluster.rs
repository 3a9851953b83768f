//! A private cluster's life: start, heal, stop.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::account::{Account, make_private_dir};
use crate::endpoint::{endpoint_of, read_password};
use crate::lock::OwnerLock;
use crate::pidfile::PidFile;
use crate::process::{LOOK_EVERY, end_server, is_server_on};
use crate::{Endpoint, Error, Layout, PgBinaries, setup};

/// A Unix socket's path has at most 107 bytes (103 on some systems), of which its name takes 16.
const LONGEST_SOCKET_DIR: usize = 103 - 16;
/// A log that is longer than this when the server starts is put aside.
const LOG_LIMIT: u64 = 16 << 20;
/// Somebody else may take the port that was just free.
const PORT_TRIES: usize = 3;

/// How a private server is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// For a cluster that will be thrown away: a crash of the machine may destroy it (one of the
    /// server does not), and a login sends the password as it is (SCRAM costs a client in a
    /// debug build 50 ms each time). Decided when the cluster is made.
    pub throwaway: bool,
    /// The most connections at a time.
    pub max_connections: u16,
    /// Further settings of the server, name and value; they win over those above.
    pub settings: Vec<(String, String)>,
    /// How long the server may take until it accepts connections: recovery after a crash is
    /// part of that.
    pub start_within: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            throwaway: false,
            max_connections: 100,
            settings: Vec::new(),
            start_within: Duration::from_secs(120),
        }
    }
}

/// A private server, run by this process. Dropping it stops it, which may take seconds: see
/// [`Cluster::stop`].
#[derive(Debug)]
pub struct Cluster {
    endpoint: Endpoint,
    layout: Layout,
    /// `None` once the server has been stopped or let go.
    server: Option<Child>,
    temp_socket_dir: Option<TempDir>,
    _lock: OwnerLock,
}

impl Cluster {
    /// Starts a server on `dir`; makes the cluster first if there is none.
    ///
    /// Heals what a crash left behind: a half-made cluster is made anew, a server whose owner has
    /// died is stopped first, a stale `postmaster.pid` is removed. The port is another one at each
    /// start. A directory whose owner lives is refused with [`Error::InUse`].
    pub fn start(bin: &PgBinaries, dir: &Path, options: &Options) -> Result<Cluster, Error> {
        let layout = Layout::new(dir)?;
        make_private_dir(&layout.dir).map_err(Error::io("make", &layout.dir))?;
        let lock = OwnerLock::take(&layout)?;
        stop_orphan(&layout)?;
        setup::sweep(&layout);

        let account = Account::detect();
        account.give(&layout.dir)?;
        account.check_access(&layout.dir)?;
        if has_cluster(&layout)? {
            check_version(bin, &layout)?;
            account.give_tree(&layout.data())?;
            account.give(&layout.password())?;
        } else {
            setup::make(bin, &layout, account, options)?;
        }
        let password = read_password(&layout)?;
        let (socket_dir, temp_socket_dir) = socket_dir(&layout)?;
        account.give(&socket_dir)?;

        let mut tries = 0;
        let (server, endpoint) = loop {
            tries += 1;
            match launch(bin, &layout, account, options, &socket_dir, &password) {
                Err(Error::Exited { tail, .. }) if tries < PORT_TRIES && tail.contains("Address already in use") => {}
                launched => break launched?,
            }
        };
        Ok(Cluster {
            endpoint,
            layout,
            server: Some(server),
            temp_socket_dir,
            _lock: lock,
        })
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Where the server writes its log.
    pub fn log(&self) -> PathBuf {
        self.layout.log()
    }

    /// Stops the server: a fast shutdown (sessions are cut off, nothing is lost), after ten seconds
    /// an immediate one. Blocks until it has ended.
    pub fn stop(mut self) -> Result<(), Error> {
        self.shut_down()
    }

    /// Lets the server run on without an owner; [`running`](crate::running) finds it again.
    pub fn detach(mut self) -> Endpoint {
        self.server = None;
        if let Some(dir) = self.temp_socket_dir.take() {
            let _ = dir.keep();
        }
        self.endpoint.clone()
    }

    fn shut_down(&mut self) -> Result<(), Error> {
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        let pid = self.endpoint.pid;
        if end_server(pid, || !matches!(server.try_wait(), Ok(None))) {
            Ok(())
        } else {
            Err(Error::Stuck {
                dir: self.layout.dir.clone(),
                pid,
            })
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nobody is left to tell; the next start heals.
        let _ = self.shut_down();
    }
}

/// Removes a cluster with all its data, stopping a server that a crash left behind. It is no
/// error if there is none. Fails with [`Error::InUse`] if its owner lives.
pub fn remove(dir: &Path) -> Result<(), Error> {
    let layout = Layout::new(dir)?;
    if !layout.dir.exists() {
        return Ok(());
    }
    let _lock = OwnerLock::take(&layout)?;
    stop_orphan(&layout)?;
    setup::remove_dir(&layout.dir)
}

/// Stops the server that runs on the directory although nobody owns it, and clears away the file
/// of one that runs no more.
fn stop_orphan(layout: &Layout) -> Result<(), Error> {
    let data = layout.data();
    let Some(file) = PidFile::read(&data) else {
        return Ok(());
    };
    if is_server_on(file.pid, &data) && !end_server(file.pid, || !is_server_on(file.pid, &data)) {
        return Err(Error::Stuck {
            dir: layout.dir.clone(),
            pid: file.pid,
        });
    }
    clear_sockets(layout, &file);
    // PostgreSQL would do this itself, unless the process id has passed to somebody else.
    let path = PidFile::path(&data);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &path)(e)),
        _ => Ok(()),
    }
}

/// Removes what a killed server leaves where its socket was. Best effort: leftovers do no harm.
fn clear_sockets(layout: &Layout, file: &PidFile) {
    let (Some(dir), Some(port)) = (&file.sockets, file.port) else {
        return;
    };
    for name in [format!(".s.PGSQL.{port}"), format!(".s.PGSQL.{port}.lock")] {
        let _ = fs::remove_file(dir.join(name));
    }
    if *dir != layout.sockets() {
        // A temporary one; this fails if anything else is in it.
        let _ = fs::remove_dir(dir);
    }
}

fn has_cluster(layout: &Layout) -> Result<bool, Error> {
    let data = layout.data();
    let entries = match fs::read_dir(&data) {
        Ok(entries) => entries.count(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io("read", &data)(e)),
    };
    match (entries, data.join("PG_VERSION").is_file(), layout.password().is_file()) {
        (0, ..) => Ok(false),
        (_, false, _) => Err(Error::NotACluster {
            path: data,
            why: "it has no PG_VERSION",
        }),
        (_, true, false) => Err(Error::NotACluster {
            path: layout.password(),
            why: "the password file is missing",
        }),
        (_, true, true) => Ok(true),
    }
}

fn check_version(bin: &PgBinaries, layout: &Layout) -> Result<(), Error> {
    let path = layout.data().join("PG_VERSION");
    let made_by = fs::read_to_string(&path)
        .map_err(Error::io("read", &path))?
        .trim()
        .to_owned();
    if made_by == bin.major().to_string() {
        return Ok(());
    }
    Err(Error::OtherVersion {
        dir: layout.dir.clone(),
        made_by,
        bin: bin.dir().to_path_buf(),
        major: bin.major(),
    })
}

/// Where the Unix socket goes: beside the data, or in a short temporary directory.
fn socket_dir(layout: &Layout) -> Result<(PathBuf, Option<TempDir>), Error> {
    let dir = layout.sockets();
    // The setting is a list of quoted names: a name with a quote in it is left to the other way.
    let plain = !dir.as_os_str().as_encoded_bytes().contains(&b'"');
    if plain && dir.as_os_str().len() <= LONGEST_SOCKET_DIR {
        make_private_dir(&dir).map_err(Error::io("make", &dir))?;
        return Ok((dir, None));
    }
    let usual = std::env::temp_dir();
    let parent = if usual.as_os_str().len() + 24 <= LONGEST_SOCKET_DIR {
        &usual
    } else {
        Path::new("/tmp")
    };
    let temp = tempfile::Builder::new()
        .prefix("causelist-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .map_err(Error::io("make a socket directory in", parent))?;
    Ok((temp.path().to_path_buf(), Some(temp)))
}

/// Starts the server once, on a port that was free a moment ago, and waits until it is ready.
fn launch(
    bin: &PgBinaries,
    layout: &Layout,
    account: Account,
    options: &Options,
    socket_dir: &Path,
    password: &str,
) -> Result<(Child, Endpoint), Error> {
    let port = free_port()?;
    let (log, log_start) = open_log(layout)?;
    let log_too = log.try_clone().map_err(Error::io("open", &layout.log()))?;
    let mut command = account.command(&bin.program("postgres"));
    command.arg("-D").arg(layout.data());
    for (name, value) in settings(options, port) {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    command.arg("-c").arg({
        // The setting is a list: quotes keep commas and blanks in one piece.
        let mut arg = std::ffi::OsString::from("unix_socket_directories=\"");
        arg.push(socket_dir);
        arg.push("\"");
        arg
    });
    let program = bin.program("postgres");
    let mut server = command
        .stdout(log)
        .stderr(log_too)
        .spawn()
        .map_err(Error::io("run", &program))?;

    let started = Instant::now();
    loop {
        if let Some(status) = server.try_wait().map_err(Error::io("wait for", &program))? {
            let tail = log_since(layout, log_start);
            return Err(Error::Exited {
                status: status.to_string(),
                log: layout.log(),
                tail,
            });
        }
        match endpoint_of(layout, password.to_owned()) {
            Some(endpoint) if u32::try_from(endpoint.pid) == Ok(server.id()) => {
                return Ok((server, endpoint));
            }
            _ if started.elapsed() < options.start_within => std::thread::sleep(LOOK_EVERY),
            _ => {
                let pid = i32::try_from(server.id()).unwrap_or(0);
                end_server(pid, || !matches!(server.try_wait(), Ok(None)));
                return Err(Error::NotReady {
                    waited: options.start_within,
                    log: layout.log(),
                    tail: log_since(layout, log_start),
                });
            }
        }
    }
}

/// On the command line rather than in postgresql.conf, so that a newer Causelist brings its own.
fn settings(options: &Options, port: u16) -> Vec<(String, String)> {
    let mut all: Vec<(&str, String)> = vec![
        ("listen_addresses", "127.0.0.1".into()),
        ("port", port.to_string()),
        ("unix_socket_permissions", "0700".into()),
        ("max_connections", options.max_connections.to_string()),
        ("shared_buffers", "128MB".into()),
        ("log_destination", "stderr".into()),
        ("log_line_prefix", "%m [%p] ".into()),
        ("log_timezone", "UTC".into()),
        ("timezone", "UTC".into()),
        ("lc_messages", "C".into()),
    ];
    if options.throwaway {
        // synchronous_commit stays on: what was committed outlives a kill of the server.
        all.extend([("fsync", "off".into()), ("full_page_writes", "off".into())]);
    } else if cfg!(target_os = "linux") {
        // Before recovery every file is synced: with one call, in place of one for each file.
        all.push(("recovery_init_sync_method", "syncfs".into()));
    }
    let all = all.into_iter().map(|(name, value)| (name.to_owned(), value));
    all.chain(options.settings.iter().cloned()).collect()
}

fn free_port() -> Result<u16, Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(Error::io("find a free port on", Path::new("127.0.0.1")))
}

/// Opens the log for appending; also returns its length.
fn open_log(layout: &Layout) -> Result<(File, u64), Error> {
    let path = layout.log();
    if fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_LIMIT) {
        let aside = path.with_extension("log.1");
        fs::rename(&path, &aside).map_err(Error::io("rename the old log to", &aside))?;
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    let length = log.metadata().map_err(Error::io("read", &path))?.len();
    Ok((log, length))
}

/// The last lines that were written to the log since it had that length.
fn log_since(layout: &Layout, start: u64) -> String {
    let mut text = String::new();
    if let Ok(mut file) = File::open(layout.log()) {
        let _ = file.seek(SeekFrom::Start(start));
        let _ = file.take(1 << 20).read_to_string(&mut text);
    }
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
