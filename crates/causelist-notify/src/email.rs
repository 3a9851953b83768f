//! E-mail by SMTP (RFC 5321), command by command.
//!
//! lettre's own `send` hides where a conversation broke, and that is the one thing the ledger must
//! know: before the line that ends the data nothing has been sent; after it, without an answer, it is
//! unknown whether the server has the message. So this module speaks the commands itself, over
//! lettre's connection.

use std::time::Duration;

use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Quit, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};
use lettre::transport::smtp::response::Severity;
use thiserror::Error as ThisError;
use tokio::net::TcpStream;

use crate::Secret;
use crate::channel::{Answer, Fault, NotOffered};
use crate::mail::Mail;
use crate::reply::{self, Stage};

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// Not at all: for a relay on the same machine or a trusted network.
    None,
    /// Begins in the clear and must be upgraded (port 587).
    StartTls,
    /// TLS from the first byte (port 465).
    Implicit,
}

/// Where and how to hand mail in.
#[derive(Debug, Clone)]
pub struct SmtpSettings {
    /// The server's name; its certificate must be for this name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub tls: SmtpTls,
    /// Whom to log in as, with the password; none: no login.
    pub login: Option<(String, Secret)>,
    /// A certificate authority to trust besides the public ones, as PEM.
    pub extra_root: Option<String>,
    /// How long each step may take. The answer to a whole message may take five times as long:
    /// servers look into it first, and giving up there leaves an unknown.
    pub timeout: Duration,
}

/// Settings that can't work.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum SmtpSettingsError {
    /// No host.
    #[error("the SMTP host is empty: name the mail server")]
    NoHost,
    /// The timeout is zero.
    #[error("the SMTP timeout is zero: give it some seconds")]
    NoTimeout,
    /// A password would travel in the clear.
    #[error("a login to {0} without TLS would send the password in the clear: use starttls or implicit TLS")]
    ClearPassword(String),
    /// The extra root is unusable.
    #[error("the extra root certificate is not a certificate in PEM")]
    Root,
    /// The host can't be a certificate's name.
    #[error("TLS can't be set up for host {0:?}")]
    Tls(String),
}

const ANSWER_PATIENCE: u32 = 5;

/// A way to a mail server.
pub struct SmtpTransport {
    settings: SmtpSettings,
    tls: Option<TlsParameters>,
}

impl std::fmt::Debug for SmtpTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SmtpTransport").field(&self.settings).finish()
    }
}

impl SmtpTransport {
    /// Checks the settings; does not connect.
    ///
    /// # Errors
    /// When they can't work.
    pub fn new(settings: SmtpSettings) -> Result<Self, SmtpSettingsError> {
        if settings.host.trim().is_empty() {
            return Err(SmtpSettingsError::NoHost);
        }
        if settings.timeout.is_zero() {
            return Err(SmtpSettingsError::NoTimeout);
        }
        let local = matches!(settings.host.as_str(), "localhost" | "127.0.0.1" | "::1");
        if settings.tls == SmtpTls::None && settings.login.is_some() && !local {
            return Err(SmtpSettingsError::ClearPassword(settings.host));
        }
        let tls = match settings.tls {
            SmtpTls::None => None,
            SmtpTls::StartTls | SmtpTls::Implicit => {
                let mut builder = TlsParameters::builder(settings.host.clone());
                if let Some(pem) = &settings.extra_root {
                    // lettre takes a text without any certificate for one of none.
                    if !pem.contains("-----BEGIN CERTIFICATE-----") {
                        return Err(SmtpSettingsError::Root);
                    }
                    let root = Certificate::from_pem(pem.as_bytes()).map_err(|_| SmtpSettingsError::Root)?;
                    builder = builder.add_root_certificate(root);
                }
                Some(
                    builder
                        .build()
                        .map_err(|_| SmtpSettingsError::Tls(settings.host.clone()))?,
                )
            }
        };
        Ok(Self { settings, tls })
    }

    /// Connects, protects the connection and logs in.
    ///
    /// # Errors
    /// What keeps every message from being sent.
    pub async fn connect(&self) -> Result<SmtpSession, Fault> {
        let SmtpSettings {
            host,
            port,
            tls,
            login,
            timeout,
            ..
        } = &self.settings;
        let server = format!("mail server {host}:{port}");
        let hello = ClientId::default();
        let to_fault = |broke: Broke| broke.fault(&server, Stage::Connect);
        let mut connection = match (tls, &self.tls) {
            (SmtpTls::Implicit, Some(parameters)) => {
                let parameters = Some(parameters.clone());
                let connecting = AsyncSmtpConnection::connect_tokio1(
                    (host.as_str(), *port),
                    Some(*timeout),
                    &hello,
                    parameters,
                    None,
                );
                step(*timeout, connecting).await.map_err(to_fault)?
            }
            _ => {
                // lettre writes a message and the line that ends it separately. On a socket with
                // Nagle's algorithm the second waits for the acknowledgement of the first, which
                // servers delay: 40 ms a message. (Over implicit TLS lettre takes no socket of ours.)
                let socket = tokio::time::timeout(*timeout, TcpStream::connect((host.as_str(), *port)));
                let socket = socket
                    .await
                    .map_err(|_| Broke::TimedOut)
                    .and_then(|s| s.map_err(Broke::Socket));
                let socket = socket.and_then(|s| s.set_nodelay(true).map(|()| s).map_err(Broke::Socket));
                let socket = Box::new(socket.map_err(to_fault)?);
                let greeting = AsyncSmtpConnection::connect_with_transport(socket, &hello);
                step(*timeout, greeting).await.map_err(to_fault)?
            }
        };
        if *tls == SmtpTls::StartTls
            && let Some(parameters) = &self.tls
        {
            if !connection.can_starttls() {
                return Err(Fault {
                    text: format!(
                        "{server} offers no STARTTLS: nothing is sent to it in the clear. Use implicit TLS, or another port"
                    ),
                    lasting: true,
                });
            }
            let upgrade = connection.starttls(parameters.clone(), &hello);
            step(*timeout, upgrade)
                .await
                .map_err(|b| b.fault(&server, Stage::StartTls))?;
        }
        if let Some((user, password)) = login {
            let credentials = Credentials::new(user.clone(), password.expose().to_owned());
            let login = connection.auth(DEFAULT_MECHANISMS, &credentials);
            step(*timeout, login)
                .await
                .map_err(|b| b.fault(&server, Stage::Login))?;
        }
        Ok(SmtpSession {
            connection,
            timeout: *timeout,
            usable: true,
        })
    }
}

/// A connection over which messages go one after the other.
pub struct SmtpSession {
    connection: AsyncSmtpConnection,
    timeout: Duration,
    usable: bool,
}

impl std::fmt::Debug for SmtpSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SmtpSession")
            .field("usable", &self.usable)
            .finish_non_exhaustive()
    }
}

impl SmtpSession {
    /// Whether another message can be offered over this connection.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// Sender, recipient and DATA: until here the server has nothing of the message.
    ///
    /// # Errors
    /// Who refused, and whether it is this message's fault.
    pub async fn offer(&mut self, mail: &Mail) -> Result<(), NotOffered> {
        let mut parameters = Vec::new();
        if !mail.to.to_string().is_ascii() {
            if !self.connection.server_info().supports_feature(Extension::SmtpUtfEight) {
                let text = "the mail server takes no address with letters beyond ASCII (SMTPUTF8)".to_owned();
                return Err(NotOffered::Message(Answer::Rejected(text)));
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        let from = MailFrom::new(Some(mail.from.clone()), parameters);
        self.say(from, Stage::MailFrom, Severity::PositiveCompletion).await?;
        self.say(
            Rcpt::new(mail.to.clone(), Vec::new()),
            Stage::RcptTo,
            Severity::PositiveCompletion,
        )
        .await?;
        self.say(Data, Stage::Data, Severity::PositiveIntermediate).await?;
        // From here every line is part of the message: the only way to change one's mind is to hang up.
        self.usable = false;
        Ok(())
    }

    /// The message itself, after [`SmtpSession::offer`].
    pub async fn deliver(&mut self, mail: &Mail) -> Answer {
        // The codec asks for the next part only when it has written the one before, and then writes
        // the line that ends the data: that it asked in vain marks the point of no return.
        let mut past_the_point = false;
        let mut parts = Some(mail.bytes.as_slice());
        let sent = {
            let parts = std::iter::from_fn(|| {
                past_the_point = parts.is_none();
                parts.take()
            });
            step(self.timeout * ANSWER_PATIENCE, self.connection.message_iter(parts)).await
        };
        match sent {
            Ok(response) if response.code().severity == Severity::PositiveCompletion => {
                self.usable = true;
                Answer::Accepted
            }
            Ok(_) => Answer::Unknown("the answer to the end of the data was neither yes nor no".to_owned()),
            Err(broke) => match broke.code() {
                Some(code) => {
                    self.usable = code != 421;
                    let text = broke.refusal(code, Stage::EndOfData);
                    if code < 500 {
                        Answer::Postponed(text)
                    } else {
                        Answer::Rejected(text)
                    }
                }
                None if past_the_point => Answer::Unknown(format!("no answer: {}", broke.words(Stage::EndOfData))),
                None => Answer::Postponed(format!("before the end of the data: {}", broke.words(Stage::Data))),
            },
        }
    }

    /// Says goodbye; whether the server hears it matters to nobody.
    pub async fn close(mut self) {
        if self.usable {
            let _ = step(self.timeout, self.connection.command(Quit)).await;
        }
    }

    /// One command; a refusal leaves the connection ready for the next message, all else breaks it.
    async fn say(&mut self, command: impl std::fmt::Display, stage: Stage, wanted: Severity) -> Result<(), NotOffered> {
        match step(self.timeout, self.connection.command(command)).await {
            Ok(response) if response.code().severity == wanted => Ok(()),
            Ok(_) => {
                self.usable = false;
                Err(NotOffered::Broken(format!(
                    "an answer out of order at {}",
                    stage.words()
                )))
            }
            Err(broke) => {
                let Some(code) = broke.code() else {
                    self.usable = false;
                    return Err(NotOffered::Broken(broke.words(stage)));
                };
                let text = broke.refusal(code, stage);
                if code == 421 {
                    self.usable = false;
                    return Err(NotOffered::Broken(text));
                }
                self.reset().await;
                Err(match (stage, code) {
                    // The sender is the installation's, and so is the login: the next message would
                    // meet the same, and none of them is at fault.
                    (_, 530 | 534 | 535 | 538) | (Stage::MailFrom, 500..) => NotOffered::Channel(Fault {
                        text: format!("the mail server refuses us: {text}"),
                        lasting: true,
                    }),
                    (_, ..500) => NotOffered::Message(Answer::Postponed(text)),
                    _ => NotOffered::Message(Answer::Rejected(text)),
                })
            }
        }
    }

    /// Forgets the sender and recipient of a message that was refused.
    async fn reset(&mut self) {
        self.usable = step(self.timeout, self.connection.command(Rset)).await.is_ok();
    }
}

/// What a step can fail by.
enum Broke {
    TimedOut,
    Socket(std::io::Error),
    Smtp(Error),
}

/// One step of the conversation, within its time: lettre itself waits for ever.
async fn step<T>(timeout: Duration, conversation: impl Future<Output = Result<T, Error>>) -> Result<T, Broke> {
    match tokio::time::timeout(timeout, conversation).await {
        Ok(result) => result.map_err(Broke::Smtp),
        Err(_) => Err(Broke::TimedOut),
    }
}

impl Broke {
    /// The reply code, if the server answered.
    fn code(&self) -> Option<u16> {
        match self {
            Self::TimedOut | Self::Socket(_) => None,
            Self::Smtp(error) => reply::code(error),
        }
    }

    fn refusal(&self, code: u16, stage: Stage) -> String {
        match self {
            Self::TimedOut | Self::Socket(_) => self.words(stage),
            Self::Smtp(error) => reply::refusal(error, code, stage),
        }
    }

    fn words(&self, stage: Stage) -> String {
        match self {
            Self::TimedOut => format!("timed out at {}", stage.words()),
            // The system's words: they say that a name was not found, and name no person.
            Self::Socket(error) => format!("{error} at {}", stage.words()),
            Self::Smtp(error) => reply::broken(error, stage),
        }
    }

    /// What it means when it happens before any message.
    fn fault(&self, server: &str, stage: Stage) -> Fault {
        if let Some(code) = self.code() {
            let text = self.refusal(code, stage);
            let advice = if stage == Stage::Login {
                ": check user and password"
            } else {
                ""
            };
            return Fault {
                text: format!("{server} refuses us: {text}{advice}"),
                lasting: code >= 500,
            };
        }
        let words = self.words(stage);
        let lasting = reply::is_tls(&words) || matches!(self, Self::Smtp(error) if error.is_client());
        Fault {
            text: format!("{server}: {words}"),
            lasting,
        }
    }
}
