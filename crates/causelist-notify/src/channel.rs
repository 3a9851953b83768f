//! The channels that carry mail, and the one conversation all of them speak.
//!
//! A hand-off has two halves, so that the ledger can record the hand-off between them. `offer` does
//! all that can be taken back: whatever goes wrong there, nothing was sent. `deliver` is the step that
//! can't be taken back, and only there can the outcome stay unknown.

use std::fmt;

use crate::email::{SmtpSession, SmtpTransport};
use crate::link::LinkSigner;
use crate::mail::{Letterhead, Mail};
use crate::maildir::{Maildir, MaildirSession};
use crate::template::{TemplateError, Templates};

/// What became of a message. The texts are stored: they hold no personal data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The channel took charge of it.
    Accepted,
    /// Refused for now; not sent. May be tried again.
    Postponed(String),
    /// Refused for good; not sent.
    Rejected(String),
    /// It may or may not have been sent. Never tried again by itself.
    Unknown(String),
}

/// Why a message was not offered. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotOffered {
    /// This message was refused: [`Answer::Postponed`] or [`Answer::Rejected`].
    Message(Answer),
    /// The connection broke.
    Broken(String),
    /// The channel takes no message of ours, whichever it is.
    Channel(Fault),
}

/// A channel that can't be used: no message's fault, so no message is charged with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong and what to do; may be stored.
    pub text: String,
    /// Waiting alone won't mend it: a setting, a certificate or a password must be changed.
    pub lasting: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How mail leaves.
#[derive(Debug)]
pub enum Transport {
    /// By SMTP.
    Smtp(SmtpTransport),
    /// Into a directory: nothing leaves the machine.
    Maildir(Maildir),
}

/// All that delivering mail needs; the state that [`crate::DeliverMessages`] asks its worker for.
#[derive(Debug)]
pub struct Mailer {
    pub(crate) transport: Transport,
    pub(crate) letterhead: Letterhead,
    pub(crate) links: LinkSigner,
    pub(crate) templates: Templates,
}

impl Mailer {
    /// A mailer over the transport, with this sender and links of this signer.
    ///
    /// # Errors
    /// When a template that is part of the program can't be compiled, which is a defect.
    pub fn new(transport: Transport, letterhead: Letterhead, links: LinkSigner) -> Result<Self, TemplateError> {
        Ok(Self {
            transport,
            letterhead,
            links,
            templates: Templates::new()?,
        })
    }

    /// Opens the channel for a run of messages.
    pub(crate) async fn open(&self) -> Result<Session, Fault> {
        Ok(match &self.transport {
            Transport::Smtp(smtp) => Session::Smtp(Box::new(smtp.connect().await?)),
            Transport::Maildir(dir) => Session::Maildir(dir.open().await?),
        })
    }
}

/// An open channel.
#[derive(Debug)]
pub(crate) enum Session {
    Smtp(Box<SmtpSession>),
    Maildir(MaildirSession),
}

impl Session {
    /// Everything up to the point of no return.
    pub(crate) async fn offer(&mut self, mail: &Mail) -> Result<(), NotOffered> {
        match self {
            Self::Smtp(s) => s.offer(mail).await,
            Self::Maildir(s) => s.offer(mail).await,
        }
    }

    /// Sends what was offered.
    pub(crate) async fn deliver(&mut self, mail: &Mail) -> Answer {
        match self {
            Self::Smtp(s) => s.deliver(mail).await,
            Self::Maildir(s) => s.deliver(mail).await,
        }
    }

    /// Whether another message can be offered here.
    pub(crate) fn is_usable(&self) -> bool {
        match self {
            Self::Smtp(s) => s.is_usable(),
            Self::Maildir(_) => true,
        }
    }

    /// Takes a polite leave, where the channel has one.
    pub(crate) async fn close(self) {
        if let Self::Smtp(session) = self {
            session.close().await;
        }
    }
}
