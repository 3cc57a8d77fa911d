//! A job of the queue, and its place there.

use super::feed::Feed;
use super::repositories::RepositoryName;
use crate::backup::{BackupRequest, Cancellation};
use crate::catalog::Job;
use crate::hub::NodeName;
use crate::hub::at_node::FoundVm;
use crate::repository::Repository;

/// A job that waits or runs.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) job: Job,
    pub(super) request: BackupRequest,
    pub(super) repository: Repository,
    pub(super) repository_name: RepositoryName,
    /// The node that reads its disks; the hub itself where there is none.
    pub(super) node: Option<NodeName>,
    /// The VM of the node's hypervisor that it is about, if it is about one.
    pub(super) vm: Option<FoundVm>,
    pub(super) cancellation: Cancellation,
    pub(super) feed: Feed,
}

/// Where a job stands that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePlace {
    /// From 1 on.
    pub position: usize,
    /// Ports that it waits for, one for each of its disks.
    pub ports_needed: usize,
    /// Ports that are free now.
    pub ports_free: usize,
}
