//! A database with the host's tables, and jobs run over it.

use std::collections::BTreeMap;

use causelist_core::{JobError, RunArgs};
use causelist_gst::{
    AnalyticsSnapshot, AutomationHealthCheck, CheckSlaAndOverdue, CheckUpcomingDeadlines, Host, SendHearingReminders,
    demo,
};
use causelist_queue::{States, testing::run_planned};
use causelist_testkit::TestDb;
use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

/// The instant the demo is laid out around: noon in India, morning in Europe.
pub const NOW: &str = "2026-11-23T06:30:00Z";

pub const KINDS: [&str; 5] = [
    "check-sla-and-overdue",
    "send-hearing-reminders",
    "analytics-snapshot",
    "check-upcoming-deadlines",
    "automation-health-check",
];

/// Two firms: A with a row of settings (London), B without; and C, which is not active.
pub const A: Uuid = Uuid::from_u128(0xa);
pub const B: Uuid = Uuid::from_u128(0xb);
const FIRMS: &str = "
insert into host.tenants (id, name, license_key, is_active) values
  ('00000000-0000-0000-0000-00000000000a', 'Firm A', 'A', true),
  ('00000000-0000-0000-0000-00000000000b', 'Firm B', 'B', true),
  ('00000000-0000-0000-0000-00000000000c', 'Firm C', 'C', false);
insert into causelist.tenant_setting (tenant, zone) values ('00000000-0000-0000-0000-00000000000a', 'Europe/London');
insert into host.employees (id, tenant_id, employee_code, full_name, email, role, department)
select ('00000000-0000-0000-000' || f || '-00000000000' || n)::uuid, ('00000000-0000-0000-0000-00000000000' || f)::uuid,
       upper(f) || n, (array['Pat Partner', 'Mo Manager', 'Al Advocate', 'Ada Admin'])[n] || ' ' || upper(f),
       n || '@' || f || '.example', (array['Partner', 'Manager', 'Advocate', 'Admin'])[n], 'Law'
from (values ('a'), ('b'), ('c')) v (f), generate_series(1, 4) n;
update host.employees e set manager_id = m.id from host.employees m
 where m.tenant_id = e.tenant_id and m.role = 'Manager' and e.role = 'Advocate';
insert into host.user_roles (user_id, role) select id, lower(role)::host.app_role from host.employees;
insert into host.clients (id, tenant_id, display_name, email)
select ('00000000-0000-0000-00c' || f || '-000000000001')::uuid, ('00000000-0000-0000-0000-00000000000' || f)::uuid,
       'Client ' || upper(f), 'client@' || f || '.example' from (values ('a'), ('b'), ('c')) v (f);
insert into host.cases (id, tenant_id, case_number, title, client_id, owner_id, assigned_to)
select ('00000000-0000-0000-0ca' || f || '-000000000001')::uuid, ('00000000-0000-0000-0000-00000000000' || f)::uuid,
       'CASE/' || upper(f), 'Matter of ' || upper(f), ('00000000-0000-0000-00c' || f || '-000000000001')::uuid,
       ('00000000-0000-0000-000' || f || '-000000000001')::uuid, ('00000000-0000-0000-000' || f || '-000000000003')::uuid
from (values ('a'), ('b'), ('c')) v (f);
";

/// A member of a firm: 1 partner, 2 manager, 3 advocate, 4 admin.
pub fn member(firm: Uuid, n: u128) -> Uuid {
    Uuid::from_u128((firm.as_u128() << 48) | n)
}

/// The firm's one case.
pub fn case(firm: Uuid) -> Uuid {
    Uuid::from_u128((0xca_u128 << 52) | (firm.as_u128() << 48) | 1)
}

pub fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

pub struct Desk {
    test: TestDb,
    pub host: Host,
}

impl Desk {
    /// Two active firms of four with a case each.
    pub async fn firms() -> Self {
        let host = Host::new("app-1").unwrap();
        let test = TestDb::with_sql(&(host.tables_sql() + &host.sql(FIRMS))).await;
        Self { test, host }
    }

    /// The demo practice.
    pub async fn demo() -> Self {
        let host = Host::new("practice").unwrap();
        let test = TestDb::with_sql(&host.tables_sql()).await;
        let mut db = test.pool().acquire().await.unwrap();
        demo::load(&host, &mut db, at(NOW), 7).await.unwrap();
        Self { test, host }
    }

    pub async fn sql(&self, sql: &str) {
        let sql = self.host.sql(sql);
        if let Err(error) = sqlx::raw_sql(AssertSqlSafe(sql.clone()))
            .execute(self.test.pool())
            .await
        {
            panic!("{sql}: {error}");
        }
    }

    /// One value as text, as PostgreSQL writes it; empty when null.
    pub async fn value(&self, sql: &str) -> String {
        let sql = self.host.sql(&format!("select coalesce(({sql})::text, '')"));
        sqlx::query_scalar(AssertSqlSafe(sql.clone()))
            .fetch_one(self.test.pool())
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// A count by hand; `:tenant`, `:now` and `:zone` stand for the values.
    pub async fn count(&self, sql: &str, tenant: Uuid, zone: &str) -> Value {
        let sql = sql
            .replace(":tenant", &format!("'{tenant}'::uuid"))
            .replace(":now", &format!("timestamptz '{NOW}'"))
            .replace(":zone", &format!("'{zone}'"));
        let text = self.value(&format!("select to_jsonb(x.n) from ({sql}) x(n)")).await;
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    pub async fn run_as(
        &self,
        pool: &sqlx::PgPool,
        kind: &str,
        tenant: Option<Uuid>,
        args: RunArgs,
    ) -> Result<Value, JobError> {
        let states = States::default().with(self.host.clone());
        match kind {
            "check-sla-and-overdue" => run_planned(pool, CheckSlaAndOverdue(args), tenant, states).await,
            "send-hearing-reminders" => run_planned(pool, SendHearingReminders(args), tenant, states).await,
            "analytics-snapshot" => run_planned(pool, AnalyticsSnapshot(args), tenant, states).await,
            "check-upcoming-deadlines" => run_planned(pool, CheckUpcomingDeadlines(args), tenant, states).await,
            "automation-health-check" => run_planned(pool, AutomationHealthCheck(args), tenant, states).await,
            other => panic!("no kind {other}"),
        }
    }

    pub fn pool(&self) -> &sqlx::PgPool {
        self.test.pool()
    }

    pub fn url(&self) -> &str {
        self.test.url()
    }

    /// A real run; the report.
    pub async fn run(&self, kind: &str, tenant: Option<Uuid>, now: &str) -> Value {
        let args = RunArgs {
            executed_at: Some(at(now)),
            dry_run: false,
        };
        self.run_as(self.pool(), kind, tenant, args).await.unwrap()
    }

    /// A dry run; the plan.
    pub async fn plan(&self, kind: &str, tenant: Option<Uuid>, now: &str) -> Value {
        let args = RunArgs {
            executed_at: Some(at(now)),
            dry_run: true,
        };
        let answer = self.run_as(self.pool(), kind, tenant, args).await.unwrap();
        assert_eq!(answer["dryRun"], true, "{answer}");
        answer["plan"].clone()
    }

    /// Table to (rows, hash of the rows): the host's tables, what jobs leave behind, and how many
    /// deliveries were asked for.
    pub async fn contents(&self) -> BTreeMap<String, (i64, String)> {
        let tables: Vec<String> = sqlx::query_scalar(
            "select format('%I.%I', schemaname, tablename) from pg_tables
              where schemaname = $1 or schemaname = 'causelist' and tablename in ('event', 'message', 'audit_mark')
             union all select '(select kind, tenant, args from causelist.job where kind = ''deliver-messages'')'",
        )
        .bind(self.host.schema())
        .fetch_all(self.pool())
        .await
        .unwrap();
        let mut contents = BTreeMap::new();
        for table in tables {
            let sql =
                format!("select count(*), coalesce(md5(string_agg(r::text, '|' order by r::text)), '') from {table} r");
            contents.insert(
                table,
                sqlx::query_as(AssertSqlSafe(sql)).fetch_one(self.pool()).await.unwrap(),
            );
        }
        contents
    }

    /// Who was told by the ledger: `recipient channel`, in order.
    pub async fn told(&self, template: &str) -> Vec<String> {
        sqlx::query_scalar("select recipient || ' ' || channel from causelist.message where template = $1 order by 1")
            .bind(template)
            .fetch_all(self.pool())
            .await
            .unwrap()
    }
}
