//! From a rendered message to the bytes of a mail (RFC 5322), in which nothing can be injected.

use std::fmt;
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::{Address, Message};
use thiserror::Error;

use crate::template::Rendered;

/// Why a mail can't be made. Holds no address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MailError {
    /// The sender setting is unusable.
    #[error("the sender {0:?} is not an address such as \"Causelist <jobs@example.org>\"")]
    From(String),
    /// The domain setting is unusable.
    #[error("the Message-ID domain {0:?} is not a host name such as jobs.example.org")]
    Domain(String),
    /// The ledger has no address for the recipient.
    #[error("there is no e-mail address for the recipient: enter one in the host application")]
    NoAddress,
    /// The ledger's address is none.
    #[error("the recipient's address is not a valid e-mail address: correct it in the host application")]
    Address,
    /// The library refused.
    #[error("the mail can't be put together")]
    Build,
}

/// Who writes: what all mails of an installation have in common.
#[derive(Debug, Clone)]
pub struct Letterhead {
    from: Mailbox,
    domain: String,
}

/// What tells a mail apart from all others of the installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailKey {
    /// The ledger row's id.
    pub id: i64,
    /// When it was reserved. A ledger restored from a backup gives ids again; mail servers drop a
    /// second mail of the same Message-ID as a duplicate, so the id alone would not do.
    pub reserved_at: DateTime<Utc>,
}

/// A mail, ready for a channel. Its Debug prints none of it.
pub struct Mail {
    pub(crate) key: MailKey,
    pub(crate) from: Address,
    pub(crate) to: Address,
    pub(crate) message_id: String,
    pub(crate) bytes: Vec<u8>,
}

impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mail")
            .field("key", &self.key)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl Mail {
    /// The Message-ID, in angle brackets: the same in every attempt.
    #[must_use]
    pub fn message_id(&self) -> &str {
        &self.message_id
    }
}

impl Letterhead {
    /// Mails from this sender, with Message-IDs under this domain, one per installation.
    ///
    /// # Errors
    /// When one of them is unusable.
    pub fn new(from: &str, domain: &str) -> Result<Self, MailError> {
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        if domain.len() > 200 || !domain.split('.').all(label) {
            return Err(MailError::Domain(domain.chars().take(64).collect()));
        }
        let bad_from = || MailError::From(from.chars().take(64).collect());
        let mailbox: Mailbox = from.parse().map_err(|_| bad_from())?;
        if !mailbox.email.to_string().is_ascii() || from.chars().any(char::is_control) {
            return Err(bad_from());
        }
        Ok(Self {
            from: mailbox,
            domain: domain.to_owned(),
        })
    }

    /// The Message-ID of a ledger row.
    #[must_use]
    pub fn message_id(&self, key: MailKey) -> String {
        format!("<{}.{}@{}>", key.id, key.reserved_at.timestamp_micros(), self.domain)
    }

    /// Puts a mail together; `date` is its Date header.
    ///
    /// # Errors
    /// When the address is missing or none: the message can't be sent, ever.
    pub fn compose(
        &self,
        key: MailKey,
        address: Option<&str>,
        rendered: &Rendered,
        date: DateTime<Utc>,
    ) -> Result<Mail, MailError> {
        let address = address
            .map(str::trim)
            .filter(|a| !a.is_empty())
            .ok_or(MailError::NoAddress)?;
        let to: Address = address.parse().map_err(|_| MailError::Address)?;
        // The parser takes quoted local parts, in which much is possible; nobody has such an address.
        if address
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || "<>\"\\".contains(c))
        {
            return Err(MailError::Address);
        }
        // Templates give one line; whatever else may call this can't forge a header either.
        let subject: String = rendered
            .subject
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(250)
            .collect();
        let message_id = self.message_id(key);
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to.clone()))
            .subject(subject)
            .date(SystemTime::from(date))
            .message_id(Some(message_id.clone()))
            // RFC 3834: no out-of-office answers to a machine.
            .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()))
            .multipart(MultiPart::alternative_plain_html(lines(&rendered.text), lines(&rendered.html)))
            .map_err(|_| MailError::Build)?;
        let bytes = message.formatted();
        if has_bare_breaks(&bytes) || (to.to_string().is_ascii() && !bytes.is_ascii()) {
            return Err(MailError::Build);
        }
        Ok(Mail {
            key,
            from: self.from.email.clone(),
            to,
            message_id,
            bytes,
        })
    }
}

/// Every line break as a line feed, which the library writes as CRLF.
fn lines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Whether a carriage return or a line feed stands alone: servers disagree on whether a line ends
/// there, and so on where a message does.
fn has_bare_breaks(bytes: &[u8]) -> bool {
    let cr = bytes.iter().filter(|b| **b == b'\r').count();
    let lf = bytes.iter().filter(|b| **b == b'\n').count();
    let both = bytes.windows(2).filter(|w| w == b"\r\n").count();
    cr != both || lf != both
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;

    use super::*;

    fn key() -> MailKey {
        MailKey {
            id: 42,
            reserved_at: Utc.timestamp_opt(1_736_900_000, 0).single().expect("is an instant"),
        }
    }

    fn letterhead() -> Letterhead {
        Letterhead::new("Rao Associates <jobs@rao.example>", "jobs.rao.example").expect("is fine")
    }

    fn rendered(subject: &str, text: &str) -> Rendered {
        Rendered {
            subject: subject.to_owned(),
            text: text.to_owned(),
            html: format!("<p>{text}</p>"),
        }
    }

    fn compose(address: &str, rendered: &Rendered) -> Result<String, MailError> {
        let mail = letterhead().compose(key(), Some(address), rendered, key().reserved_at)?;
        Ok(String::from_utf8(mail.bytes).expect("is text"))
    }

    fn header_lines(mail: &str) -> Vec<&str> {
        mail.split("\r\n\r\n")
            .next()
            .expect("has headers")
            .split("\r\n")
            .collect()
    }

    #[test]
    fn has_the_headers_of_an_automatic_mail() {
        let mail = compose(
            "asha@rao.example",
            &rendered("Hearing Reminder: GST/1 - GSTAT", "Hello"),
        )
        .expect("is composed");
        let headers = header_lines(&mail);
        for line in [
            "From: \"Rao Associates\" <jobs@rao.example>",
            "To: asha@rao.example",
            "Subject: Hearing Reminder: GST/1 - GSTAT",
            "Message-ID: <42.1736900000000000@jobs.rao.example>",
            "Auto-Submitted: auto-generated",
            "MIME-Version: 1.0",
            "Date: Wed, 15 Jan 2025 00:13:20 +0000",
        ] {
            assert!(headers.contains(&line), "{line} in\n{mail}");
        }
        assert!(mail.contains("text/plain") && mail.contains("text/html") && mail.contains("multipart/alternative"));
    }

    #[test]
    fn a_subject_forges_no_header() {
        let plain = header_lines(&compose("a@b.example", &rendered("x", "y")).expect("is composed")).len();
        for subject in [
            "x\r\nBcc: all@example.org",
            "x\nBcc: y@z",
            "x\r\n\r\n<html>",
            "x\u{0}\u{b}\u{85}y",
            "=?utf-8?q?x=0D=0ABcc:_y?=",
        ] {
            let mail = compose("a@b.example", &rendered(subject, "y")).expect("is composed");
            let headers = header_lines(&mail);
            assert!(
                !headers.iter().any(|l| l.to_ascii_lowercase().starts_with("bcc")),
                "{mail}"
            );
            assert_eq!(headers.len(), plain, "{mail}");
        }
        let long = compose("a@b.example", &rendered(&"क्षेत्राधिकार ".repeat(500), "y")).expect("is composed");
        assert!(header_lines(&long).iter().all(|l| l.len() <= 998), "{long}");
    }

    #[test]
    fn a_body_ends_no_message_early() {
        let text = "a\r\n.\r\nb\n.\nc\r.\rd\r\n.\r\n";
        let mail = compose("a@b.example", &rendered("x", text)).expect("is composed");
        assert!(mail.is_ascii());
        assert!(!mail.replace("\r\n", "").contains(['\n', '\r']), "{mail:?}");
        let hindi = compose("a@b.example", &rendered("सुनवाई", "सुनवाई कल है")).expect("is composed");
        assert!(hindi.is_ascii(), "{hindi}");
    }

    #[test]
    fn no_text_whatever_breaks_a_mail() {
        let pieces = [
            "\r",
            "\n",
            "\r\n",
            ".",
            "\u{0}",
            "\u{85}",
            "\u{2028}",
            "\u{202e}",
            "=?",
            "?=",
            "=0D=0A",
            "--",
            " ",
            "\t",
            "x",
            "Bcc: y",
            "\"",
            "<",
            ">",
            "\\",
            ",",
            ";",
            "क्ष",
            "\u{200d}",
            "😀",
            "e\u{301}",
            "\u{feff}",
            "a".repeat(90).leak(),
        ];
        // A small generator of its own, so that a failure can be repeated.
        let mut state: u64 = 42;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(state >> 33).unwrap_or(0) % below
        };
        for round in 0..3000 {
            let mut text = || (0..next(40)).map(|_| pieces[next(pieces.len())]).collect::<String>();
            let (subject, body) = (text(), text());
            let mail = compose("a@b.example", &rendered(&subject, &body))
                .unwrap_or_else(|e| panic!("seed 42, round {round}: {e}: {subject:?} {body:?}"));
            let headers = header_lines(&mail);
            let names = headers.iter().filter(|l| !l.starts_with([' ', '\t'])).count();
            assert_eq!(names, 8, "seed 42, round {round}: {subject:?} in\n{mail}");
            assert!(
                mail.is_ascii() && mail.split("\r\n").all(|l| l.len() <= 998),
                "seed 42, round {round}"
            );
        }
    }

    #[test]
    fn takes_only_addresses_and_never_says_which_it_refused() {
        for address in [
            "",
            " ",
            "canary",
            "canary@",
            "@x",
            "a b@x.example",
            "a@x.example\r\nRCPT TO:<c@d.example>",
            "a@x.example>",
            "\"a b\"@x.example",
            "a@x.example,b@x.example",
            "A <a@x.example>",
            "a\0@x.example",
        ] {
            let error = compose(address, &rendered("x", "y")).expect_err(address);
            assert!(!error.to_string().contains("canary"), "{error}");
        }
        assert_eq!(
            letterhead()
                .compose(key(), None, &rendered("x", "y"), key().reserved_at)
                .err(),
            Some(MailError::NoAddress)
        );
        compose(" asha.rao+gst@mail.rao.example ", &rendered("x", "y")).expect("is an address");
    }

    #[test]
    fn refuses_senders_and_domains_that_would_spoil_headers() {
        for from in ["", "x", "a@b.example\r\nBcc: c@d.example", "ä@b.example"] {
            assert!(Letterhead::new(from, "x.example").is_err(), "{from:?}");
        }
        for domain in ["", ".", "a..b", "a b", "a>\r\nX: y", "-a", "ä.example"] {
            assert!(Letterhead::new("a@b.example", domain).is_err(), "{domain:?}");
        }
        let mail = letterhead().compose(
            key(),
            Some("canary@x.example"),
            &rendered("canary", "canary"),
            key().reserved_at,
        );
        assert!(!format!("{:?}", mail.expect("is composed")).contains("canary"));
    }
}
