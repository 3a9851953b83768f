//! What can go wrong with a private cluster.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a private cluster could not be made, started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or a process could not be handled.
    #[error("could not {what} {}: {source}", path.display())]
    Io {
        /// What was tried: a verb.
        what: &'static str,
        /// On which file or program.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process runs a server on the directory.
    #[error(
        "{} is in use by process {owner}, which runs its PostgreSQL: stop that process first, or \
         choose another data directory", dir.display()
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process, as it wrote it down ("unknown" if it did not).
        owner: String,
    },
    /// A server left behind on the directory does not stop.
    #[error("process {pid} still serves {} and does not stop: end it, then start again", dir.display())]
    Stuck {
        /// The directory.
        dir: PathBuf,
        /// The server's process id.
        pid: i32,
    },
    /// The data was made by another major version.
    #[error(
        "{} was made by PostgreSQL {made_by}, but {} holds PostgreSQL {major}: set PG_BIN_DIR to the \
         programs of PostgreSQL {made_by}, or choose another data directory",
        dir.display(), bin.display()
    )]
    OtherVersion {
        /// The cluster's directory.
        dir: PathBuf,
        /// The version that made the data.
        made_by: String,
        /// The programs' directory.
        bin: PathBuf,
        /// The programs' version.
        major: u16,
    },
    /// The directory holds something that is not a cluster.
    #[error("{} is not a PostgreSQL cluster ({why}): move it away, or choose another data directory", path.display())]
    NotACluster {
        /// What is in the way.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// PostgreSQL refuses root, and the account that runs it instead can't reach the directory.
    #[error(
        "PostgreSQL does not run as root, and user {uid}, which would run it, cannot write to {}: \
         choose a data directory outside of root's home, such as /var/lib/causelist", dir.display()
    )]
    NoAccess {
        /// The directory.
        dir: PathBuf,
        /// The account's user id.
        uid: u32,
    },
    /// `initdb` or the first steps in the new cluster failed.
    #[error("could not make a PostgreSQL cluster in {}: {program} said: {said}", dir.display())]
    Setup {
        /// The cluster's directory.
        dir: PathBuf,
        /// Which program failed.
        program: &'static str,
        /// What it printed.
        said: String,
    },
    /// The server ended while it was starting.
    #[error("PostgreSQL did not start ({status}); the end of {}: {tail}", log.display())]
    Exited {
        /// How it ended.
        status: String,
        /// The log file.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// The server runs, but takes no connections in time.
    #[error("PostgreSQL was not ready after {} s; the end of {}: {tail}", waited.as_secs(), log.display())]
    NotReady {
        /// How long it was given.
        waited: Duration,
        /// The log file.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
}

impl Error {
    /// For `map_err`: an I/O error with what was tried.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Io { what, path, source }
    }
}
