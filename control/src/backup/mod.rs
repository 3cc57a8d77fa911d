//! Backing up: all disks of a VM into one restore point, or nothing.
//!
//! ```text
//!  BackupRequest
//!    │ freeze    of a VM of a hypervisor: a snapshot for all disks, served by nbdkit
//!    │ look      each source: its size, whether it has the bitmap
//!    │ plan      per disk: full or delta, on which layer, and why      the only place that decides
//!    │ stage     an image for each, an export for each                 work/<job>/
//!    │ copying   one mover for all; exports that die are started anew
//!    │ publish   exports ended, images checked, one step for all disks
//!    ▼
//!  BackupReport
//! ```
//!
//! Until the last step nothing exists for others, and whatever goes wrong before leaves only a job
//! that failed, with its reason.

mod audit;
mod cancel;
mod carrier;
mod choice;
mod copying;
mod error;
mod ground;
mod held;
mod holding;
mod look;
mod origin;
mod plan;
mod report;
mod request;
mod run;
mod stage;
mod standing;
mod swept;
#[cfg(test)]
mod tests;
mod tracker;
mod vm;

pub use cancel::Cancellation;
pub(crate) use carrier::{Carried, Carrier, CarryError, Carrying, Here, Load, LoadFault, Sought};
pub use choice::{SnapshotChoice, VmRequest};
pub(crate) use error::target_words;
pub use error::{BackupError, WhichDisk};
pub(crate) use ground::Ground;
pub(crate) use look::Looked;
pub use origin::ChangeTracker;
pub(crate) use origin::{Frozen, Origin};
pub use plan::{DiskPlan, Parent};
pub use report::{BackupReport, DiskReport};
pub(crate) use request::names_files;
pub use request::{BackupRequest, BackupSettings, Changes, DiskRequest};
pub(crate) use run::{Run, Unheard, lane_teller};
pub use run::{Watch, back_up, back_up_vm, lane_words, plan_words};
pub use vm::{VmSettings, VmSource, ledger_folder};
pub(crate) use vm::{as_served, disk_shares};
