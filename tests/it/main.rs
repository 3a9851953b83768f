//! The outer tests: they drive the real binary, as its users do.

#![expect(clippy::expect_used, reason = "a test says by panicking what did not hold")]

mod dead_letters;
mod demo;
mod fleet;
mod host;
mod program;
mod refusals;
