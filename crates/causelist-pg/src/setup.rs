//! Making a cluster: `initdb`, the database, the password.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::account::Account;
use crate::{Error, Layout, Options, PgBinaries};

/// The superuser's name.
pub(crate) const USER: &str = "causelist";
/// The database that every new cluster has.
pub(crate) const DATABASE: &str = "causelist";
/// What the names of clusters in the making begin with.
const HALF_MADE: &str = "data.new";

/// Makes the cluster under another name and renames it when it is whole.
pub(crate) fn make(bin: &PgBinaries, layout: &Layout, account: Account, options: &Options) -> Result<(), Error> {
    write_password(layout, account)?;
    // A name that nobody has had: the `initdb` of a killed process may still be writing to its own.
    let prefix = format!("{HALF_MADE}.{}.", std::process::id());
    let half = tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(&layout.dir)
        .map_err(Error::io("make a directory in", &layout.dir))?;
    let half = half.path();
    account.give(half)?;

    // C.UTF-8 sorts bytewise and knows upper and lower case of all scripts; where the system lacks
    // it, C knows them for ASCII only.
    initdb(bin, layout, half, account, options, "C.UTF-8").or_else(|_| {
        remove_content(half)?;
        initdb(bin, layout, half, account, options, "C")
    })?;
    create_database(bin, layout, half, account)?;
    let data = layout.data();
    fs::rename(half, &data).map_err(Error::io("rename the new cluster to", &data))
}

/// Clears away what interrupted starts left half made. Only the owner of the directory may: no
/// other live one exists then. Best effort: what an `initdb` is still writing to stays until the
/// next start.
pub(crate) fn sweep(layout: &Layout) {
    for entry in fs::read_dir(&layout.dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(HALF_MADE));
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn initdb(
    bin: &PgBinaries,
    layout: &Layout,
    half: &Path,
    account: Account,
    options: &Options,
    locale: &str,
) -> Result<(), Error> {
    let mut command = account.command(&bin.program("initdb"));
    command
        .arg("-D")
        .arg(half)
        .args([
            "-U",
            USER,
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-instructions",
        ])
        .arg(format!("--locale={locale}"))
        .arg({
            let mut arg = std::ffi::OsString::from("--pwfile=");
            arg.push(layout.password());
            arg
        });
    if options.throwaway {
        command.args(["--auth=password", "--no-sync"]);
    } else {
        command.arg("--auth=scram-sha-256");
    }
    run(layout, "initdb", command, "")
}

/// In single-user mode: it needs no port and no login, and is over when the statement is.
fn create_database(bin: &PgBinaries, layout: &Layout, half: &Path, account: Account) -> Result<(), Error> {
    let mut command = account.command(&bin.program("postgres"));
    command
        .args([
            "--single",
            "-c",
            "exit_on_error=on",
            "-c",
            "log_min_messages=fatal",
            "-D",
        ])
        .arg(half)
        .arg("postgres");
    run(
        layout,
        "postgres --single",
        command,
        &format!("create database {DATABASE}\n"),
    )
}

fn run(layout: &Layout, program: &'static str, mut command: Command, input: &str) -> Result<(), Error> {
    let failed = |said: String| Error::Setup {
        dir: layout.dir.clone(),
        program,
        said,
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it ended before reading, its exit status tells why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let out = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(if out.stderr.is_empty() {
        &out.stdout
    } else {
        &out.stderr
    });
    Err(failed(format!("{} ({})", said.trim(), out.status)))
}

/// A new password, in a file that only its owner may read.
fn write_password(layout: &Layout, account: Account) -> Result<(), Error> {
    let random = Path::new("/dev/urandom");
    let mut bytes = [0_u8; 24];
    fs::File::open(random)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(Error::io("read", random))?;
    let password: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();

    let path = layout.password();
    // Made anew: the mode counts only for a file that did not exist.
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("replace", &path)(e));
        }
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{password}"))
        .map_err(Error::io("write", &path))?;
    account.give(&path)
}

/// Removes a directory with what is in it, if it is there.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", dir)(e)),
        _ => Ok(()),
    }
}

fn remove_content(dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))?.flatten() {
        let path = entry.path();
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(Error::io("remove", &path))?;
    }
    Ok(())
}
