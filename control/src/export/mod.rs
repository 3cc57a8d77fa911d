//! Exports: qemu-nbd processes, each of which serves one image.
//!
//! ```text
//!  Listener (bound by us: no race for a port) ─┐
//!  ExportSettings ─ Heap, Cache ───────────────┤
//!  ExportSpec ─────────────────────────────────┴─start──► Export ── uri, pid, usage
//!                                                  │        ├─ try_exited: what became of it
//!                          a handshake to OPT_GO ◄─┘        └─ end or drop: SIGTERM, wait, SIGKILL
//! ```
//!
//! An export is ready when it has opened its image and answered a whole handshake under its name,
//! and not before. A clone of its [`Listener`] keeps the address while it is started anew.

mod cache;
mod error;
mod heap;
mod listener;
mod process;
mod ready;
mod spec;
mod usage;

#[cfg(test)]
mod tests;

pub use cache::{CacheChoice, CacheMode};
pub use error::ExportError;
pub use listener::Listener;
pub use process::{Exited, Export};
pub(crate) use ready::{NotReady, probe, wait as wait_ready};
pub use spec::{ExportAccess, ExportSettings, ExportSpec};
pub use usage::ExportUsage;
