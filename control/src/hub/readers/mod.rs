//! Who reads points through a hub: verifications, and exports to others, few at once.
//!
//! ```text
//!  verify ──▶ a thread: reading::verify ─────────────┐
//!                                                    ├─▶ Reading: events, until its end
//!  export ──▶ a thread: job ▸ ports ▸ exports ▸ wait ┘   dropped, it is called off
//! ```
//!
//! A reading lasts no longer than its [`Reading`] is kept, which whoever asked for it does while it
//! listens. Its thread alone ends exports and gives ports back, so nothing of it is left when it is
//! gone, whoever called it off: its caller by leaving, somebody by its job, or the end of the hub.
//!
//! An export has a job in the hub's catalog, of a kind of its own, that owns its ports. What is left
//! of it by a hub that was killed is undone as that of any job: when the hub starts.

mod error;
mod export;
mod feed;
mod pool;
#[cfg(test)]
mod tests;
mod ticket;
mod verify;

pub use error::ReaderError;
pub use export::{ExportAsked, ServedDisk, ServedPoint};
pub use feed::{ReadEvent, Reading};
pub use pool::{MAX_EXPORTS, MAX_VERIFICATIONS, ReaderCounts, Readers};
pub use verify::VerifyAsked;
