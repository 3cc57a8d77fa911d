//! The backups of a hub: admitted, queued, run, told of.
//!
//! ```text
//!  submit ──▶ hub.db: queued ──▶ queue, in order ──all ports of its disks──▶ a thread: backup::Run
//!                                   ▲                                          │
//!                                   └──────── ports are free again ◀───────────┘
//!  Feed       what happens to a job, for all who follow it
//! ```
//!
//! The first of the queue starts when there is a port for each of its disks, and nobody overtakes
//! it: a VM with many disks is not put off for ever by small ones, and no two half-started VMs wait
//! for each other.

mod asked;
mod error;
mod feed;
mod queue;
mod recover;
mod repositories;
mod run;
mod strays;
mod tally;
mod ticket;

#[cfg(test)]
mod tests;

pub use error::SubmitError;
pub use feed::{DiskProgress, Feed, Follower, JobEvent};
pub use queue::Backups;
pub use repositories::{Repositories, RepositoryName};
pub use tally::JobCounts;
pub use ticket::QueuePlace;
