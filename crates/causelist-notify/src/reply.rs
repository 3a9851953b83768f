//! What a mail server's refusal may leave behind: its codes and words of our own.
//!
//! Servers quote addresses and names in their answers ("<asha@rao.example>: mailbox of Asha Rao is
//! full"). Nobody can take personal data out of free text reliably, so none of the text is kept: the
//! reply code, the enhanced code (RFC 3463) and where in the conversation it came say what happened.
//! The mail server's own log has the rest.

use std::error::Error as _;
use std::io::ErrorKind;

use lettre::transport::smtp::Error;

/// Where in the conversation something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Connect,
    StartTls,
    Login,
    MailFrom,
    RcptTo,
    Data,
    EndOfData,
}

impl Stage {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Connect => "connecting",
            Self::StartTls => "STARTTLS",
            Self::Login => "logging in",
            Self::MailFrom => "MAIL FROM",
            Self::RcptTo => "RCPT TO",
            Self::Data => "DATA",
            Self::EndOfData => "the end of the data",
        }
    }
}

/// The reply code of an answer, if the error is one.
pub(crate) fn code(error: &Error) -> Option<u16> {
    error.status().map(u16::from)
}

/// A refusal in words that may be stored: `550 5.1.1 at RCPT TO (no such mailbox)`.
pub(crate) fn refusal(error: &Error, code: u16, stage: Stage) -> String {
    let text = error.source().map(ToString::to_string).unwrap_or_default();
    let enhanced = enhanced(&text, code);
    let words = meaning(code, enhanced);
    let enhanced = enhanced
        .map(|(class, subject, detail)| format!("{class}.{subject}.{detail} "))
        .unwrap_or_default();
    format!("{code} {enhanced}at {} ({words})", stage.words())
}

/// The break of a connection in words that may be stored.
pub(crate) fn broken(error: &Error, stage: Stage) -> String {
    let mut cause = None;
    let mut source = error.source();
    while let Some(inner) = source {
        cause = inner.downcast_ref::<std::io::Error>().or(cause);
        source = inner.source();
    }
    let what = match cause {
        // rustls reports what it dislikes as invalid data.
        Some(io) if io.kind() == ErrorKind::InvalidData && matches!(stage, Stage::Connect | Stage::StartTls) => {
            format!("TLS failed: {io}")
        }
        // The words of the system or of rustls: they name no person.
        Some(io) => io.to_string(),
        None if error.is_response() => "the connection ended, or the answer was not SMTP".to_owned(),
        None if error.is_client() => "the server lacks what the settings ask for".to_owned(),
        None => "the connection failed".to_owned(),
    };
    format!("{what} at {}", stage.words())
}

/// Whether the trouble is one of certificates or protocol, which waiting does not mend.
pub(crate) fn is_tls(text: &str) -> bool {
    text.starts_with("TLS failed")
}

/// The enhanced code that a reply's text begins with, if it agrees with the reply code.
fn enhanced(text: &str, code: u16) -> Option<(u16, u16, u16)> {
    let word = text.split_whitespace().next()?;
    let digits = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let [class, subject, detail]: [&str; 3] = word.split('.').collect::<Vec<_>>().try_into().ok()?;
    if ![class, subject, detail].into_iter().all(digits) {
        return None;
    }
    let class: u16 = class.parse().ok()?;
    (class == code / 100).then_some(())?;
    Some((class, subject.parse().ok()?, detail.parse().ok()?))
}

/// RFC 3463 for the enhanced code, else RFC 5321 for the code.
fn meaning(code: u16, enhanced: Option<(u16, u16, u16)>) -> &'static str {
    match enhanced {
        Some((_, 1, 1)) => return "no such mailbox",
        Some((_, 1, 2)) => return "no such mail domain",
        Some((_, 1, 10)) => return "the domain takes no mail",
        Some((_, 1, _)) => return "the address was refused",
        Some((_, 2, 1)) => return "the mailbox is disabled",
        Some((_, 2, 2)) => return "the mailbox is full",
        Some((_, 2, 3)) | Some((_, 3, 4)) => return "the message is too large",
        Some((_, 3, _)) => return "the mail system is not ready",
        Some((_, 4, _)) => return "trouble on the way to the recipient's server",
        Some((_, 5, _)) => return "a command was refused",
        Some((_, 6, _)) => return "the content was refused",
        Some((_, 7, _)) => return "refused by policy",
        _ => {}
    }
    match code {
        421 => "the server is closing",
        450 => "the mailbox is not available now",
        451 => "the server had an error",
        452 => "the server has no room, or takes no more for now",
        454 | 530 | 534 | 535 | 538 => "a login is needed, or was refused",
        550 => "the mailbox is not available",
        551 => "the recipient is elsewhere",
        552 => "the mailbox is full or the message too large",
        553 => "the address was refused",
        554 => "the transaction failed",
        400..=499 => "refused for now",
        _ => "refused for good",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_enhanced_codes_that_agree_and_nothing_else() {
        assert_eq!(enhanced("5.1.1 <x@y>: no such user", 550), Some((5, 1, 1)));
        assert_eq!(enhanced("4.2.2", 452), Some((4, 2, 2)));
        for (text, code) in [
            ("5.1.1", 450),
            ("5.1", 550),
            ("5.1.1.1", 550),
            ("5.1234.1", 550),
            ("", 550),
            ("+5.1.1", 550),
            ("x y", 550),
        ] {
            assert_eq!(enhanced(text, code), None, "{text}");
        }
        assert_eq!(meaning(550, Some((5, 1, 1))), "no such mailbox");
        assert_eq!(meaning(451, None), "the server had an error");
    }
}
