//! Where a private server listens, and how to log in.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::pidfile::PidFile;
use crate::process::is_server_on;
use crate::setup::{DATABASE, USER};
use crate::{Error, Layout};

/// Where a private server listens, and how to log in to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The server's process id.
    pub pid: i32,
    /// The TCP port, on 127.0.0.1.
    pub port: u16,
    /// The directory of its Unix socket.
    pub socket_dir: PathBuf,
    /// The superuser's password.
    pub password: String,
}

impl Endpoint {
    /// The login's name: a superuser.
    pub fn user(&self) -> &'static str {
        USER
    }

    /// The URL of the cluster's database over TCP. It contains the password.
    pub fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    /// The URL of some database of the cluster over TCP.
    pub fn url_of(&self, database: &str) -> String {
        format!(
            "postgres://{USER}:{}@127.0.0.1:{}/{}",
            self.password,
            self.port,
            percent_encoded(database)
        )
    }

    /// The URL of the cluster's database over its Unix socket.
    pub fn socket_url(&self) -> String {
        format!(
            "postgres://{USER}:{}@{}:{}/{DATABASE}",
            self.password,
            percent_encoded(&self.socket_dir.display().to_string()),
            self.port,
        )
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("pid", &self.pid)
            .field("port", &self.port)
            .field("socket_dir", &self.socket_dir)
            .finish_non_exhaustive()
    }
}

fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The server that runs on `dir` right now and takes connections, whoever started it.
pub fn running(dir: &Path) -> Option<Endpoint> {
    let layout = Layout::new(dir).ok()?;
    let password = read_password(&layout).ok()?;
    endpoint_of(&layout, password)
}

pub(crate) fn endpoint_of(layout: &Layout, password: String) -> Option<Endpoint> {
    let file = PidFile::read(&layout.data()).filter(|file| file.ready)?;
    if !is_server_on(file.pid, &layout.data()) {
        return None;
    }
    Some(Endpoint {
        pid: file.pid,
        port: file.port?,
        socket_dir: file.sockets?,
        password,
    })
}

pub(crate) fn read_password(layout: &Layout) -> Result<String, Error> {
    let path = layout.password();
    let text = std::fs::read_to_string(&path).map_err(Error::io("read the password from", &path))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_escaped_and_debug_keeps_the_password() {
        let endpoint = Endpoint {
            pid: 1,
            port: 5433,
            socket_dir: "/tmp/a b/run".into(),
            password: "s3cret".into(),
        };
        assert_eq!(
            endpoint.url_of("a b"),
            "postgres://causelist:s3cret@127.0.0.1:5433/a%20b"
        );
        assert_eq!(
            endpoint.socket_url(),
            "postgres://causelist:s3cret@%2Ftmp%2Fa%20b%2Frun:5433/causelist"
        );
        assert!(!format!("{endpoint:?}").contains("s3cret"));
    }
}
