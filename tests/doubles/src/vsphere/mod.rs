//! A vCenter, or an ESXi host, as far as backups and restores meet it: SOAP over HTTPS, with a
//! state of its own behind it.
//!
//! ```text
//!  client --TLS--> listener --> call --> methods: session, collector, views, filters, search,
//!                     |          |                reconfigure, power, snapshots, revert, changes
//!                     |       shapes, xml: what the schema allows       |
//!                  writer <-- value, fault                             task: a thread each
//!                                                                       |
//!  test --> Vsphere, VirtualMachine --> trouble                       world: the inventory
//!                      |                                                |
//!                      +--> content: raw files, one lock for all   published: vddk.json, for
//!                           disks of a VM, 64 KiB change map       the double of VDDK's plugin
//! ```
//!
//! What is done is what the documentation of vSphere says; where it leaves a choice, the less
//! comfortable one is taken: a request out of order is refused, tracking begins after the first
//! snapshot, the change id of the current configuration is none to begin a query with, and a VM
//! that has a task refuses another. `tests/pyvmomi.rs` drives it with VMware's own client, and
//! `tests/vcsim.rs` compares it with VMware's own simulator.

mod builder;
mod by_hand;
mod call;
pub(crate) mod certificate;
mod changes;
mod collector;
mod content;
mod describe;
mod describe_machine;
mod double;
mod draw;
mod fault;
mod filters;
mod guest;
mod listener;
mod log;
mod machine;
mod methods;
mod places;
mod power;
mod published;
mod reconfigure;
mod revert;
mod search;
mod session;
mod shapes;
mod shared;
mod snapshots;
mod task;
mod trouble;
mod value;
mod views;
mod virtual_machine;
mod world;
mod writer;
mod xml;

pub use builder::VsphereBuilder;
pub use by_hand::Unregistered;
pub use content::CHANGE_BYTES;
pub use double::Vsphere;
pub use guest::{Guest, Steps};
pub use log::{Call, TaskRun};
pub use machine::{Backing, DiskMode, NewDisk, NewMachine};
pub use revert::Revert;
pub use trouble::{Failure, Page, Trouble};
pub use virtual_machine::{SnapshotSeen, VirtualMachine};
pub use world::Flavour;
