//! The jobs that empty the ledger.
//!
//! **Why no message is forgotten.** A message and a delivery job for it are written in one
//! transaction ([`request_delivery`]), and that job has no key. A key ("one pending delivery per
//! tenant") would lose messages: the transaction that reserves one may meet the key of a job that is
//! running, leave it at that, and commit just after that job's last look. So every transaction that
//! reserves messages brings a job of its own; one that finds all done ends at once, and costs a row.
//! A delivery job ends only when its last look finds nothing that waits; if something waits for a
//! later `not_before`, it snoozes until then. Messages that another living job holds are that job's:
//! it ends by the same rule, or its lease ends and it is run again. What remains is a job that ended
//! among the dead letters or was cancelled; [`SweepMessages`] finds its messages.

use std::time::Duration;

use causelist_core::{DefaultSchedule, JobError, KindSpec, RetryPolicy, TenantId};
use causelist_queue::{EnqueueError, Enqueued, Job, JobCx, NewJob, db_error, enqueue};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tokio::time::Instant;

use crate::Channel;
use crate::channel::{Answer, Fault, Mailer, NotOffered, Session};
use crate::ledger::{self, Holder, Taken};
use crate::mail::Mail;
use crate::template::LinkContext;

/// Messages taken at once.
const BATCH: u16 = 100;
/// After this long a run ends and is put behind the others in its queue: a tenant with thousands of
/// mails does not keep a slot from the rest, and a shutdown need not wait for long.
const RUN_FOR: Duration = Duration::from_secs(20);
/// Connections that may break one after the other before the channel itself is taken to be in
/// trouble.
const BREAKS: u32 = 3;
/// How often, and how far apart, an answer is written down while the database is away.
const SETTLE_TRIES: u32 = 20;
const SETTLE_WAIT: Duration = Duration::from_millis(500);
/// How long a run waits for a channel that may come back by itself, and for one that needs a person.
const FAULT_WAIT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(300));

/// Asks for the delivery of messages that were reserved in the same transaction; not before `at`
/// (the earliest `not_before` among them, none: now).
///
/// # Errors
/// When the job can't be enqueued; the caller's transaction must then be given up.
pub async fn request_delivery(
    db: &mut PgConnection,
    tenant: TenantId,
    channel: Channel,
    at: Option<DateTime<Utc>>,
) -> Result<Enqueued, EnqueueError> {
    enqueue(db, NewJob::of(&DeliverMessages { channel })?.tenant(tenant).run_at(at)).await
}

/// Hands off what is due in the ledger: of one tenant or, without one, of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliverMessages {
    /// By which channel.
    #[serde(default)]
    pub channel: Channel,
}

/// What a delivery run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DeliveryReport {
    /// Taken charge of by the channel.
    pub accepted: u64,
    /// Refused for good.
    pub rejected: u64,
    /// Refused for now; they are tried again.
    pub postponed: u64,
    /// Sent or not, nobody knows.
    pub unknown: u64,
}

impl Job for DeliverMessages {
    type Report = DeliveryReport;

    fn spec() -> KindSpec {
        KindSpec {
            queue: "delivery",
            // The longest run: the time for a run, then a last message whose answer never comes.
            timeout: Duration::from_secs(600),
            retry: RetryPolicy {
                max_attempts: 10,
                ..RetryPolicy::DEFAULT
            },
            expected: RUN_FOR,
            ..KindSpec::new(
                "deliver-messages",
                "Message Delivery",
                "Hands off the messages that jobs have reserved.",
            )
        }
    }

    async fn run(&self, cx: &JobCx) -> Result<DeliveryReport, JobError> {
        let mailer = cx.state::<Mailer>()?;
        let mut run = Run {
            cx,
            mailer: &mailer,
            channel: self.channel,
            holder: Holder {
                job: cx.job_id(),
                fence: cx.fence(),
            },
            until: Instant::now() + RUN_FOR,
            held: Vec::new(),
            session: None,
            breaks: 0,
            report: DeliveryReport::default(),
        };
        let end = run.all().await;
        if let Some(session) = run.session.take() {
            session.close().await;
        }
        match end {
            Ok(()) => Ok(run.report),
            Err(Stop::Job(JobError::LeaseLost)) => Err(JobError::LeaseLost),
            Err(stop) => {
                // If the database is away, the holds end with the lease.
                if let Ok(mut db) = cx.pool().acquire().await {
                    let _ = ledger::release(&mut db, run.holder, &run.held).await;
                }
                Err(run.error(stop))
            }
        }
    }
}

/// Why a run ends before all is delivered.
enum Stop {
    /// The channel can't be used.
    Channel(Fault),
    /// Its time is up; more is due.
    Time,
    /// What is left is due only after this long.
    Later(Duration, u64),
    /// Cancelled, the lease lost, the database away.
    Job(JobError),
}

impl From<JobError> for Stop {
    fn from(error: JobError) -> Self {
        Self::Job(error)
    }
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        Self::Job(db_error(error))
    }
}

struct Run<'a> {
    cx: &'a JobCx,
    mailer: &'a Mailer,
    channel: Channel,
    holder: Holder,
    until: Instant,
    /// The batch in hand.
    held: Vec<i64>,
    session: Option<Session>,
    /// Connections that broke one after the other.
    breaks: u32,
    report: DeliveryReport,
}

impl Run<'_> {
    async fn all(&mut self) -> Result<(), Stop> {
        let mut db = self.cx.pool().acquire().await?;
        // Also what an earlier attempt of this very job had left handed off.
        ledger::sweep(&mut db, self.cx.tenant()).await?;
        let tenants = match self.cx.tenant() {
            Some(tenant) => vec![tenant],
            None => ledger::tenants_waiting(&mut db, self.channel).await?,
        };
        drop(db);
        for tenant in &tenants {
            while self.batch(*tenant).await? {}
        }
        let mut db = self.cx.pool().acquire().await?;
        let mut later: Option<(Duration, u64)> = None;
        for tenant in tenants {
            if let Some(waiting) = ledger::waiting(&mut db, tenant, self.channel).await? {
                let (first, count) = later.unwrap_or((waiting.first_in, 0));
                later = Some((first.min(waiting.first_in), count + waiting.count));
            }
        }
        later.map_or(Ok(()), |(first, count)| Err(Stop::Later(first, count)))
    }

    /// Takes and delivers a batch; false when nothing was due.
    async fn batch(&mut self, tenant: TenantId) -> Result<bool, Stop> {
        let mut tx = self.cx.begin().await?;
        let batch = ledger::take(&mut tx, self.holder, tenant, self.channel, BATCH).await?;
        tx.commit_part().await?;
        self.held = batch.iter().map(|m| m.key.id).collect();
        for message in &batch {
            if self.cx.cancelled().is_cancelled() {
                return Err(JobError::Cancelled.into());
            }
            if Instant::now() >= self.until {
                return Err(Stop::Time);
            }
            let answer = match self.compose(message) {
                Ok(mail) => self.send(&mail).await?,
                Err(reason) => Some(Answer::Rejected(reason)),
            };
            if let Some(answer) = answer {
                self.settle(message, &answer).await?;
            }
        }
        Ok(!batch.is_empty())
    }

    fn compose(&self, message: &Taken) -> Result<Mail, String> {
        let links = LinkContext {
            signer: &self.mailer.links,
            tenant: message.tenant,
            recipient: &message.recipient,
            now: message.taken_at,
        };
        let rendered = self
            .mailer
            .templates
            .render(&message.template, &message.data, &links)
            .map_err(|e| e.to_string())?;
        self.mailer
            .letterhead
            .compose(message.key, message.address.as_deref(), &rendered, message.taken_at)
            .map_err(|e| e.to_string())
    }

    /// Offers, records the hand-off, delivers. None: the message is not ours any more.
    async fn send(&mut self, mail: &Mail) -> Result<Option<Answer>, Stop> {
        if let Err(answer) = self.offer(mail).await? {
            return Ok(Some(answer));
        }
        let mut tx = self.cx.begin().await?;
        let ours = ledger::hand_off(&mut tx, self.holder, mail.key.id, mail.message_id()).await?;
        tx.commit_part().await?;
        let Some(session) = self.session.as_mut().filter(|_| ours) else {
            // The server waits for a message that must not come: only hanging up takes it back.
            self.session = None;
            return Ok(None);
        };
        let answer = session.deliver(mail).await;
        if matches!(answer, Answer::Accepted) {
            self.breaks = 0;
        }
        Ok(Some(answer))
    }

    /// Offers a message, over a new connection where the old one has gone: servers close idle or
    /// much used connections, and that is no message's fault. `Err`: the message itself was refused.
    async fn offer(&mut self, mail: &Mail) -> Result<Result<(), Answer>, Stop> {
        loop {
            let reused = self.session.as_ref().is_some_and(Session::is_usable);
            if !reused {
                self.session = Some(self.mailer.open().await.map_err(Stop::Channel)?);
            }
            let Some(session) = self.session.as_mut() else {
                continue;
            };
            match session.offer(mail).await {
                Ok(()) => return Ok(Ok(())),
                Err(NotOffered::Message(answer)) => return Ok(Err(answer)),
                Err(NotOffered::Channel(fault)) => return Err(Stop::Channel(fault)),
                Err(NotOffered::Broken(_)) if reused => {}
                Err(NotOffered::Broken(text)) => {
                    self.breaks += 1;
                    if self.breaks >= BREAKS {
                        let text = format!("{BREAKS} new connections broke one after the other, the last: {text}");
                        return Err(Stop::Channel(Fault { text, lasting: false }));
                    }
                    return Ok(Err(Answer::Postponed(text)));
                }
            }
        }
    }

    async fn settle(&mut self, message: &Taken, answer: &Answer) -> Result<(), Stop> {
        let mut tries = 1;
        let ours = loop {
            let settled = match self.cx.pool().acquire().await {
                Ok(mut db) => ledger::settle(&mut db, self.holder, message, answer).await,
                Err(error) => Err(error),
            };
            match settled {
                Ok(ours) => break ours,
                // The answer is known here and nowhere else: worth waiting out a failover.
                Err(error) if tries < SETTLE_TRIES => {
                    tracing::warn!(%error, "could not settle a message; trying again");
                    tries += 1;
                    tokio::time::sleep(SETTLE_WAIT).await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        if !ours {
            return Ok(());
        }
        let (count, outcome) = match answer {
            Answer::Accepted => (&mut self.report.accepted, "accepted"),
            Answer::Rejected(_) => (&mut self.report.rejected, "rejected"),
            Answer::Postponed(_) => (&mut self.report.postponed, "postponed"),
            Answer::Unknown(_) => (&mut self.report.unknown, "unknown"),
        };
        *count += 1;
        metrics::counter!("causelist_notifications_total", "channel" => self.channel.word(), "outcome" => outcome)
            .increment(1);
        Ok(())
    }

    /// What the queue is told. A fault of the channel is a snooze, not a failed attempt: messages
    /// wait for the channel however long it takes, and none is charged with it.
    fn error(&self, stop: Stop) -> JobError {
        let DeliveryReport {
            accepted,
            rejected,
            postponed,
            unknown,
        } = self.report;
        let so_far = format!("accepted {accepted}, rejected {rejected}, postponed {postponed}, unknown {unknown}");
        match stop {
            Stop::Job(error) => error,
            Stop::Time => JobError::Snooze(Duration::ZERO, format!("{so_far}; more is due")),
            Stop::Later(first, count) => JobError::Snooze(
                first,
                format!("{so_far}; {count} wait, the first for {} s", first.as_secs()),
            ),
            Stop::Channel(fault) => {
                let wait = if fault.lasting { FAULT_WAIT.1 } else { FAULT_WAIT.0 };
                tracing::error!(channel = self.channel.word(), %fault, "mail can't be delivered; it waits");
                JobError::Snooze(wait, format!("{so_far}; {fault}"))
            }
        }
    }
}

/// Looks after what delivery jobs that did not end well left behind: every five minutes, one job for
/// the whole fleet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepMessages {}

/// What a sweep found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SweepReport {
    /// Messages handed off by a job that has ended since.
    pub unknown: u64,
    /// Tenants whose due messages nobody held; a delivery job was enqueued for each, unless one of an
    /// earlier sweep still waits.
    pub tenants_waiting: u64,
}

impl Job for SweepMessages {
    type Report = SweepReport;

    fn spec() -> KindSpec {
        KindSpec {
            // It needs no way for mail to leave, so it runs where mail is switched off too.
            queue: "default",
            schedule: Some(DefaultSchedule {
                per_tenant: false,
                cron: "*/5 * * * *",
                misfire_window: Duration::from_secs(600),
                stale_after: Duration::from_secs(1800),
            }),
            ..KindSpec::new(
                "sweep-messages",
                "Message Sweep",
                "Finds messages whose delivery job ended badly, and has them delivered or shown as unknown.",
            )
        }
    }

    async fn run(&self, cx: &JobCx) -> Result<SweepReport, JobError> {
        let mut tx = cx.begin().await?;
        let unknown = ledger::sweep(&mut tx, cx.tenant()).await.map_err(db_error)?;
        let mut tenants = ledger::tenants_waiting(&mut tx, Channel::Email)
            .await
            .map_err(db_error)?;
        tenants.retain(|t| cx.tenant().is_none_or(|only| only == *t));
        for tenant in &tenants {
            // With a key: this is the second net. Whatever it misses now, the next sweep sees.
            let job = DeliverMessages {
                channel: Channel::Email,
            };
            let job = NewJob::of(&job).map(|j| j.tenant(*tenant).key("sweep"));
            let made = match job {
                Ok(job) => enqueue(&mut tx, job).await,
                Err(error) => Err(error),
            };
            made.map_err(|e| JobError::Retry(format!("a delivery job could not be enqueued: {e}")))?;
        }
        let report = SweepReport {
            unknown,
            tenants_waiting: tenants.len() as u64,
        };
        tx.complete(&report).await?;
        Ok(report)
    }
}
