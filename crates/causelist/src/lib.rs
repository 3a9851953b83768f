//! What the binary is made of: roles, settings, the command line.

pub mod app;
pub mod cli;
pub mod config;
mod pooler;
pub mod roles;
pub mod telemetry;
pub mod words;
