//! The server's side of a conversation.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{At, Reaction, Received, Shared, Tls};

pub(super) async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((socket, _)) = listener.accept().await {
        shared.change(|s| s.connections += 1);
        let shared = Arc::clone(&shared);
        // A conversation that breaks is what many tests are about.
        tokio::spawn(async move { serve(socket, &shared).await.ok() });
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn serve(socket: TcpStream, shared: &Shared) -> Result<()> {
    socket.set_nodelay(true)?;
    let implicit = shared.options.tls == Tls::Implicit;
    let stream: Box<dyn Stream> = match &shared.tls {
        Some(tls) if implicit => Box::new(tls.accept(socket).await?),
        _ => Box::new(socket),
    };
    let mut talk = Talk {
        stream: BufReader::new(stream),
        shared,
        encrypted: implicit,
    };
    if let Some(line) = &shared.options.greeting {
        return talk.say(line).await;
    }
    talk.say("220 testkit ESMTP").await?;
    if talk.until_starttls().await? {
        let Some(tls) = &shared.tls else {
            bail!("no certificate")
        };
        let encrypted = tls.accept(talk.stream.into_inner()).await?;
        let mut talk = Talk {
            stream: BufReader::new(Box::new(encrypted)),
            shared,
            encrypted: true,
        };
        talk.until_starttls().await?;
    }
    Ok(())
}

struct Talk<'a> {
    stream: BufReader<Box<dyn Stream>>,
    shared: &'a Shared,
    encrypted: bool,
}

impl Talk<'_> {
    async fn say(&mut self, line: &str) -> Result<()> {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).await?;
        Ok(self.stream.flush().await?)
    }

    async fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            bail!("the client hung up");
        }
        Ok(line.strip_suffix("\r\n").context("a line without CRLF")?.to_owned())
    }

    /// Commands, until QUIT (false) or STARTTLS (true).
    async fn until_starttls(&mut self) -> Result<bool> {
        let options = &self.shared.options;
        let starttls = options.tls == Tls::StartTls && !self.encrypted;
        let (mut from, mut to, mut known, mut done) = (None, None, options.login.is_none(), 0);
        loop {
            let line = self.hear().await?;
            let command = line.to_ascii_uppercase();
            match command.split([' ', ':']).next().unwrap_or_default() {
                "EHLO" => self.greet(starttls).await?,
                "STARTTLS" if starttls => {
                    self.say("220 2.0.0 go ahead").await?;
                    return Ok(true);
                }
                "QUIT" => {
                    self.say("221 2.0.0 bye").await?;
                    self.shared.change(|s| s.quits += 1);
                    return Ok(false);
                }
                "NOOP" => self.say("250 2.0.0 ok").await?,
                _ if starttls => self.say("530 5.7.0 STARTTLS first").await?,
                "AUTH" => known = self.login(&line).await?,
                _ if !known => self.say("530 5.7.0 log in first").await?,
                "RSET" => {
                    (from, to) = (None, None);
                    self.say("250 2.0.0 forgotten").await?;
                }
                "MAIL" if options.messages_per_connection.is_some_and(|n| done >= n) => {
                    self.say("421 4.7.0 enough messages over this connection").await?;
                    return Ok(false);
                }
                "MAIL" => match &options.mail_from {
                    Some(refusal) => self.say(refusal).await?,
                    None if from.is_some() => self.say("503 5.5.1 one sender at a time").await?,
                    None => {
                        from = Some(address(&line)?);
                        self.say("250 2.1.0 ok").await?;
                    }
                },
                "RCPT" if from.is_none() || to.is_some() => self.say("503 5.5.1 out of order").await?,
                "RCPT" => {
                    let recipient = address(&line)?;
                    let reaction = self.shared.change(|s| {
                        *s.offered.entry(recipient.clone()).or_default() += 1;
                        s.scripts
                            .get_mut(&recipient)
                            .and_then(VecDeque::pop_front)
                            .unwrap_or(Reaction::Accept)
                    });
                    match reaction {
                        Reaction::Answer(At::RcptTo, line) => self.say(&line).await?,
                        Reaction::Drop(At::RcptTo) => return Ok(false),
                        reaction => {
                            to = Some((recipient, reaction));
                            self.say("250 2.1.5 ok").await?;
                        }
                    }
                }
                "DATA" => {
                    let (Some(sender), Some((recipient, reaction))) = (from.take(), to.take()) else {
                        self.say("503 5.5.1 out of order").await?;
                        continue;
                    };
                    done += 1;
                    if !self.message(sender, recipient, reaction).await? {
                        return Ok(false);
                    }
                }
                _ => self.say("500 5.5.2 what?").await?,
            }
        }
    }

    async fn greet(&mut self, starttls: bool) -> Result<()> {
        let options = &self.shared.options;
        let mut lines = vec!["testkit", "8BITMIME", "ENHANCEDSTATUSCODES"];
        if starttls {
            lines.push("STARTTLS");
        }
        if options.smtp_utf8 {
            lines.push("SMTPUTF8");
        }
        if options.login.is_some() {
            lines.push(if options.only_auth_login {
                "AUTH LOGIN"
            } else {
                "AUTH PLAIN LOGIN"
            });
        }
        let last = lines.len() - 1;
        for (i, line) in lines.into_iter().enumerate() {
            self.say(&format!("250{}{line}", if i == last { ' ' } else { '-' }))
                .await?;
        }
        Ok(())
    }

    async fn login(&mut self, line: &str) -> Result<bool> {
        let given = match line.split(' ').collect::<Vec<_>>().as_slice() {
            [_, "PLAIN", both] => decode(both)?,
            [_, "LOGIN"] => {
                self.say(&format!("334 {}", BASE64_STANDARD.encode("Username:")))
                    .await?;
                let user = decode(&self.hear().await?)?;
                self.say(&format!("334 {}", BASE64_STANDARD.encode("Password:")))
                    .await?;
                format!("\0{user}\0{}", decode(&self.hear().await?)?)
            }
            _ => bail!("an AUTH of another form"),
        };
        let good = self
            .shared
            .options
            .login
            .as_ref()
            .is_some_and(|(user, pass)| given == format!("\0{user}\0{pass}"));
        self.say(if good {
            "235 2.7.0 welcome"
        } else {
            "535 5.7.8 no such user or password"
        })
        .await?;
        Ok(good)
    }

    /// Takes a message after DATA; false when the connection is to be closed.
    async fn message(&mut self, from: String, to: String, reaction: Reaction) -> Result<bool> {
        match &reaction {
            Reaction::Drop(At::Data) => return Ok(false),
            Reaction::Answer(At::Data, line) => {
                self.say(line).await?;
                return Ok(true);
            }
            _ => self.say("354 go on").await?,
        }
        let mut raw = String::new();
        loop {
            let line = self.hear().await?;
            if line == "." {
                break;
            }
            raw.push_str(line.strip_prefix('.').unwrap_or(&line));
            raw.push_str("\r\n");
            if reaction == Reaction::Drop(At::InData) {
                return Ok(false);
            }
        }
        let received = |answer| Received {
            to: to.clone(),
            from: from.clone(),
            raw: raw.clone(),
            answer,
        };
        let line = match reaction {
            Reaction::Drop(_) => {
                self.shared.change(|s| s.received.push(received(None)));
                return Ok(false);
            }
            Reaction::Answer(_, line) => line,
            Reaction::Accept => "250 2.0.0 taken".to_owned(),
            Reaction::Hold => {
                let place = self.shared.change(|s| {
                    s.received.push(received(None));
                    s.received.len() - 1
                });
                let mut changes = self.shared.changed.subscribe();
                changes.wait_for(|_| self.shared.state().released).await?;
                self.say("250 2.0.0 taken").await?;
                self.shared.change(|s| s.received[place].answer = Some(250));
                return Ok(true);
            }
        };
        let code = line.get(..3).and_then(|c| c.parse().ok());
        self.shared.change(|s| s.received.push(received(code)));
        self.say(&line).await?;
        Ok(code != Some(421))
    }
}

/// The address between angle brackets.
fn address(line: &str) -> Result<String> {
    let (_, rest) = line.split_once('<').context("no address")?;
    Ok(rest.split_once('>').context("no end of the address")?.0.to_owned())
}

fn decode(text: &str) -> Result<String> {
    Ok(String::from_utf8(BASE64_STANDARD.decode(text)?)?)
}
