//! Where the host application's tables live, and how SQL over them names the schema.

use sqlx::{AssertSqlSafe, PgConnection};
use thiserror::Error;

/// The host's tables, as the demo and tests create them; written with the token `host.`.
pub(crate) const SCHEMA_SQL: &str = include_str!("../host/schema.sql");

/// The host application: the schema of its tables and the address of its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    schema: String,
    base_url: String,
}

/// A setting of the host that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HostError {
    /// The schema's name.
    #[error(
        "app_schema {0:?} {1}; give the schema that holds the host application's tables, \
         such as \"public\""
    )]
    BadSchema(String, &'static str),
    /// The address of the host's pages.
    #[error("base_url {0:?} {1}; give an address such as \"https://practice.example.com\"")]
    BadBaseUrl(String, &'static str),
}

impl Host {
    /// The host whose tables are in `schema`; its pages are at `http://localhost:8080` until
    /// [`Host::with_base_url`] says otherwise.
    ///
    /// A name is taken as it is written (it's quoted wherever it's used) and may consist of ASCII
    /// letters, digits, `_`, `$` and `-`: what a schema is called in practice, and nothing that
    /// could mean something else inside a statement.
    ///
    /// # Errors
    /// [`HostError::BadSchema`] names the value and what is wrong with it.
    pub fn new(schema: &str) -> Result<Self, HostError> {
        let bad = |why| Err(HostError::BadSchema(schema.to_owned(), why));
        let mut chars = schema.chars();
        match chars.next() {
            None => return bad("is empty"),
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {}
            Some(_) => return bad("does not begin with a letter or an underscore"),
        }
        if !chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '-')) {
            return bad("has a character other than letters, digits, _, $ and -");
        }
        if schema.len() > 63 {
            return bad("is longer than the 63 bytes that PostgreSQL keeps of a name");
        }
        if schema.starts_with("pg_") || schema == "information_schema" {
            return bad("is one of PostgreSQL's own schemas");
        }
        if schema == "causelist" {
            return bad("is Causelist's own schema");
        }
        Ok(Self {
            schema: schema.to_owned(),
            base_url: "http://localhost:8080".to_owned(),
        })
    }

    /// The same host with its pages elsewhere; a slash at the end is dropped.
    ///
    /// # Errors
    /// [`HostError::BadBaseUrl`] when it's no http or https address, or has a query or fragment.
    pub fn with_base_url(self, base_url: &str) -> Result<Self, HostError> {
        let bad = |why| Err(HostError::BadBaseUrl(base_url.to_owned(), why));
        let rest = base_url
            .strip_prefix("https://")
            .or_else(|| base_url.strip_prefix("http://"));
        let Some(rest) = rest else {
            return bad("does not begin with http:// or https://");
        };
        if rest.is_empty() || rest.starts_with('/') {
            return bad("names no host");
        }
        if rest.contains(|c: char| c.is_whitespace() || c.is_control() || "?#\"<>".contains(c)) {
            return bad("has a character that no base address has (space, ?, #, quote, < or >)");
        }
        Ok(Self {
            base_url: base_url.trim_end_matches('/').to_owned(),
            ..self
        })
    }

    /// The schema of the host's tables, unquoted.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The address of the host's pages, without a slash at the end.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    pub(crate) fn quoted_schema(&self) -> String {
        format!("\"{}\"", self.schema)
    }

    /// `table` with its schema, quoted: `"public"."tasks"`.
    #[must_use]
    pub fn table(&self, table: &str) -> String {
        format!("\"{}\".\"{}\"", self.schema, table.replace('"', "\"\""))
    }

    /// `text` with the token `host.` replaced by the quoted schema.
    ///
    /// The token stands where a name begins and is followed by one: `from host.tasks`. What merely
    /// contains it (`localhost.x`, `my_host.x`, `a.host.x`, "the host. Then") stays as it is.
    #[must_use]
    pub fn sql(&self, text: &str) -> String {
        const TOKEN: &str = "host.";
        let mut out = String::with_capacity(text.len() + 64);
        let mut rest = text;
        let mut before = None;
        while let Some(at) = rest.find(TOKEN) {
            let (head, tail) = rest.split_at(at);
            out.push_str(head);
            let before_token = head.chars().next_back().or(before);
            let after = &tail[TOKEN.len()..];
            if begins_a_name(before_token) && after.starts_with(is_name_start) {
                out.push('"');
                out.push_str(&self.schema);
                out.push_str("\".");
            } else {
                out.push_str(TOKEN);
            }
            before = Some('.');
            rest = after;
        }
        out.push_str(rest);
        out
    }

    /// The script that creates the host's tables (and their schema where it's missing), for the demo
    /// and for tests.
    #[must_use]
    pub fn tables_sql(&self) -> String {
        format!(
            "set client_min_messages = warning;\ncreate schema if not exists {};\n\
             reset client_min_messages;\n{}",
            self.quoted_schema(),
            self.sql(SCHEMA_SQL)
        )
    }

    /// Runs [`Host::tables_sql`]: all tables or none.
    ///
    /// # Errors
    /// Whatever the database says, above all that the tables exist already.
    pub async fn create_tables(&self, db: &mut PgConnection) -> Result<(), sqlx::Error> {
        // One simple query of many statements is one transaction.
        sqlx::raw_sql(AssertSqlSafe(self.tables_sql()))
            .execute(db)
            .await
            .map(drop)
    }
}

fn begins_a_name(before: Option<char>) -> bool {
    before.is_none_or(|c| !(c.is_alphanumeric() || matches!(c, '_' | '$' | '.' | '-' | '"' | '@')))
}

fn is_name_start(c: char) -> bool {
    c.is_ascii_lowercase() || c == '_' || c == '"'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_the_token_and_nothing_else() {
        let host = Host::new("app-2").unwrap();
        let cases = [
            ("host.tasks", "\"app-2\".tasks"),
            (
                "select 1 from host.tasks t join host.cases c on(host.f(t.id))",
                "select 1 from \"app-2\".tasks t join \"app-2\".cases c on(\"app-2\".f(t.id))",
            ),
            ("'host.app_role'::regtype", "'\"app-2\".app_role'::regtype"),
            ("host.\"Odd\"", "\"app-2\".\"Odd\""),
            ("localhost.tasks", "localhost.tasks"),
            ("my_host.tasks, a.host.tasks", "my_host.tasks, a.host.tasks"),
            ("mail@host.in https://x-host.in", "mail@host.in https://x-host.in"),
            ("host.host.x", "\"app-2\".host.x"),
            ("-- of the host. Then", "-- of the host. Then"),
            ("é_host.x ünhost.x", "é_host.x ünhost.x"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(host.sql(text), expected, "{text}");
        }
    }

    #[test]
    fn refuses_names_that_are_no_schema_and_says_which() {
        let long = "x".repeat(64);
        for bad in [
            "",
            "1st",
            "a b",
            "a\"b",
            "a;drop",
            "ä",
            "pg_temp",
            "causelist",
            &long,
            "a\0",
        ] {
            let error = Host::new(bad).unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
        for good in ["public", "Practice", "_x", "tenant-9", "a$b", &long[1..]] {
            assert_eq!(Host::new(good).unwrap().schema(), good);
        }
    }

    #[test]
    fn base_urls_are_checked_and_lose_their_slash() {
        let host = Host::new("public").unwrap();
        assert_eq!(
            host.clone()
                .with_base_url("https://p.example.com/app/")
                .unwrap()
                .base_url(),
            "https://p.example.com/app"
        );
        for bad in [
            "",
            "p.example.com",
            "ftp://x",
            "https://",
            "https:///x",
            "http://a b",
            "http://a?q",
        ] {
            let error = host.clone().with_base_url(bad).unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }
}
