//! The control plane of blockferry: what has to run around a copy.
//!
//! ```text
//!  backup      all disks of a VM into one restore point
//!  repository  a folder with restore points, and who works in it
//!  reading     points: restored, verified, listed, offered to others
//!  hub         ports, running exports, tokens: the machine with the storage, without its HTTP
//!  api         the hub over HTTP
//!  client      the same from the other side
//!  call        requests over HTTP and their answers, as those who ask have them
//!  tunnel      SSH connections that lanes reach a far end through  ──► dataplane::Dial
//!  bench       what this machine and a link carry, measured on servers of its own
//!  sources     disks that are no exports yet, made into one: VMware's, by nbdkit
//!  node        the machine near the VMs, which dials a hub
//!  record      what is told of jobs and points, as JSON
//!  snapshots   VMs, their snapshots, and what a disk's next backup can stand on
//!  vsphere     vCenter and ESXi
//!  budgets     how much of hosts and datastores the jobs of a machine take at once
//!  server      an NBD server that lives as long as one copy   ──► dataplane::Dial
//!  export      qemu-nbd, which serves one image               ──► dataplane::nbd::NbdUri
//!  image       qcow2 files, made and looked at by qemu-img
//!  child       programs that run beside us and do not outlive us: what the three above stand on
//!  catalog     jobs, leases, restore points: what is kept on disk      catalog.db
//! ```

#![forbid(unsafe_code)]

pub mod api;
pub mod backup;
pub mod bench;
pub mod budgets;
mod call;
pub mod catalog;
mod child;
pub mod client;
pub mod export;
pub mod hub;
pub mod image;
pub mod node;
mod proc;
mod program;
pub mod reading;
pub mod record;
pub mod repository;
mod server;
pub mod snapshots;
pub mod sources;
pub mod tunnel;
pub mod vsphere;

pub use server::{END_DEADLINE, Server, ServerCommand, ServerError, ServerTransport};
