//! The control plane of blockferry: what has to run around a copy.
//!
//! ```text
//!  server   an NBD server that lives as long as one copy   ──► dataplane::Dial
//!  child    programs that run beside us and do not outlive us: what a server stands on
//! ```

#![forbid(unsafe_code)]

mod child;
mod program;
mod server;

pub use server::{END_DEADLINE, Server, ServerCommand, ServerError, ServerTransport};
