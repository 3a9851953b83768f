//! A private PostgreSQL server: find the programs, make a cluster, start, heal and stop it.
//!
//! [`Cluster::start`] is all that most callers need. Everything blocks: call it from
//! `spawn_blocking` in async code. Unix only.
//!
//! What the directory given to it holds:
//!
//! | name | what |
//! | --- | --- |
//! | `data/` | the server's data; made under a name of its own (`data.new.…`) and then renamed, so that an interrupted `initdb` leaves nothing half made |
//! | `password` | the password of the login, readable by its owner only |
//! | `owner.lock` | held, with its process id inside, by the process that runs the server |
//! | `run/` | the Unix socket, unless the path is too long for one |
//! | `postgres.log` | what the server says |

#![cfg(unix)]

mod account;
mod binaries;
mod cluster;
mod endpoint;
mod error;
mod install;
mod lock;
mod pidfile;
mod process;
mod setup;

pub use binaries::{MIN_MAJOR, NotFound, PgBinaries, find_binaries, find_binaries_for};
pub use cluster::{Cluster, Options, remove};
pub use endpoint::{Endpoint, running};
pub use error::Error;
pub use process::is_alive;

use std::path::{Path, PathBuf};

/// Where things are under a cluster's directory.
#[derive(Debug, Clone)]
struct Layout {
    dir: PathBuf,
}

impl Layout {
    fn new(dir: &Path) -> Result<Layout, Error> {
        let dir = std::path::absolute(dir).map_err(Error::io("resolve", dir))?;
        Ok(Layout { dir })
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn password(&self) -> PathBuf {
        self.dir.join("password")
    }

    fn owner_lock(&self) -> PathBuf {
        self.dir.join("owner.lock")
    }

    fn sockets(&self) -> PathBuf {
        self.dir.join("run")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("postgres.log")
    }
}

/// Where Causelist keeps its data unless told otherwise: `$XDG_DATA_HOME/causelist`, else
/// `~/.local/share/causelist` (macOS: `~/Library/Application Support/causelist`). Without a home
/// directory it is `/var/lib/causelist` for root and `causelist-data` in the working directory
/// for others.
pub fn default_data_dir() -> PathBuf {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    data_dir_of(
        var("XDG_DATA_HOME"),
        var("HOME"),
        account::is_root(),
        std::env::consts::OS,
    )
}

fn data_dir_of(xdg: Option<PathBuf>, home: Option<PathBuf>, root: bool, os: &str) -> PathBuf {
    // The XDG specification tells to ignore relative paths; "/" is what daemons get as HOME.
    let usable = |path: &PathBuf| path.is_absolute() && path.parent().is_some();
    if let Some(xdg) = xdg.filter(usable) {
        return xdg.join("causelist");
    }
    match home.filter(usable) {
        Some(home) if os == "macos" => home.join("Library/Application Support/causelist"),
        Some(home) => home.join(".local/share/causelist"),
        None if root => PathBuf::from("/var/lib/causelist"),
        None => PathBuf::from("causelist-data"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_directory_follows_the_platform() {
        let dir = |xdg: Option<&str>, home: Option<&str>, root, os| {
            data_dir_of(xdg.map(PathBuf::from), home.map(PathBuf::from), root, os)
                .display()
                .to_string()
        };
        assert_eq!(dir(Some("/x"), Some("/home/a"), false, "linux"), "/x/causelist");
        assert_eq!(dir(Some("x"), Some("/h"), false, "linux"), "/h/.local/share/causelist");
        assert_eq!(
            dir(None, Some("/Users/a"), false, "macos"),
            "/Users/a/Library/Application Support/causelist"
        );
        assert_eq!(dir(None, None, true, "linux"), "/var/lib/causelist");
        assert_eq!(dir(None, Some("/"), true, "linux"), "/var/lib/causelist");
        assert_eq!(dir(Some(""), Some(""), false, "linux"), "causelist-data");
    }
}
