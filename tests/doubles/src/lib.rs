//! Servers for blockferry's tests.
//!
//! ```text
//!  process   a child that never outlives its test        socket   TCP and Unix under one name
//!     |                                                     |
//!  nbdkit, qemu -> server: real servers, no port race    hostile: an NBD server that breaks the rules on order
//!                                                        proxy:   a slow, frozen or cut line in between
//!  vddk      the plugin for nbdkit that is built beside this crate, and what it serves
//!  sshd      OpenSSH's server, a child of the test for each session
//!  disk      test disks and their comparison   ports   a hub's range, for one test alone
//!  vsphere   a vCenter or ESXi host with VMs     http    a client that sends what it is told to
//!  vcsim     VMware's simulator of the same      queued  what a busy machine takes
//! ```
//!
//! Nothing here depends on the data plane: the protocol is encoded a second time, so that the
//! two implementations check each other.

// A double that meets something it did not foresee should end the test loudly.
#![allow(clippy::unwrap_used)]

pub mod disk;
pub mod hostile;
pub mod http;
pub mod nbdkit;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod qemu;
pub mod queued;
pub mod server;
pub mod socket;
pub mod sshd;
pub mod vcsim;
pub mod vddk;
pub mod vsphere;

pub use disk::TestDisk;
pub use hostile::{Fault, Hostile, HostileServer, Occasion, Trigger};
pub use http::{HttpAnswer, HttpClient};
pub use nbdkit::Nbdkit;
pub use ports::PortBlock;
pub use process::Child;
pub use proxy::Proxy;
pub use qemu::QemuNbd;
pub use queued::queued;
pub use server::Server;
pub use socket::Address;
pub use sshd::{SshServer, Sshd};
pub use vcsim::Vcsim;
pub use vddk::Vddk;
pub use vsphere::Vsphere;
