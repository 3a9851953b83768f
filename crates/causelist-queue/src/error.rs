use causelist_core::JobError;
use thiserror::Error;

/// Why a job was not enqueued. Nothing was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// The arguments are larger than the limit.
    #[error("the arguments take {size} bytes, the limit is {limit}: store the data elsewhere and pass its id")]
    TooLarge {
        /// Size of the arguments as JSON text, in bytes.
        size: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The arguments nest deeper than the limit.
    #[error("the arguments nest deeper than {limit} levels")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A text in the arguments holds a NUL character, which PostgreSQL can't store.
    #[error("the arguments hold a NUL character (\\u0000), which can't be stored: remove it")]
    Nul,
    /// A field has a value that can't be taken.
    #[error("{field} {value:?}: {problem}")]
    Field {
        /// Which field.
        field: &'static str,
        /// Its value, cut to 64 characters.
        value: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// No such queue.
    #[error("queue {0:?} does not exist: create it, or use one of those that `causelist queues` lists")]
    UnknownQueue(String),
    /// The arguments are not serialisable.
    #[error("the arguments can't be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The database refused or couldn't be reached.
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
}

impl EnqueueError {
    pub(crate) fn field(field: &'static str, value: &str, problem: impl Into<String>) -> Self {
        Self::Field {
            field,
            value: value.chars().take(64).collect(),
            problem: problem.into(),
        }
    }
}

/// What a database error means for the job that met it: a host table or column that is missing, a
/// permission or row-level security are [`JobError::Permanent`] (another try would meet the same,
/// `causelist doctor` says what to do); all else is worth a retry. The text keeps PostgreSQL's
/// message where that can't quote rows; see [`db_refusal`].
#[must_use]
pub fn db_error(error: sqlx::Error) -> JobError {
    let sqlx::Error::Database(db) = &error else {
        return JobError::Retry(format!("the database could not be used: {}", plain(&error)));
    };
    let code = db.code().unwrap_or_default();
    let text = db_refusal(db.as_ref());
    match code.as_ref() {
        // undefined table, column, function; insufficient privilege (which row_security = off
        // raises too); wrong type
        "42P01" | "42703" | "42883" | "42501" | "42804" | "3F000" => JobError::Permanent(format!(
            "the host's database does not fit: {text}. Run `causelist doctor`: it names the statement that mends it"
        )),
        // A constraint or a trigger of the host said no: repeating changes nothing by itself, yet
        // the data may change, so it is retried within the attempts.
        _ => JobError::Retry(text),
    }
}

/// What a database said, fit to be stored and shown: messages about data (violated constraints, bad
/// values, a trigger's own words) may quote rows, so of those only the names are kept.
#[must_use]
pub fn db_refusal(db: &dyn sqlx::error::DatabaseError) -> String {
    let code = db.code().unwrap_or_default();
    if !["22", "23", "P0"].iter().any(|class| code.starts_with(class)) {
        return format!("{} (SQLSTATE {code})", db.message());
    }
    let about = match (db.constraint(), db.table()) {
        (Some(constraint), Some(table)) => format!("constraint {constraint:?} of table {table:?} was violated"),
        (Some(constraint), None) => format!("constraint {constraint:?} was violated"),
        (None, Some(table)) => format!("table {table:?} did not take a value"),
        (None, None) => "a value or a trigger was at fault; PostgreSQL's log has the words".to_owned(),
    };
    format!("{about} (SQLSTATE {code})")
}

fn plain(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::PoolTimedOut => "no connection came free in time".to_owned(),
        sqlx::Error::Io(e) => format!("connection: {e}"),
        other => other.to_string(),
    }
}
