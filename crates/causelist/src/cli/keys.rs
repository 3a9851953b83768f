//! `causelist keys`: API keys.

use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde::Serialize;
use serde_json::json;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use super::error::Failure;
use super::out::{Out, or_dash, table, time};

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key; it is shown this once
    Create {
        /// What it is for
        name: String,
        /// The one tenant it may act for (default: all, an operator's key)
        #[arg(long)]
        tenant: Option<Uuid>,
    },
    /// List keys
    List,
    /// Make a key invalid
    Revoke {
        /// The key's id
        id: i64,
    },
}

#[derive(Debug, Serialize, FromRow)]
#[serde(rename_all = "camelCase")]
struct KeyRecord {
    id: i64,
    name: String,
    prefix: String,
    tenant: Option<Uuid>,
    created_at: DateTime<Utc>,
    revoked_at: Option<DateTime<Utc>>,
    last_used: Option<DateTime<Utc>>,
}

/// Runs it.
///
/// # Errors
/// No such key, or no database.
pub async fn run(pool: &PgPool, out: Out, command: KeysCommand) -> Result<(), Failure> {
    match command {
        KeysCommand::Create { name, tenant } => {
            let key = causelist_api::create_key(pool, &name, tenant).await?;
            out.show(
                &json!({ "name": name, "tenant": tenant, "prefix": key.prefix, "api_key": key.text }),
                |_| format!("{}\nKeep it: only its hash is stored.", key.text),
            )?;
        }
        KeysCommand::List => {
            let keys: Vec<KeyRecord> = sqlx::query_as(
                "select id, name, prefix, tenant, created_at, revoked_at, last_used from causelist.api_key order by id",
            )
            .fetch_all(pool)
            .await?;
            out.show(&keys, |keys| {
                let rows: Vec<_> = keys
                    .iter()
                    .map(|k| {
                        vec![
                            k.id.to_string(),
                            k.name.clone(),
                            k.prefix.clone(),
                            or_dash(k.tenant),
                            time(Some(k.created_at)),
                            time(k.last_used),
                            time(k.revoked_at),
                        ]
                    })
                    .collect();
                table(
                    &["ID", "NAME", "PREFIX", "TENANT", "CREATED", "LAST USED", "REVOKED"],
                    &rows,
                )
            })?;
        }
        KeysCommand::Revoke { id } => {
            let done =
                sqlx::query("update causelist.api_key set revoked_at = coalesce(revoked_at, now()) where id = $1")
                    .bind(id)
                    .execute(pool)
                    .await?;
            if done.rows_affected() == 0 {
                return Err(Failure::Ran(format!("key {id} does not exist")));
            }
            out.show(&json!({ "id": id, "revoked": true }), |_| {
                format!("key {id} is revoked")
            })?;
        }
    }
    Ok(())
}
