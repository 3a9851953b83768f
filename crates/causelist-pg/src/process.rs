//! Other processes: are they there, what are they, make them end.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// How often a process is looked at while its end, or its start, is awaited.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Whether a process of that id runs (it may be somebody else's).
pub fn is_alive(pid: i32) -> bool {
    let Some(id) = (pid > 0).then(|| Pid::from_raw(pid)).flatten() else {
        return false;
    };
    if matches!(test_kill_process(id), Err(rustix::io::Errno::SRCH)) {
        return false;
    }
    // A zombie still has its id: it ended, but nobody has asked how. A container whose first
    // process does not look after orphans keeps them for ever.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat
        .rsplit(')')
        .next()
        .is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
}

/// Whether `pid` is a PostgreSQL server on `data`. A process id alone says little: after a crash
/// it may have passed to anything, and PostgreSQL itself then refuses to start.
pub(crate) fn is_server_on(pid: i32, data: &Path) -> bool {
    if !is_alive(pid) {
        return false;
    }
    let proc = Path::new("/proc").join(pid.to_string());
    if proc.exists() {
        // A server's working directory is its data directory. If that can't be read, the process
        // is somebody else's; it counts as a server if it has the name.
        return match std::fs::read_link(proc.join("cwd")) {
            Ok(cwd) => data.canonicalize().is_ok_and(|data| data == cwd),
            Err(_) => std::fs::read_to_string(proc.join("comm")).is_ok_and(|name| name.trim().starts_with("postgres")),
        };
    }
    // Not Linux: ask ps.
    std::process::Command::new("ps")
        .args(["-o", "command=", "-p", &pid.to_string()])
        .output()
        .is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains("postgres"))
}

/// The ways to end a server, the gentlest first; each with the time that it gets.
/// INT is PostgreSQL's fast shutdown (sessions are cut off, the data is written out), QUIT the
/// immediate one (crash recovery at the next start), KILL the last resort.
const WAYS: [(Signal, Duration); 3] = [
    (Signal::INT, Duration::from_secs(10)),
    (Signal::QUIT, Duration::from_secs(3)),
    (Signal::KILL, Duration::from_secs(3)),
];

/// Ends a server; `ended` says whether it has gone. Returns false if nothing helped.
pub(crate) fn end_server(pid: i32, mut ended: impl FnMut() -> bool) -> bool {
    let Some(pid) = Pid::from_raw(pid) else {
        return true;
    };
    for (signal, patience) in WAYS {
        // An error means that there is no such process (any more), which `ended` tells as well.
        let _ = kill_process(pid, signal);
        if wait_until(patience, &mut ended) {
            return true;
        }
    }
    false
}

/// Waits for a condition; false if it did not come true in time.
pub(crate) fn wait_until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() >= patience {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_alive_until_it_has_ended() {
        assert!(is_alive(std::process::id() as i32));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id() as i32;
        assert!(
            wait_until(Duration::from_secs(10), || !is_alive(pid)),
            "not yet waited for, but ended"
        );
        child.wait().unwrap();
        assert!(!is_alive(pid));
        assert!(!is_alive(0));
        assert!(!is_alive(-1));
    }

    #[test]
    fn a_process_elsewhere_is_no_server() {
        let tmp = tempfile::tempdir().unwrap();
        assert!(!is_server_on(std::process::id() as i32, tmp.path()));
    }
}
