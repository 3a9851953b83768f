//! CPU time of the server and of this process, where the system tells (Linux).

use std::path::Path;

/// Seconds of CPU used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    server: Option<f64>,
    client: Option<f64>,
}

impl Cpu {
    /// Of the server whose postmaster has this process id, and of this process.
    pub(crate) fn now(postmaster: Option<u32>) -> Self {
        Self {
            server: postmaster.and_then(tree),
            client: used("self").map(|(own, _)| own),
        }
    }

    /// Microseconds of (server, client) per job since then.
    pub(crate) fn per_job(self, since: Self, jobs: f64) -> (Option<f64>, Option<f64>) {
        let each = |now: Option<f64>, then: Option<f64>| Some((now? - then?).max(0.0) * 1e6 / jobs.max(1.0));
        (each(self.server, since.server), each(self.client, since.client))
    }
}

/// (of the process itself, of its children that have ended), in seconds.
fn used(pid: &str) -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).ok()?;
    // The name, in parentheses, may hold spaces.
    let fields: Vec<f64> = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .map(|f| f.parse().unwrap_or(0.0))
        .collect();
    // Linux counts 100 ticks a second towards programs, whatever it does inside.
    let ticks = |i: usize| fields.get(i).copied().unwrap_or(0.0) / 100.0;
    Some((ticks(11) + ticks(12), ticks(13) + ticks(14)))
}

fn tree(postmaster: u32) -> Option<f64> {
    let pid = postmaster.to_string();
    let (own, ended) = used(&pid)?;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let living: f64 = children.split_whitespace().filter_map(used).map(|(own, _)| own).sum();
    Some(own + ended + living)
}

/// A line of what the system tells of a process's memory, in MiB.
pub(crate) fn memory_mib(pid: &str, line: &str) -> Option<f64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid).join("status")).ok()?;
    let kib: f64 = status
        .lines()
        .find(|l| l.starts_with(line))?
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()?;
    Some(kib / 1024.0)
}
