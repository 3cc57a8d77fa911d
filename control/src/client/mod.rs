//! The hub's API from the other side, for programs that block.
//!
//! ```text
//!  HubClient   where the hub is, and the token         backup    asked for, followed to its end
//!    │                                                 points    listed, deleted
//!    │                                                 verify    read by the hub
//!    │                                                 export    served by the hub
//!    │                                                 restore   of what it serves, compared here
//!  http        the calls, by `call`
//!    └─ events   a stream of server-sent events; silence is a fault
//! ```
//!
//! Plain HTTP: the API is on loopback, or behind something that speaks TLS for it.

mod address;
mod backup;
mod error;
mod events;
mod export;
mod http;
mod patience;
mod points;
mod reading;
mod report;
mod restore;
#[cfg(test)]
mod tests;
mod verify;

pub use crate::call::{ANSWER_DEADLINE, CONNECT_DEADLINE};
pub use address::HubAddress;
pub use backup::{DiskSubmission, Submission};
pub use error::ClientError;
pub use export::{Exporting, HubExport};
pub use http::HubClient;
pub use points::PointsWanted;
pub use verify::Verification;
