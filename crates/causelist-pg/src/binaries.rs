//! Finding PostgreSQL's server programs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::install;

/// The oldest major version that Causelist supports.
pub const MIN_MAJOR: u16 = 14;

/// A directory with PostgreSQL's server programs, all of one supported version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgBinaries {
    dir: PathBuf,
    version: String,
    major: u16,
}

impl PgBinaries {
    /// Takes the programs of `dir`, or says why they won't do.
    pub fn in_dir(dir: &Path) -> Result<PgBinaries, String> {
        // A `postgres` on PATH is often a link; the real directory has all the programs.
        let postgres = dir
            .join("postgres")
            .canonicalize()
            .map_err(|_| format!("{}: no postgres there", dir.display()))?;
        let dir = match postgres.parent() {
            Some(real) if real.join("initdb").is_file() => real.to_path_buf(),
            _ => dir.to_path_buf(),
        };
        for name in ["initdb", "pg_ctl"] {
            if !dir.join(name).is_file() {
                return Err(format!("{}: postgres, but no {name} beside it", dir.display()));
            }
        }
        let said = Command::new(dir.join("postgres"))
            .arg("--version")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("{}: postgres does not run: {e}", dir.display()))?;
        let said = String::from_utf8_lossy(&said.stdout);
        let Some((version, major)) = parse_version(&said) else {
            return Err(format!(
                "{}: `postgres --version` printed {:?}, which is not PostgreSQL's answer",
                dir.display(),
                said.trim()
            ));
        };
        if major < MIN_MAJOR {
            return Err(format!(
                "{}: version {version} is older than {MIN_MAJOR}",
                dir.display()
            ));
        }
        Ok(PgBinaries { dir, version, major })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The full version, such as `15.14`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The major version, such as 15: the data of one major version can't be read by another.
    pub fn major(&self) -> u16 {
        self.major
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// `postgres (PostgreSQL) 15.14 (Debian …)` → `15.14`, 15.
fn parse_version(said: &str) -> Option<(String, u16)> {
    let version = said.split("(PostgreSQL) ").nth(1)?.split_whitespace().next()?;
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((version.to_owned(), digits.parse().ok()?))
}

/// No usable PostgreSQL on this machine. The message says what to do about it.
#[derive(Debug, thiserror::Error)]
#[error(
    "no PostgreSQL {MIN_MAJOR} or newer was found (looked at {looked}){rejected}. \
     Install it with {install}, or set PG_BIN_DIR to the directory that holds its `initdb` and \
     `postgres`, or set DATABASE_URL to use a server that is already running",
    looked = looked.join(", "),
    rejected = rejected.iter().map(|r| format!("; not usable: {r}")).collect::<String>(),
)]
pub struct NotFound {
    /// Where the search went.
    pub looked: Vec<String>,
    /// What was there but could not be used, with the reason.
    pub rejected: Vec<String>,
    /// The command that installs PostgreSQL here.
    pub install: String,
}

/// Finds PostgreSQL's programs: in `PG_BIN_DIR` if that is set (and then nowhere else), on `PATH`,
/// and where the packages of Debian, Red Hat, Homebrew and Postgres.app put them, newest first.
pub fn find_binaries() -> Result<PgBinaries, NotFound> {
    Search::of_this_machine().find(None)
}

/// As [`find_binaries`], but prefers the major version that made the cluster in `dir`, if there is
/// one: after an upgrade of the system, the old data stays usable.
pub fn find_binaries_for(dir: &Path) -> Result<PgBinaries, NotFound> {
    let made_by = std::fs::read_to_string(dir.join("data/PG_VERSION"))
        .ok()
        .and_then(|text| text.trim().parse().ok());
    Search::of_this_machine().find(made_by)
}

struct Search {
    pg_bin_dir: Option<OsString>,
    path: Option<OsString>,
    /// Pairs of a parent directory, and what follows the version's directory: `/usr/lib/postgresql`
    /// and `bin` stand for `/usr/lib/postgresql/*/bin`.
    packages: Vec<(PathBuf, &'static str)>,
}

impl Search {
    fn of_this_machine() -> Search {
        Search {
            pg_bin_dir: std::env::var_os("PG_BIN_DIR").filter(|v| !v.is_empty()),
            path: std::env::var_os("PATH"),
            packages: [
                ("/usr/lib/postgresql", "bin"),
                ("/usr/libexec", ""),
                ("/opt/homebrew/opt", "bin"),
                ("/usr/local/opt", "bin"),
                ("/home/linuxbrew/.linuxbrew/opt", "bin"),
                ("/usr", "bin"),
                ("/Applications/Postgres.app/Contents/Versions", "bin"),
            ]
            .map(|(parent, tail)| (PathBuf::from(parent), tail))
            .to_vec(),
        }
    }

    fn find(&self, prefer: Option<u16>) -> Result<PgBinaries, NotFound> {
        let mut rejected = Vec::new();
        if let Some(dir) = &self.pg_bin_dir {
            return PgBinaries::in_dir(Path::new(dir)).map_err(|why| NotFound {
                looked: vec![format!("PG_BIN_DIR={}", dir.display())],
                rejected: vec![why],
                install: install::command(),
            });
        }
        let mut looked = vec!["PATH".to_owned()];
        looked.extend(
            self.packages
                .iter()
                .map(|(dir, tail)| dir.join("*").join(tail).display().to_string()),
        );

        let mut first = None;
        for dir in self.candidates() {
            match PgBinaries::in_dir(&dir) {
                Ok(found) if prefer.is_none_or(|major| found.major == major) => return Ok(found),
                Ok(found) => first = first.or(Some(found)),
                Err(why) => rejected.push(why),
            }
        }
        first.ok_or_else(|| NotFound {
            looked,
            rejected,
            install: install::command(),
        })
    }

    /// Directories that hold a `postgres`.
    fn candidates(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = self
            .path
            .iter()
            .flat_map(std::env::split_paths)
            .filter(|d| d.is_absolute())
            .collect();
        for (parent, tail) in &self.packages {
            let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(parent)
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|entry| {
                    let name = entry.file_name();
                    Some((version_of(name.to_str()?)?, entry.path().join(tail)))
                })
                .collect();
            versions.sort_by(|a, b| b.cmp(a));
            dirs.extend(versions.into_iter().map(|(_, dir)| dir));
        }
        dirs.retain(|dir| dir.join("postgres").is_file());
        dirs
    }
}

/// The version that a directory's name stands for: `15`, `postgresql16`, `postgresql@17`,
/// `pgsql-17`; bare `postgresql` is of an unknown version and comes last.
fn version_of(name: &str) -> Option<u32> {
    let rest = ["postgresql", "pgsql"]
        .iter()
        .find_map(|p| name.strip_prefix(p))
        .unwrap_or(name);
    if rest.is_empty() {
        return Some(0);
    }
    rest.trim_start_matches(['@', '-']).parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn script(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A directory that looks like PostgreSQL's programs of that version.
    fn fake(dir: &Path, version: &str) {
        script(
            &dir.join("postgres"),
            &format!("echo 'postgres (PostgreSQL) {version} (Fake 1)'"),
        );
        script(&dir.join("initdb"), "");
        script(&dir.join("pg_ctl"), "");
    }

    fn search(path: &[&Path], packages: &Path) -> Search {
        Search {
            pg_bin_dir: None,
            path: Some(std::env::join_paths(path).unwrap()),
            packages: vec![(packages.to_path_buf(), "bin")],
        }
    }

    #[test]
    fn the_version_is_read_from_what_postgres_prints() {
        let parse = |text| parse_version(text).map(|(version, major)| format!("{version}={major}"));
        assert_eq!(parse("postgres (PostgreSQL) 15.14 (Debian 1)\n").unwrap(), "15.14=15");
        assert_eq!(parse("postgres (PostgreSQL) 18beta1").unwrap(), "18beta1=18");
        assert_eq!(parse("Usage: postgres"), None);
    }

    #[test]
    fn packages_are_taken_newest_first() {
        let tmp = tempfile::tempdir().unwrap();
        for version in ["9", "14", "100", "16"] {
            fake(&tmp.path().join(version).join("bin"), &format!("{version}.1"));
        }
        fs::create_dir(tmp.path().join("share")).unwrap();
        let search = search(&[], tmp.path());
        assert_eq!(search.find(None).unwrap().major(), 100);
        assert_eq!(search.find(Some(14)).unwrap().version(), "14.1");
        assert_eq!(
            search.find(Some(15)).unwrap().major(),
            100,
            "none of that version: the first"
        );
    }

    #[test]
    fn a_link_on_path_leads_to_the_real_directory() {
        let tmp = tempfile::tempdir().unwrap();
        let (real, links) = (tmp.path().join("real"), tmp.path().join("links"));
        fake(&real, "17.2");
        fs::create_dir(&links).unwrap();
        symlink(real.join("postgres"), links.join("postgres")).unwrap();
        let found = search(&[&links], &tmp.path().join("none")).find(None).unwrap();
        assert_eq!(found.dir(), real.canonicalize().unwrap());
    }

    #[test]
    fn what_cannot_be_used_is_named_with_the_reason() {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = ["wrapper", "old", "lonely"].map(|name| tmp.path().join(name));
        fake(&dirs[0], "17");
        script(&dirs[0].join("postgres"), "echo Error: no cluster");
        fake(&dirs[1], "13.9");
        script(&dirs[2].join("postgres"), "");
        let paths: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
        let message = search(&paths, &tmp.path().join("none"))
            .find(None)
            .unwrap_err()
            .to_string();
        for part in [
            "no PostgreSQL 14 or newer was found",
            "wrapper: `postgres --version` printed \"Error: no cluster\"",
            "old: version 13.9 is older than 14",
            "lonely: postgres, but no initdb beside it",
            "Install it with ",
            "PG_BIN_DIR",
            "DATABASE_URL",
        ] {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }

    #[test]
    fn a_wrong_pg_bin_dir_is_an_error_even_if_there_is_another() {
        let tmp = tempfile::tempdir().unwrap();
        fake(&tmp.path().join("15/bin"), "15.1");
        let mut search = search(&[], tmp.path());
        search.pg_bin_dir = Some("/nowhere/at/all".into());
        let message = search.find(None).unwrap_err().to_string();
        assert!(message.contains("PG_BIN_DIR=/nowhere/at/all"), "{message}");
        search.pg_bin_dir = Some(tmp.path().join("15/bin").into());
        assert_eq!(search.find(None).unwrap().major(), 15);
    }
}
