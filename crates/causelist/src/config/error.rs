use std::path::PathBuf;

use super::layers::Source;
use super::redact;

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("could not read the configuration file {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {} is not valid TOML: {problem}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// What and where.
        problem: String,
    },
    /// There is no such key.
    #[error("unknown key `{key}` ({origin}): {hint}")]
    UnknownKey {
        /// The key as given.
        key: String,
        /// By whom.
        origin: Source,
        /// What it could have been.
        hint: String,
    },
    /// A variable looks like a setting, but there is no such key.
    #[error("unknown environment variable {name}: {hint}")]
    UnknownVariable {
        /// The variable.
        name: String,
        /// What it could have been.
        hint: String,
    },
    /// A setting of the command line has no value.
    #[error("--set {set}: expected section.key=value, such as worker.concurrency=4")]
    NoValue {
        /// As typed.
        set: String,
    },
    /// A value won't do.
    #[error("`{key}` is {value} ({origin}): expected {expected}")]
    Invalid {
        /// The key.
        key: String,
        /// The value as TOML, redacted if it is a secret.
        value: String,
        /// Where it came from.
        origin: Source,
        /// What would do.
        expected: String,
    },
}

impl ConfigError {
    pub(super) fn invalid(key: &str, value: &toml::Value, source: &Source, expected: impl Into<String>) -> ConfigError {
        ConfigError::Invalid {
            key: key.to_owned(),
            value: redact::shown(key, value),
            origin: source.clone(),
            expected: expected.into(),
        }
    }
}
