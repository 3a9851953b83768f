//! How a command can end, and with which exit code.

use std::fmt;

/// A command's failure.
#[derive(Debug)]
pub enum Failure {
    /// Something given is wrong; nothing was done. Exit code 2.
    Input(String),
    /// It ran, and what it was about ended badly. Exit code 1.
    Ran(String),
    /// The database could not be used. Exit code 3.
    Database(String),
}

impl Failure {
    /// The process's exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Ran(_) => 1,
            Self::Input(_) => 2,
            Self::Database(_) => 3,
        }
    }

    /// Bad input.
    pub fn input(text: impl Into<String>) -> Self {
        Self::Input(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(text) | Self::Ran(text) | Self::Database(text) => f.write_str(text),
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        let hint = match &error {
            sqlx::Error::Database(db) if matches!(db.code().as_deref(), Some("42P01" | "3F000")) => {
                ". Causelist's schema is not there: run `causelist migrate`"
            }
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => {
                ". Is PostgreSQL running, and is the URL right? (`causelist config` shows it)"
            }
            _ => "",
        };
        Self::Database(format!("the database: {error}{hint}"))
    }
}

impl From<sqlx::migrate::MigrateError> for Failure {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        use sqlx::migrate::MigrateError as E;
        match error {
            // Nothing of a migration has run: the database itself is the matter.
            E::Execute(error) => error.into(),
            E::ExecuteMigration(error, version) => {
                let hint = match error.as_database_error().and_then(|db| db.code()).as_deref() {
                    Some("42501") => ". The login must be allowed to create schemas in this database",
                    _ => "",
                };
                Self::Database(format!("the schema: migration {version}: {error}{hint}"))
            }
            E::VersionMissing(version) => Self::Database(format!(
                "the schema has migration {version}, which this version does not know: a newer Causelist made it; use that"
            )),
            other => Self::Database(format!("the schema: {other}")),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Ran(error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Ran(format!("{error:#}"))
    }
}

impl From<causelist_queue::EnqueueError> for Failure {
    fn from(error: causelist_queue::EnqueueError) -> Self {
        match error {
            causelist_queue::EnqueueError::Database(e) => e.into(),
            other => Self::Input(other.to_string()),
        }
    }
}
