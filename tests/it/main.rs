//! The outer tests: they drive the real binary, as its users do.

mod demo;
mod fleet;
mod host;
mod program;
mod refusals;
