//! `postmaster.pid`, in which a server says who and where it is.

use std::path::{Path, PathBuf};

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PidFile {
    pub(crate) pid: i32,
    /// The rest is written as the server gets ready.
    pub(crate) port: Option<u16>,
    pub(crate) sockets: Option<PathBuf>,
    pub(crate) ready: bool,
}

impl PidFile {
    pub(crate) fn path(data: &Path) -> PathBuf {
        data.join("postmaster.pid")
    }

    /// Reads the file; `None` if there is none or it makes no sense (yet).
    pub(crate) fn read(data: &Path) -> Option<PidFile> {
        PidFile::parse(&std::fs::read_to_string(PidFile::path(data)).ok()?)
    }

    /// The lines: pid, data directory, start time, port, socket directory, address, shared memory,
    /// status.
    fn parse(text: &str) -> Option<PidFile> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        // A standalone backend writes its pid negated.
        let pid = lines.first()?.parse::<i32>().ok()?.abs();
        let line = |n: usize| lines.get(n).copied().filter(|line| !line.is_empty());
        Some(PidFile {
            pid,
            port: line(3).and_then(|port| port.parse().ok()),
            sockets: line(4).map(PathBuf::from),
            ready: line(7) == Some("ready"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_of_the_file_is_read() {
        let whole = "4711\n/d/data\n1763900000\n5433\n/d/run\n127.0.0.1\n  16777 3\nready   \n";
        let read = PidFile::parse(whole).unwrap();
        assert_eq!((read.pid, read.port, read.ready), (4711, Some(5433), true));
        assert_eq!(read.sockets.as_deref(), Some(Path::new("/d/run")));
        assert!(!PidFile::parse(&whole.replace("ready   ", "starting")).unwrap().ready);
        let early = PidFile::parse("4711\n/d/data\n1763900000\n").unwrap();
        assert_eq!((early.port, early.ready), (None, false));
        assert_eq!(PidFile::parse("-12\n").unwrap().pid, 12);
        assert_eq!(PidFile::parse(""), None);
        assert_eq!(PidFile::parse("x\n"), None);
    }
}
