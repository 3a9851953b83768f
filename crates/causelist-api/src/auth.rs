//! API keys: who calls, and for which tenant.

use axum::http::HeaderMap;
use causelist_core::TenantId;
use sha2::{Digest, Sha256};
use sqlx::PgPool;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The key's name.
    pub name: String,
    /// The one tenant it may act for; none: an operator's key, for all of them.
    pub tenant: Option<TenantId>,
}

/// A key just made. The text is shown once and not stored.
pub struct NewKey {
    /// The whole key.
    pub text: String,
    /// Its first characters, by which lists name it.
    pub prefix: String,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// Makes a key with 256 random bits and stores its SHA-256.
///
/// # Errors
/// When the database can't be reached.
pub async fn create_key(pool: &PgPool, name: &str, tenant: Option<TenantId>) -> sqlx::Result<NewKey> {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let secret: [u8; 32] = rand::random();
    let label: [u8; 4] = rand::random();
    let prefix = format!("cl_{}", hex(&label));
    let text = format!("{prefix}_{}", hex(&secret));
    sqlx::query("insert into causelist.api_key (name, prefix, hash, tenant) values ($1, $2, $3, $4)")
        .bind(name)
        .bind(&prefix)
        .bind(hash(&text))
        .bind(tenant)
        .execute(pool)
        .await?;
    Ok(NewKey { text, prefix })
}

fn hash(key: &str) -> Vec<u8> {
    Sha256::digest(key.as_bytes()).to_vec()
}

/// The key in `Authorization: Bearer <key>` or `x-api-key: <key>`.
fn presented(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers
        .get("authorization")
        .and_then(|v| v.to_str().ok())
        .and_then(|v| {
            let (scheme, key) = v.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
        });
    bearer.or_else(|| headers.get("x-api-key").and_then(|v| v.to_str().ok()).map(str::trim))
}

/// Who calls; none when no valid key came with the request. Looked up by hash, so that comparing
/// takes the same time for every wrong key.
pub(crate) async fn authenticate(pool: &PgPool, headers: &HeaderMap) -> sqlx::Result<Option<Caller>> {
    let Some(key) = presented(headers).filter(|k| !k.is_empty() && k.len() <= 200) else {
        return Ok(None);
    };
    let found: Option<(i64, String, Option<TenantId>, bool)> = sqlx::query_as(
        "select id, name, tenant, coalesce(last_used < now() - interval '1 minute', true) from causelist.api_key
         where hash = $1 and revoked_at is null and (expires_at is null or expires_at > now())",
    )
    .bind(hash(key))
    .fetch_optional(pool)
    .await?;
    let Some((id, name, tenant, note)) = found else {
        return Ok(None);
    };
    if note {
        // A minute's precision is enough, and keeps busy callers from writing at every request.
        sqlx::query("update causelist.api_key set last_used = now() where id = $1")
            .bind(id)
            .execute(pool)
            .await?;
    }
    Ok(Some(Caller { name, tenant }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_key_in_either_header() {
        let headers = |name: &'static str, value: &str| {
            let mut map = HeaderMap::new();
            map.insert(name, value.parse().expect("a header value"));
            map
        };
        assert_eq!(presented(&headers("authorization", "Bearer abc")), Some("abc"));
        assert_eq!(presented(&headers("authorization", "bearer  abc ")), Some("abc"));
        assert_eq!(presented(&headers("x-api-key", "abc")), Some("abc"));
        assert_eq!(presented(&headers("authorization", "Basic abc")), None);
        assert_eq!(presented(&HeaderMap::new()), None);
    }
}
