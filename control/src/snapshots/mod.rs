//! VMs and their snapshots, whoever runs them.
//!
//! ```text
//!  Hypervisor   find a VM ─▶ Vm, VmDisk ─▶ findings       what would stop or limit a backup
//!    │          snapshot for all disks ─▶ its disks        content and change ids of one instant
//!    │                                      │
//!    │                                  Base::decide       full or delta, and why: a pure function
//!    │          changed areas ◀─────────────┘
//!    │          place of a disk's content                  for whoever reads it
//!    └ vsphere  vCenter and ESXi
//!  Ledger       which snapshots are ours, on disk before they are made ─▶ sweep
//! ```
//!
//! A snapshot is named after its job ([`SnapshotName`]), which is what it is found by whatever
//! happened to the job, and to the call that made it: nothing else is ever removed.

mod base;
mod error;
mod findings;
mod hypervisor;
mod ledger;
mod mark;
mod name;
mod new_vm;
mod record;
mod sweep;
mod vm;

pub use base::{Base, Decision, FullReason};
pub use error::{HypervisorError, Reaction};
pub use findings::{Finding, FindingKind, Severity, findings};
pub use hypervisor::{
    DiskPlace, Hypervisor, QuiescePolicy, Quiesced, SnapshotRequest, TakenSnapshot,
};
pub use ledger::{Ledger, LedgerEntry, LedgerError, LedgerPage};
pub use mark::{MarkedVm, RestoreMark};
pub use name::{NotOurs, SnapshotName};
pub use new_vm::{DiskController, Firmware, NewVm, NewVmHardware, NewVmSite};
pub use record::{Place, SnapshotRecord, WorkKind};
pub use sweep::{Awaited, DeadRestore, Swept, sweep, sweep_there};
pub(crate) use sweep::{Removal, remove_written};
pub use vm::{
    Backing, Connection, DeviceKey, HostFacts, LeftOut, PowerState, SnapshotFacts, SnapshotId, Vm,
    VmDisk, VmId,
};
