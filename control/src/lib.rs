//! The control plane of blockferry: what has to run around a copy.
//!
//! ```text
//!  server   an NBD server that lives as long as one copy   ──► dataplane::Dial
//!  catalog  jobs, leases, restore points: what is kept on disk      catalog.db
//! ```

#![forbid(unsafe_code)]

pub mod catalog;
mod program;
mod server;

pub use server::{END_DEADLINE, Server, ServerCommand, ServerError, ServerTransport};
