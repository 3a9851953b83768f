//! Which process runs the server on a directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};

use crate::{Error, Layout};

/// Held as long as this process runs the server. The system releases it when the process ends,
/// however that happens: a server that runs without it was left behind by a crash.
#[derive(Debug)]
pub(crate) struct OwnerLock {
    _file: File,
}

impl OwnerLock {
    pub(crate) fn take(layout: &Layout) -> Result<OwnerLock, Error> {
        let path = layout.owner_lock();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = file.read_to_string(&mut owner);
                let owner = match owner.trim() {
                    "" => "unknown".to_owned(),
                    owner => owner.to_owned(),
                };
                return Err(Error::InUse {
                    dir: layout.dir.clone(),
                    owner,
                });
            }
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path)(e)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(Error::io("write", &path))?;
        Ok(OwnerLock { _file: file })
    }
}
