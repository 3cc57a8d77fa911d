//! The turn of a restore among all jobs of the machine: what it writes are disks of a host, as those
//! that a backup reads.

use super::Work;
use crate::backup::disk_shares;
use crate::budgets::{Claim, Granted};
use crate::reading::error::ReadError;
use crate::snapshots::Vm;

impl Work<'_> {
    /// Takes what so many disks of a VM need, and says what it waits for. Returns it, to be held for
    /// as long as they are open, and the VM as it is then.
    pub(super) fn wait_for_turn(
        &self,
        mut vm: Vm,
        disks: usize,
    ) -> Result<(Granted, Vm), ReadError> {
        loop {
            let claim = self.claim(&vm, disks);
            let tell = |text: &str| self.watch.note(text);
            let granted = self.target.budgets.take(claim.clone(), &tell, self.cancellation)?;
            if granted.has_waited() {
                vm = self.target.hypervisor.unless(self.cancellation).look(&vm.id)?;
                if self.claim(&vm, disks) != claim {
                    // It has moved meanwhile, and takes its turn there.
                    continue;
                }
            }
            return Ok((granted, vm));
        }
    }

    fn claim(&self, vm: &Vm, disks: usize) -> Claim {
        let named = &self.target.server;
        let server = self.target.hypervisor.server_uuid().unwrap_or(named);
        let shares = disk_shares(server, named, vm, disks);
        Claim { job: self.job.to_string(), vm: vm.path.clone(), shares }
    }
}
