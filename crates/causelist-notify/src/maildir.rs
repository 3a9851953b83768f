//! A maildir: each mail becomes a file, which any mail reader can open. For the demo and for tests of
//! an installation: nothing leaves the machine.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::AsyncWriteExt as _;

use crate::channel::{Answer, Fault, NotOffered};
use crate::mail::Mail;

/// A directory with `tmp`, `new` and `cur`.
#[derive(Debug, Clone)]
pub struct Maildir {
    path: PathBuf,
}

impl Maildir {
    /// The maildir at this path; it is created when first used.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directories where they are missing.
    pub(crate) async fn open(&self) -> Result<MaildirSession, Fault> {
        for part in ["tmp", "new", "cur"] {
            tokio::fs::create_dir_all(self.path.join(part))
                .await
                .map_err(|e| Fault {
                    text: format!("maildir {} can't be created: {}", self.path.display(), e.kind()),
                    lasting: true,
                })?;
        }
        Ok(MaildirSession {
            path: self.path.clone(),
        })
    }
}

/// An open maildir.
#[derive(Debug)]
pub(crate) struct MaildirSession {
    path: PathBuf,
}

impl MaildirSession {
    /// Writes the file where readers don't look yet.
    pub(crate) async fn offer(&mut self, mail: &Mail) -> Result<(), NotOffered> {
        write(&self.path.join("tmp").join(name(mail)), &mail.bytes)
            .await
            .map_err(|e| {
                NotOffered::Channel(Fault {
                    text: format!("maildir {} can't be written to: {}", self.path.display(), e.kind()),
                    lasting: false,
                })
            })
    }

    /// Shows it to readers: the rename happens wholly or not at all.
    pub(crate) async fn deliver(&mut self, mail: &Mail) -> Answer {
        let name = name(mail);
        match tokio::fs::rename(self.path.join("tmp").join(&name), self.path.join("new").join(&name)).await {
            Ok(()) => Answer::Accepted,
            Err(e) => Answer::Postponed(format!("the maildir did not take the mail: {}", e.kind())),
        }
    }
}

/// Unique in the installation, and without a colon or slash, which a maildir reserves.
fn name(mail: &Mail) -> String {
    format!("{}.{}.causelist", mail.key.reserved_at.timestamp_micros(), mail.key.id)
}

async fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = tokio::fs::File::create(path).await?;
    file.write_all(bytes).await?;
    file.sync_all().await
}
