//! Logs to standard error: text for people, JSON for collectors.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Installs the log subscriber.
///
/// # Errors
/// When the filter can't be read.
pub fn install(config: &Config) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(&config.log.filter).with_context(|| format!("log.filter {:?}", config.log.filter))?;
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Json => base.json().flatten_event(true).init(),
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            base.with_ansi(colours).init();
        }
    }
    Ok(())
}
