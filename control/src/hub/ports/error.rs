//! Why a port was not leased, or not released.

use crate::catalog::{CatalogError, ValueError, VmName};
use crate::export::ExportError;

/// One line that says what went wrong. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// All are leased, or somebody outside has them.
    #[error("all ports from {first} to {last} are taken")]
    AllTaken {
        /// The lowest one.
        first: u16,
        /// The highest one.
        last: u16,
    },
    /// Nobody has it.
    #[error("port {0} is not leased")]
    NotLeased(u16),
    /// Somebody else has it.
    #[error("port {0} is leased to another job, which keeps it")]
    NotOwner(u16),
    /// A process listens there.
    #[error("an export runs on port {0}, which stays leased until it has ended")]
    ExportRuns(u16),
    /// A job is of one VM.
    #[error("job \"{holder}\" is of VM \"{vm}\", and can lease no port for VM \"{asked}\"")]
    OtherVm {
        /// The job, as it was named.
        holder: String,
        /// Its VM.
        vm: VmName,
        /// What it was asked for.
        asked: VmName,
    },
    /// The disk has a port, and another node may reach it.
    #[error("port {port} is leased for this disk already, and for another node; release it first")]
    OtherNode {
        /// The port.
        port: u16,
    },
    /// It did not get on.
    #[error("port {port} has been waited for {waited_s} s, and another call still changes it")]
    Stuck {
        /// The port.
        port: u16,
        /// For how long.
        waited_s: u64,
    },
    /// A value that is not taken.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// No port could be bound, whichever.
    #[error(transparent)]
    Listen(#[from] ExportError),
}
