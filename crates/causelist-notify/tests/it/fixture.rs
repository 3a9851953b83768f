//! A practice's ledger, a mail server and the job between them.

use std::time::Duration;

use causelist_core::JobError;
use causelist_notify::{
    Channel, DeliverMessages, Letterhead, LinkSigner, Mailer, Secret, SmtpSettings, SmtpTls, SmtpTransport, Transport,
};
use causelist_queue::States;
use causelist_queue::testing::run_job;
use causelist_testkit::TestDb;
use causelist_testkit::smtp::{Options, SmtpServer};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

/// One row of the ledger, as far as tests look.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Row {
    pub id: i64,
    pub address: Option<String>,
    pub state: String,
    pub attempts: i16,
    pub error: Option<String>,
    pub provider_id: Option<String>,
    /// Whether `not_before` lies in the future.
    pub waits: bool,
    pub held: bool,
    pub settled: bool,
}

pub struct Post {
    pub db: TestDb,
    pub server: SmtpServer,
    pub tenant: Uuid,
}

impl Post {
    pub async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        let (db, server) = (TestDb::new().await, SmtpServer::start_with(options).await);
        Self {
            db,
            server,
            tenant: Uuid::from_u128(7),
        }
    }

    pub fn pool(&self) -> &PgPool {
        self.db.pool()
    }

    /// Reserves a reminder to this address.
    pub async fn reserve(&self, address: &str) -> i64 {
        self.reserve_with(address, reminder()).await
    }

    pub async fn reserve_with(&self, address: &str, data: Value) -> i64 {
        reserve(self.pool(), self.tenant, "hearing-reminder", Some(address), data).await
    }

    /// Runs one delivery job for the tenant.
    pub async fn deliver(&self) -> Result<Value, JobError> {
        deliver(self.pool(), self.tenant, mailer(settings(&self.server))).await
    }

    /// Runs a delivery job that must leave something for later; gives for when, and its words.
    pub async fn deliver_and_snooze(&self) -> (Duration, String) {
        match self.deliver().await {
            Err(JobError::Snooze(delay, text)) => (delay, text),
            other => panic!("the job should snooze; it ended with {other:?}"),
        }
    }

    pub async fn row(&self, id: i64) -> Row {
        self.rows()
            .await
            .into_iter()
            .find(|r| r.id == id)
            .expect("the row is there")
    }

    pub async fn rows(&self) -> Vec<Row> {
        sqlx::query_as(
            "select id, address, state, attempts, error, provider_id, coalesce(not_before > now(), false) as waits,
                    handed_fence is not null as held, settled_at is not null as settled
             from causelist.message order by id",
        )
        .fetch_all(self.pool())
        .await
        .expect("the ledger can be read")
    }

    /// Turns the clock for all messages that wait.
    pub async fn make_due(&self) {
        sqlx::query("update causelist.message set not_before = now() - interval '1 second' where not_before > now()")
            .execute(self.pool())
            .await
            .expect("the ledger can be written");
    }

    /// The server's view: how many messages for this address it has (or may have).
    pub fn got(&self, address: &str) -> usize {
        let taken = |m: &&causelist_testkit::smtp::Received| m.to == address && m.answer.is_none_or(|a| a < 300);
        self.server.received().iter().filter(taken).count()
    }
}

/// Reserves a message as jobs do.
pub async fn reserve(pool: &PgPool, tenant: Uuid, template: &str, address: Option<&str>, data: Value) -> i64 {
    sqlx::query_scalar(
        "insert into causelist.message (tenant, template, entity_type, entity_id, occasion, recipient, channel,
                                        address, data)
         values ($1, $2, 'hearing', gen_random_uuid(), 'T-1', 'user:' || gen_random_uuid(), 'email', $3, $4)
         returning id",
    )
    .bind(tenant)
    .bind(template)
    .bind(address)
    .bind(data)
    .fetch_one(pool)
    .await
    .expect("a message can be reserved")
}

pub async fn deliver(pool: &PgPool, tenant: Uuid, mailer: Mailer) -> Result<Value, JobError> {
    let job = DeliverMessages {
        channel: Channel::Email,
    };
    run_job(pool, job, Some(tenant), States::default().with(mailer)).await
}

pub fn settings(server: &SmtpServer) -> SmtpSettings {
    SmtpSettings {
        host: "localhost".to_owned(),
        port: server.port(),
        tls: SmtpTls::None,
        login: None,
        extra_root: server.root_pem().map(str::to_owned),
        // Long enough for a busy machine; tests that wait for it to pass set their own.
        timeout: Duration::from_secs(20),
    }
}

pub fn mailer(settings: SmtpSettings) -> Mailer {
    with_transport(Transport::Smtp(
        SmtpTransport::new(settings).expect("settings are fine"),
    ))
}

pub fn with_transport(transport: Transport) -> Mailer {
    let letterhead = Letterhead::new("Causelist <jobs@firm.example>", "jobs.firm.example").expect("is fine");
    let secret = Secret::new("0123456789abcdef");
    let links = LinkSigner::new("https://jobs.firm.example", secret, chrono::Duration::days(7)).expect("is fine");
    Mailer::new(transport, letterhead, links).expect("templates compile")
}

pub fn reminder() -> Value {
    json!({
        "caseNumber": "GST/2025/014", "caseTitle": "Mehta & Sons v. State Tax", "courtName": "GSTAT Mumbai",
        "courtCity": "Mumbai", "judge": null, "clientName": "Mehta & Sons", "hearingAt": "2025-01-15T10:30:00+05:30",
        "localDate": "Wed, 15 Jan 2025", "localTime": "10:30 AM", "when": "tomorrow",
        "recipientName": "Asha Rao", "firmName": "Rao Associates",
    })
}
