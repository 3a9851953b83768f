//! The layers, one value per key: the defaults, then whatever came later.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use toml::{Table, Value};

use super::error::ConfigError;
use super::nearest::nearest;
use super::{DEFAULTS, value};

/// Variables that begin as ours do and are no settings: they are read elsewhere.
const OTHER_VARIABLES: [&str; 1] = ["CAUSELIST_CONFIG"];
const PREFIX: &str = "CAUSELIST_";
/// What the project's tests read.
const TEST_PREFIX: &str = "CAUSELIST_TEST_";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything else.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// `--set` on the command line.
    CommandLine,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::CommandLine => f.write_str("--set"),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A value and its source.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) source: Source,
}

/// The keys and their defaults. Which keys there are is said there and nowhere else.
static KNOWN: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| match DEFAULTS.parse::<Table>() {
    Ok(table) => flat(table).into_iter().collect(),
    // It is part of the program and read by its tests.
    Err(e) => panic!("the built-in defaults are broken: {e}"),
});

/// One value per known key.
#[derive(Clone, Default)]
pub(super) struct Layers {
    entries: BTreeMap<&'static str, Entry>,
}

/// The sources only: the values have secrets among them.
impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(key, entry)| (key, &entry.source)))
            .finish()
    }
}

impl Layers {
    pub(super) fn of_defaults() -> Layers {
        let entries = KNOWN
            .iter()
            .map(|(key, value)| {
                (
                    key.as_str(),
                    Entry {
                        value: value.clone(),
                        source: Source::Default,
                    },
                )
            })
            .collect();
        Layers { entries }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &Entry)> {
        self.entries.iter().map(|(key, entry)| (*key, entry))
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        let table: Table = text.parse().map_err(|e: toml::de::Error| ConfigError::Syntax {
            path: path.to_path_buf(),
            problem: syntax_problem(&e, &text),
        })?;
        for (key, value) in flat(table) {
            self.set(&key, value, Source::File(path.to_path_buf()))?;
        }
        Ok(())
    }

    pub(super) fn add_env(&mut self, env: impl IntoIterator<Item = (String, String)>) -> Result<(), ConfigError> {
        let env: BTreeMap<String, String> = env.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        // The name that everybody uses; ours, if given too, wins.
        if let Some(url) = env.get("DATABASE_URL") {
            self.set_text("database.url", url, Source::Environment("DATABASE_URL".to_owned()))?;
        }
        for (name, text) in env {
            if !name.starts_with(PREFIX)
                || name.starts_with(TEST_PREFIX)
                || OTHER_VARIABLES.contains(&name.as_str())
                || is_service_link(&name, &text)
            {
                continue;
            }
            let Some(key) = KNOWN.keys().find(|key| variable_of(key) == name) else {
                let variables: Vec<String> = KNOWN.keys().map(|key| variable_of(key)).collect();
                let hint = hint(&name, variables.iter().map(String::as_str));
                return Err(ConfigError::UnknownVariable { name, hint });
            };
            self.set_text(key, &text, Source::Environment(name))?;
        }
        Ok(())
    }

    pub(super) fn add_sets(&mut self, sets: &[String]) -> Result<(), ConfigError> {
        for set in sets {
            let (key, text) = set
                .split_once('=')
                .ok_or_else(|| ConfigError::NoValue { set: set.clone() })?;
            self.set_text(key.trim(), text, Source::CommandLine)?;
        }
        Ok(())
    }

    fn set_text(&mut self, key: &str, text: &str, source: Source) -> Result<(), ConfigError> {
        let like = KNOWN.get(key);
        let value = like.and_then(|like| value::from_text(text, like));
        // What can't be read stays text, which `set` then finds to be of the wrong type.
        self.set(key, value.unwrap_or_else(|| Value::String(text.to_owned())), source)
    }

    fn set(&mut self, key: &str, value: Value, source: Source) -> Result<(), ConfigError> {
        let Some((key, like)) = KNOWN.get_key_value(key) else {
            let hint = hint(key, KNOWN.keys().map(String::as_str));
            return Err(ConfigError::UnknownKey {
                key: key.to_owned(),
                origin: source,
                hint,
            });
        };
        if !value::same_type(&value, like) {
            return Err(ConfigError::invalid(key, &value, &source, value::expected(like)));
        }
        self.entries.insert(key, Entry { value, source });
        Ok(())
    }

    /// The values as a Rust type.
    pub(super) fn typed<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let mut root = Table::new();
        for (key, entry) in &self.entries {
            if let Some((section, name)) = key.split_once('.') {
                let section = root.entry(section).or_insert_with(|| Value::Table(Table::new()));
                if let Value::Table(section) = section {
                    section.insert(name.to_owned(), entry.value.clone());
                }
            }
        }
        serde_path_to_error::deserialize(Value::Table(root)).map_err(|e| {
            let key = e.path().to_string();
            // Of "unknown variant `x`, expected `y`" the end; ours say nothing else.
            let message = e.inner().message();
            let expected = message.rsplit("expected ").next().unwrap_or(message);
            match self.entries.get(key.as_str()) {
                Some(entry) => ConfigError::invalid(&key, &entry.value, &entry.source, expected),
                None => ConfigError::invalid(&key, &Value::String(String::new()), &Source::Default, message),
            }
        })
    }
}

/// `worker.lease` is set by `CAUSELIST_WORKER_LEASE`.
fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Kubernetes tells containers about Services in variables that begin with the Service's name,
/// which may well be ours: `CAUSELIST_API_SERVICE_HOST`, `CAUSELIST_API_PORT=tcp://…`,
/// `CAUSELIST_API_PORT_80_TCP_ADDR`.
fn is_service_link(name: &str, value: &str) -> bool {
    let has_protocol = ["tcp://", "udp://", "sctp://"].iter().any(|p| value.starts_with(p));
    let of_port = name.split("_PORT_").nth(1).is_some_and(|rest| {
        let mut parts = rest.split('_');
        parts.next().is_some_and(|port| port.parse::<u16>().is_ok())
            && parts.next().is_some_and(|p| ["TCP", "UDP", "SCTP"].contains(&p))
    });
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && has_protocol)
        || of_port
}

fn hint<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    match nearest(name, known) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "`causelist config` lists all keys".to_owned(),
    }
}

/// `[a] b = 1` as `a.b = 1`. An empty table stays, unless it is a section of ours: a misspelt one
/// should not pass unseen.
fn flat(table: Table) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    let mut todo: Vec<(String, Value)> = table.into_iter().collect();
    while let Some((path, value)) = todo.pop() {
        match value {
            Value::Table(inner) if !inner.is_empty() => {
                todo.extend(inner.into_iter().map(|(key, value)| (format!("{path}.{key}"), value)));
            }
            Value::Table(_) if DEFAULTS.contains(&format!("\n[{path}]\n")) => {}
            value => all.push((path, value)),
        }
    }
    all
}

/// Line and column, and what is wrong; the line itself may hold a secret and is not shown.
fn syntax_problem(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().trim().replace('\n', ", ");
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => {
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
            format!("line {line}, column {column}: {message}")
        }
        None => message,
    }
}
