//! The hub: the machine with the storage, without its HTTP (that is [`api`](crate::api)).
//!
//! ```text
//!  StateFolder   DIR, one hub at a time: hub.lock
//!    │
//!    ├─ hub.db       SqliteCatalog: jobs of this hub, and what they hold
//!    ├─ callers.db   SqliteCatalog: jobs that callers named themselves, and the ports they hold
//!    ├─ tokens.json  hashes of the tokens that open the API
//!    ├─ nodes.json   keys of the nodes that may dial it, hashes of codes that enroll new ones
//!    │
//!  Hub ─ Ports     lease on disk ▸ bound at once ▸ kept ▸ released once, by its owner
//!      ├ Backups   queue ▸ all ports of a VM at once ▸ run ▸ published
//!      ├ Readers   verifications, and exports of points, each as long as its caller listens
//!      ├ Exports   the qemu-nbd processes that run now
//!      └ TokenCheck, NodeCheck
//! ```
//!
//! Two catalogs, because the two kinds of jobs have different lives: a job of this hub is queued
//! and run by it, and after a restart what it held is undone; a job that a caller named is run by
//! that caller, who knows nothing of a restart, so its ports are bound again. Keys that callers
//! choose for backups and names that they choose for ports do not meet either.
//!
//! Every call blocks for as long as the disk takes: from asynchronous code it is made on a thread
//! that may block.

mod address;
mod at_node;
mod backups;
mod error;
mod exports;
mod gate;
mod kept;
mod machine;
mod nodes;
mod own_ports;
mod ports;
mod readers;
mod secret;
mod state;
mod state_file;
#[cfg(test)]
mod tests;
mod token;

pub(crate) use address::ExportAddress;
pub use at_node::{NodeLines, NodeStatus, NodesAtWork};
pub use backups::{
    Backups, DiskProgress, Feed, Follower, JobCounts, JobEvent, QueuePlace, Repositories,
    RepositoryName, SubmitError,
};
pub use error::HubError;
pub use exports::{ExportFacts, Exports, RunningExport};
pub use gate::Gate;
pub(crate) use kept::{KeptExport, KeptSpec};
pub use machine::{Hub, HubSettings};
pub use nodes::{NodeCheck, NodeError, NodeFacts, NodeName, NodeWay, Nodes, host_key};
pub use own_ports::OwnPorts;
pub use ports::{Holder, PortError, PortLease, PortMetrics, PortUse, Ports, Recovery};
pub use readers::{
    ExportAsked, MAX_EXPORTS, MAX_VERIFICATIONS, ReadEvent, ReaderCounts, ReaderError, Readers,
    Reading, ServedDisk, ServedPoint, VerifyAsked,
};
pub use secret::NoRandom;
pub use state::StateFolder;
pub(crate) use state::lock_file;
pub use state_file::StateFileError;
pub use token::{Token, TokenCheck, TokenError, TokenFacts, TokenId, Tokens};

/// The ports that a hub hands out where nothing else is said: 101 of them.
pub const DEFAULT_PORTS: std::ops::RangeInclusive<u16> = 10_100..=10_200;
