//! A vCenter or an ESXi host, as options name it, and how its disks are served.

mod check;
mod options;
mod session;
mod sweep;
mod vddk;
mod vms;

pub(crate) use check::{CheckOptions, EXAMPLES as CHECK_EXAMPLES, command as check, refusal};
pub(crate) use options::{BudgetOptions, INTERRUPTED, ServerOptions, SnapshotOptions};
pub(crate) use session::{VcenterOptions, VcenterSession};
pub(crate) use sweep::{SweepOptions, command as sweep, ledger_of, of_dead_jobs};
pub(crate) use vddk::VddkOptions;
pub(crate) use vms::{EXAMPLES as VMS_EXAMPLES, VmsOptions, command as vms};
