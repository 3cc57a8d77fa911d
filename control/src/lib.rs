//! The control plane of blockferry: what has to run around a copy.
//!
//! ```text
//!  server   an NBD server that lives as long as one copy   ──► dataplane::Dial
//!  export   qemu-nbd, which serves one image               ──► dataplane::nbd::NbdUri
//!  image    qcow2 files, made and looked at by qemu-img
//!  child    programs that run beside us and do not outlive us: what the three above stand on
//!  repository  a folder with restore points, and who works in it
//!  backup   all disks of a VM into one point     reading   out of it again: restore, verify, list, offer
//!  catalog  jobs, leases, restore points: what is kept on disk      catalog.db
//! ```

#![forbid(unsafe_code)]

pub mod backup;
pub mod catalog;
mod child;
pub mod export;
pub mod image;
mod program;
pub mod reading;
pub mod repository;
mod server;

pub use server::{END_DEADLINE, Server, ServerCommand, ServerError, ServerTransport};
