//! A node: the machine near the VMs, which dials a hub.
//!
//! ```text
//!  NodeFolder  DIR (mode 0700)
//!    ├─ node_key    its private key, made here, that never leaves
//!    ├─ hub_keys    the key of its hub, in the format of known_hosts
//!    ├─ node.json   its name, and where the hub is
//!    └─ jobs/       digests of the jobs that run now
//!
//!  Node: the tunnel, kept up, and
//!  NodeService ─ api    what the hub asks for, over connections that it opens through the tunnel
//!              ├ jobs   sources looked at, lanes run: backup::Here, each job on a thread
//!              ├ job    what its lanes have come to, by the pass of a backup that they are
//!              └ vms    VMs of its hypervisor, held still for jobs
//!  wire         what the two say to each other
//! ```

mod api;
mod folder;
mod job;
mod jobs;
mod pass;
mod serve;
mod service;
mod vms;
pub(crate) mod wire;

pub use api::NodeToken;
pub(crate) use api::{NO_SUCH_JOB, UNFIT};
pub(crate) use pass::PassId;
pub use vms::NodeVms;
pub use wire::HealthRecord;

pub use folder::{NodeError, NodeFolder, NodeRecord};
pub use serve::{Node, ServeError};
pub use service::{NodeService, NodeSettings};
