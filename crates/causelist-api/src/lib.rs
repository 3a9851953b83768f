//! Causelist over HTTP: the seed's functions, the job's address, health, and the admin port.

mod admin;
mod auth;
mod functions;
mod jobs;
mod problem;
mod router;

pub use admin::{AdminState, admin_router, install_metrics};
pub use auth::{Caller, NewKey, create_key};
pub use router::{ApiState, TenantKnown, router};
