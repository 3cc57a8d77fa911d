//! vCenter and ESXi over SOAP, 6.5 and newer.
//!
//! ```text
//!  Vsphere (a Hypervisor)
//!    │  inventory   all VMs, the one that is meant            config: VMs, disks, snapshots as told
//!    │  snapshot    made, found, removed ── task              areas: what changed, page by page
//!    │  making      new VMs, and the end of half-made ones    site: where they come to be
//!    ▼
//!  Session         versions, login, renewal ── property       faults, as kinds
//!    │
//!    ▼
//!  Wire            HTTPS, each wait with a deadline ── trust  a thumbprint, or a CA
//!    │
//!   xml            bodies and answers, within bounds
//! ```
//!
//! The API is the one that a server of version 6.5 speaks, whatever the server is. What is here was
//! tried against doubles of vSphere alone.

mod areas;
mod client;
mod config;
mod error;
mod fault;
mod inventory;
mod making;
mod password;
mod patience;
mod property;
mod session;
mod settings;
mod site;
mod snapshot;
mod task;
mod trust;
mod version;
mod wire;
mod xml;

#[cfg(test)]
mod tests;

pub use client::Vsphere;
pub use error::VsphereError;
pub use fault::{Fault, FaultKind};
pub use password::{PasswordError, PasswordFile};
pub use settings::{HTTPS_PORT, VsphereDeadlines, VsphereServer};
pub use trust::{NoThumbprint, Thumbprint, Trust};
