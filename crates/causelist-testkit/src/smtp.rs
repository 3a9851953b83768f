//! A scripted SMTP server in the test's own process, on a free port: says what it was told to say to
//! each recipient, hangs up where it was told to, and remembers all that reached it.

mod talk;
mod tls;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use self::tls::TestCertificate;

/// Where in a conversation something is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// At RCPT TO.
    RcptTo,
    /// At the command DATA, before any of the message.
    Data,
    /// In the middle of the message: after its first line.
    InData,
    /// After the line that ends the message.
    EndOfData,
}

/// What to do with a message for a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reaction {
    /// Take it: 250.
    Accept,
    /// Answer with this line ("451 4.7.1 come back later"). No answer is possible [`At::InData`].
    Answer(At, String),
    /// Close the connection without a word.
    Drop(At),
    /// Wait for [`SmtpServer::release`] before the answer to the message, then take it.
    Hold,
}

impl Reaction {
    /// An answer, from its line.
    #[must_use]
    pub fn answer(at: At, line: &str) -> Self {
        Self::Answer(at, line.to_owned())
    }
}

/// How a connection begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tls {
    /// In the clear, and it stays so.
    #[default]
    None,
    /// In the clear; STARTTLS is offered, and nothing is taken before it.
    StartTls,
    /// With TLS.
    Implicit,
}

/// What holds for the whole server.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Whether and how connections are encrypted. The certificate is for `localhost`.
    pub tls: Tls,
    /// Requires AUTH (PLAIN or LOGIN) with this user and password.
    pub login: Option<(String, String)>,
    /// Greets with this line instead of 220, and closes.
    pub greeting: Option<String>,
    /// Answers every MAIL FROM with this line instead of 250.
    pub mail_from: Option<String>,
    /// Closes a connection after this many messages, as servers do.
    pub messages_per_connection: Option<usize>,
    /// Offers SMTPUTF8.
    pub smtp_utf8: bool,
    /// Offers only LOGIN, not PLAIN.
    pub only_auth_login: bool,
    /// Takes little before it reads, so that a client feels it when the server stops reading.
    pub small_buffers: bool,
}

/// A message whose end reached the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The recipient of the envelope.
    pub to: String,
    /// The sender of the envelope.
    pub from: String,
    /// The message as it was sent, dots unstuffed.
    pub raw: String,
    /// The code of the answer; none: the server hung up instead.
    pub answer: Option<u16>,
}

#[derive(Debug, Default)]
struct State {
    scripts: HashMap<String, VecDeque<Reaction>>,
    received: Vec<Received>,
    offered: HashMap<String, usize>,
    connections: usize,
    quits: usize,
    released: bool,
}

struct Shared {
    options: Options,
    tls: Option<TlsAcceptor>,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, how: impl FnOnce(&mut State) -> T) -> T {
        let out = how(&mut self.state());
        self.changed.send_modify(|n| *n += 1);
        out
    }
}

/// The server; it stops when dropped.
pub struct SmtpServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    root: Option<String>,
    listening: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for SmtpServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SmtpServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl SmtpServer {
    /// A server that takes everything, in the clear.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// A server with options.
    ///
    /// # Panics
    /// When no port or no certificate can be had.
    #[expect(clippy::expect_used, reason = "a test can't go on without its server")]
    pub async fn start_with(options: Options) -> Self {
        let certificate =
            (options.tls != Tls::None).then(|| TestCertificate::new().expect("a test certificate can be made"));
        let socket = TcpSocket::new_v4().expect("a socket can be had");
        if options.small_buffers {
            socket.set_recv_buffer_size(4096).expect("a buffer's size can be set");
        }
        socket
            .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .expect("a port is free");
        let listener = socket.listen(128).expect("a bound socket can listen");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            options,
            tls: certificate.as_ref().map(|c| c.acceptor.clone()),
            state: Mutex::default(),
            changed: watch::Sender::new(0),
        });
        let listening = tokio::spawn(talk::listen(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            root: certificate.map(|c| c.root_pem),
            listening,
        }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The certificate authority behind its certificate, as PEM; none without TLS.
    #[must_use]
    pub fn root_pem(&self) -> Option<&str> {
        self.root.as_deref()
    }

    /// What to do with the next messages for a recipient, one after the other; accepts afterwards.
    pub fn script(&self, recipient: &str, reactions: impl IntoIterator<Item = Reaction>) {
        self.shared
            .state()
            .scripts
            .insert(recipient.to_owned(), reactions.into_iter().collect());
    }

    /// Every message whose end arrived, in order, whatever the answer.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared.state().received.clone()
    }

    /// The messages that were answered with 2xx.
    #[must_use]
    pub fn accepted(&self) -> Vec<Received> {
        self.received()
            .into_iter()
            .filter(|m| m.answer.is_some_and(|a| a / 100 == 2))
            .collect()
    }

    /// How often a recipient was named at RCPT TO.
    #[must_use]
    pub fn offers(&self, recipient: &str) -> usize {
        self.shared.state().offered.get(recipient).copied().unwrap_or(0)
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }

    /// Connections that ended with QUIT.
    #[must_use]
    pub fn quits(&self) -> usize {
        self.shared.state().quits
    }

    /// Answers the messages that wait in [`Reaction::Hold`], and all that will.
    pub fn release(&self) {
        self.shared.change(|s| s.released = true);
    }

    /// Waits until the given number of messages has arrived, answered or not.
    ///
    /// # Panics
    /// When they don't arrive within a minute.
    pub async fn wait_for_received(&self, count: usize) {
        let mut changes = self.shared.changed.subscribe();
        let all = changes.wait_for(|_| self.shared.state().received.len() >= count);
        if tokio::time::timeout(Duration::from_secs(60), all).await.is_err() {
            panic!(
                "only {} of {count} messages arrived within a minute",
                self.received().len()
            );
        }
    }
}
