//! As whom PostgreSQL runs: it refuses root.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Error;

/// The traditional "nobody".
const NOBODY: u32 = 65534;

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// As whom to run PostgreSQL's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Account {
    /// As ourselves.
    Own,
    /// As root that looks like another user, in a user namespace: files stay root's own.
    Namespace,
    /// As another user, who must own the files.
    Other { uid: u32, gid: u32 },
}

impl Account {
    pub(crate) fn detect() -> Account {
        if !is_root() {
            return Account::Own;
        }
        // Containers often forbid namespaces, so that only trying tells.
        let tried = Account::Namespace
            .command(Path::new("true"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if tried.is_ok_and(|status| status.success()) {
            return Account::Namespace;
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let (uid, gid) = postgres_user(&passwd).unwrap_or((NOBODY, NOBODY));
        Account::Other { uid, gid }
    }

    /// A command that runs `program` under this account, cut off from our terminal's signals and
    /// from settings of our environment that PostgreSQL's programs would read.
    pub(crate) fn command(self, program: &Path) -> Command {
        let mut command = match self {
            Account::Namespace => {
                let mut command = Command::new("unshare");
                command
                    .arg("--user")
                    .arg(format!("--map-user={NOBODY}"))
                    .arg(format!("--map-group={NOBODY}"))
                    .arg("--")
                    .arg(program);
                command
            }
            Account::Own | Account::Other { .. } => Command::new(program),
        };
        if let Account::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
        // Its own process group: Ctrl-C is for us, and we stop PostgreSQL when we are through.
        command.process_group(0).current_dir("/").stdin(Stdio::null());
        for name in [
            "PGDATA",
            "PGHOST",
            "PGPORT",
            "PGUSER",
            "PGDATABASE",
            "PGOPTIONS",
            "PGTZ",
        ] {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C");
        command
    }

    /// Who must own the files; `None`: we do in any case.
    fn owner(self) -> Option<(u32, u32)> {
        match self {
            Account::Own => None,
            Account::Namespace => Some((0, 0)),
            Account::Other { uid, gid } => Some((uid, gid)),
        }
    }

    /// Gives a file or directory (not what is in it) to the account.
    pub(crate) fn give(self, path: &Path) -> Result<(), Error> {
        match self.owner() {
            None => Ok(()),
            Some((uid, gid)) => chown(path, Some(uid), Some(gid)).map_err(Error::io("change the owner of", path)),
        }
    }

    /// Gives a directory with all that is in it to the account, unless it has it already: a start
    /// under other circumstances may have left it to another.
    pub(crate) fn give_tree(self, path: &Path) -> Result<(), Error> {
        let Some((uid, _)) = self.owner() else {
            return Ok(());
        };
        let has = fs::metadata(path).map_err(Error::io("read", path))?.uid();
        if has == uid {
            return Ok(());
        }
        for entry in fs::read_dir(path).map_err(Error::io("read", path))? {
            let entry = entry.map_err(Error::io("read", path))?;
            let kind = entry.file_type().map_err(Error::io("read", path))?;
            if kind.is_dir() {
                self.give_tree(&entry.path())?;
            } else if kind.is_file() {
                self.give(&entry.path())?;
            }
        }
        // Last: it says that the rest is done.
        self.give(path)
    }

    /// Checks that the account can write to `dir`: the way there may be closed to it.
    pub(crate) fn check_access(self, dir: &Path) -> Result<(), Error> {
        let Account::Other { uid, .. } = self else {
            return Ok(());
        };
        let status = self
            .command(Path::new("test"))
            .arg("-w")
            .arg(dir)
            .status()
            .map_err(Error::io("run test -w on", dir))?;
        if status.success() {
            Ok(())
        } else {
            Err(Error::NoAccess {
                dir: dir.to_path_buf(),
                uid,
            })
        }
    }
}

/// The ids of the user that PostgreSQL's packages create.
fn postgres_user(passwd: &str) -> Option<(u32, u32)> {
    let line = passwd.lines().find(|line| line.starts_with("postgres:"))?;
    let mut ids = line.split(':').skip(2).map(str::parse::<u32>);
    Some((ids.next()?.ok()?, ids.next()?.ok()?))
}

/// Makes a directory that only its owner may enter, and, with the usual rights, those above it.
pub(crate) fn make_private_dir(dir: &Path) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_postgres_user_is_read_from_passwd() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres:x:102:104:,,,:/var/lib/postgresql:/bin/sh\n";
        assert_eq!(postgres_user(passwd), Some((102, 104)));
        assert_eq!(postgres_user("postgresql:x:1:2::/:/bin/sh"), None);
        assert_eq!(postgres_user("postgres:x:nonsense"), None);
    }
}
