//! What several jobs do at their end: the host's audit row, and the delivery of what was reserved.

use causelist_core::{JobError, TenantId};
use causelist_notify::{Channel, request_delivery};
use causelist_queue::{JobCx, db_error, db_refusal};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::Host;

const AUDIT: &str = "
with mark as (
    insert into causelist.audit_mark (tenant, kind, instant)
    select t.tenant, $2, $3 from unnest($1::uuid[]) t(tenant)
    on conflict do nothing returning tenant)
insert into host.audit_log (tenant_id, user_id, entity_type, entity_id, action_type, \"timestamp\", details)
select m.tenant, null, 'background_job', m.tenant, 'background_job_execution', $3,
       jsonb_build_object('job', $2, 'executedAt', $3::timestamptz, 'runId', $4::text, 'results', r.results)
from mark m
join unnest($1::uuid[], $5::jsonb[]) r(tenant, results) on r.tenant = m.tenant";

/// Writes one row per tenant into the host's audit log, once per (tenant, kind, instant). A host
/// that refuses the row does not stop the job: its reason is the answer, for the report. (What ran
/// is in Causelist's own history in any case.)
pub(super) async fn audit(
    host: &Host,
    cx: &JobCx,
    db: &mut PgConnection,
    kind: &str,
    results: &[(TenantId, Value)],
) -> Result<Option<String>, JobError> {
    let mut savepoint = db.begin().await.map_err(db_error)?;
    let written = sqlx::query(AssertSqlSafe(host.sql(AUDIT)))
        .bind(results.iter().map(|(tenant, _)| *tenant).collect::<Vec<_>>())
        .bind(kind)
        .bind(cx.now())
        .bind(cx.job_id())
        .bind(results.iter().map(|(_, value)| value).collect::<Vec<_>>())
        .execute(&mut *savepoint)
        .await;
    match written {
        Ok(_) => {
            savepoint.commit().await.map_err(db_error)?;
            Ok(None)
        }
        Err(sqlx::Error::Database(refusal)) => {
            savepoint.rollback().await.map_err(db_error)?;
            Ok(Some(format!(
                "audit_log refused the row: {}; `causelist doctor` names the cure",
                db_refusal(refusal.as_ref())
            )))
        }
        Err(other) => Err(db_error(other)),
    }
}

/// A tenant with mail newly in the ledger, and from when it may leave.
#[derive(Debug, Deserialize)]
pub(super) struct MailDue {
    tenant: TenantId,
    not_before: Option<DateTime<Utc>>,
}

/// Asks for the delivery of the mail that this transaction has reserved.
pub(super) async fn deliver(db: &mut PgConnection, mail: &[MailDue]) -> Result<(), JobError> {
    for due in mail {
        request_delivery(db, due.tenant, Channel::Email, due.not_before)
            .await
            .map_err(|e| match e {
                causelist_queue::EnqueueError::Database(e) => db_error(e),
                other => JobError::Permanent(other.to_string()),
            })?;
    }
    Ok(())
}

/// The results of each tenant, out of a report's `tenants`.
pub(super) fn per_tenant(report: &Value) -> Vec<(TenantId, Value)> {
    let tenants = report
        .get("tenants")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    tenants
        .iter()
        .filter_map(|entry| {
            let id = entry.get("tenant")?.as_str()?.parse().ok()?;
            Some((id, entry.clone()))
        })
        .collect()
}

/// The report, with why the host's audit row was left out, if it was.
pub(super) fn with_audit(mut report: Value, skipped: Option<String>) -> Value {
    if let (Some(reason), Some(fields)) = (skipped, report.as_object_mut()) {
        fields.insert("auditSkipped".to_owned(), Value::String(reason));
    }
    report
}

/// Adds the sums of the tenants' counts at the top of a report or plan.
pub(super) fn total(mut report: Value, counts: &[&str]) -> Value {
    let sums: Vec<(String, Value)> = counts
        .iter()
        .map(|name| {
            let tenants = report
                .get("tenants")
                .and_then(Value::as_array)
                .map(Vec::as_slice)
                .unwrap_or_default();
            let sum: i64 = tenants.iter().filter_map(|t| t.get(*name)?.as_i64()).sum();
            ((*name).to_owned(), sum.into())
        })
        .collect();
    if let Some(fields) = report.as_object_mut() {
        fields.extend(sums);
    }
    report
}

/// Takes the list of mail to deliver out of an application's answer: it is no part of the report.
pub(super) fn take_mail(report: &mut Value) -> Result<Vec<MailDue>, JobError> {
    let mail = report
        .as_object_mut()
        .and_then(|fields| fields.remove("mail"))
        .unwrap_or_default();
    if mail.is_null() {
        return Ok(Vec::new());
    }
    serde_json::from_value(mail).map_err(|e| JobError::Permanent(format!("mail to deliver: {e}")))
}
