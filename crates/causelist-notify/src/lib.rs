//! What leaves the house: the delivery ledger, the texts of messages and the channels that carry them.
//!
//! A job reserves messages as rows of `causelist.message` in its own transaction and asks for their
//! delivery there ([`request_delivery`]); after the commit, [`DeliverMessages`] hands them off, each
//! at most once. What became of each can be read from the ledger ([`ledger`]). What a template needs
//! is said in [`template`].
//!
//! No address, name or subject is logged or stored with an error: errors name templates, fields and
//! codes.

mod channel;
mod deliver;
mod email;
pub mod ledger;
pub mod link;
mod mail;
mod maildir;
mod reply;
mod secret;
pub mod template;

use serde::{Deserialize, Serialize};

pub use channel::{Answer, Fault, Mailer, Transport};
pub use deliver::{DeliverMessages, DeliveryReport, SweepMessages, SweepReport, request_delivery};
pub use email::{SmtpSettings, SmtpSettingsError, SmtpTls, SmtpTransport};
pub use link::LinkSigner;
pub use mail::{Letterhead, MailError, MailKey};
pub use maildir::Maildir;
pub use secret::Secret;

/// By which way a message leaves, as the ledger names it. In-app messages are delivered by being
/// rows and never come here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// E-mail.
    #[default]
    Email,
}

impl Channel {
    /// The word in `causelist.message.channel` and in metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Email => "email",
        }
    }
}

/// Says what the metrics of this crate mean, for those who read `/metrics`.
pub fn describe_metrics() {
    metrics::describe_counter!(
        "causelist_notifications_total",
        "What became of messages, by channel and outcome"
    );
    metrics::describe_gauge!(
        "causelist_notifications_unknown",
        "Messages of which nobody knows whether they were sent"
    );
}
