//! The hub over HTTP: JSON under `/api/v1`, for whoever has a token.
//!
//! ```text
//!  Server   accepts, with a bound on connections and deadlines for headers; stops in order
//!    │
//!    │       guests: strangers are few, and make room for who comes; who has a token stays
//!  trace    an id for each request, in its answer and in each line of the log
//!  auth     Authorization: Bearer …, on all paths but that of health
//!  query    fields that a call does not have are refused
//!  router   a group of paths a file: ports, backups, points, their reading; what they are documented as
//!           │                                                  stands beside what they do
//!  body     JSON in, with a limit and a deadline      error   {"error": {"code", "message", "hint"}}
//! ```
//!
//! A further group of paths is a file with a function `routes()` and a line in `router.rs`.
//! Handlers hold no thread of the reactor: what waits for the disk goes through
//! `Shared::blocking`.

mod auth;
mod backups;
mod body;
mod error;
mod events;
mod guests;
mod lend;
mod metrics;
mod nodes;
mod points;
mod ports;
mod processes;
mod query;
mod reading;
mod router;
mod server;
mod shared;
mod submission;
#[cfg(test)]
mod tests;
mod trace;
mod watch;

pub(crate) use auth::bearer;
pub(crate) use body::{ApiJson, ApiPath, ApiQuery};
pub(crate) use error::{ApiError, DAMAGED, WHICH_REPOSITORY};
pub use events::{KEEP_ALIVE, MAX_FOLLOWERS};
pub use guests::{MAX_STRANGERS, STRANGER_DEADLINE};
pub(crate) use lend::of_file;
pub use router::openapi;
pub use server::{
    BODY_DEADLINE, HEADER_DEADLINE, MAX_BACKUP_BODY_BYTES, MAX_BODY_BYTES, MAX_CONNECTIONS,
    STOP_DEADLINE, Server, Stopper,
};
pub use shared::{ApiSettings, Log};
