//! The ports of a hub: who has which, on disk and bound.
//!
//! ```text
//!   free ──reserved──▶ Coming ──leased on disk, bound──▶ Held ──▶ Going ──given back──▶ free
//!                        └── somebody outside has it: given back, kept in mind, the next one
//! ```
//!
//! The table is in memory and is what decides, for the hub has its folder to itself. Nobody waits
//! for the disk with the table locked, so that many callers share the disk's waits; whoever needs
//! a port that is coming or going waits for that one alone.

mod adopt;
mod error;
mod holder;
mod lease;
mod pool;
mod table;

pub use adopt::Recovery;
pub use error::PortError;
pub use holder::Holder;
pub use lease::PortLease;
pub use pool::{PortUse, Ports};
pub use table::PortMetrics;
