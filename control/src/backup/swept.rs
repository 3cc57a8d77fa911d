//! Waiting for a sweep that is at work with what a dead job has left of a VM.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::cancel::Cancellation;
use super::error::BackupError;
use super::run::Watch;
use super::vm::VmSource;
use crate::snapshots::{LedgerEntry, LedgerError, SnapshotRecord, Swept};

/// How soon the end of a sweep is seen, and that it is waited for no more.
const TICK: Duration = Duration::from_millis(100);

/// A wait for sweeps of others, which is told once and lasts as long as the removal of a snapshot may.
/// It is none of the server's, so it is seen in the ledger alone.
pub(super) struct OtherSweeps<'a> {
    source: &'a VmSource,
    watch: &'a Arc<dyn Watch>,
    cancellation: &'a Cancellation,
    since: Option<Instant>,
}

impl<'a> OtherSweeps<'a> {
    pub(super) fn new(
        source: &'a VmSource,
        watch: &'a Arc<dyn Watch>,
        cancellation: &'a Cancellation,
    ) -> Self {
        Self { source, watch, cancellation, since: None }
    }

    /// Sweeps when no other one is at work with the VM any more: what that could not remove is known
    /// then.
    pub(super) fn then(
        &mut self,
        sweep: impl Fn() -> Result<Swept, LedgerError>,
    ) -> Result<Swept, BackupError> {
        loop {
            let page = self.source.settings.ledger.page_of(|_| false)?;
            if let Some(record) = page.swept.iter().find(|record| self.is_of_vm(record)) {
                self.wait(&record.job)?;
                continue;
            }
            let swept = sweep()?;
            // One that began in between.
            let Some(record) = swept.others.iter().find(|record| self.is_of_vm(record)) else {
                return Ok(swept);
            };
            self.wait(&record.job)?;
        }
    }

    /// Writes a snapshot down, as soon as no sweep is at work with the VM.
    pub(super) fn note(&mut self, record: &SnapshotRecord) -> Result<LedgerEntry, BackupError> {
        loop {
            match self.source.settings.ledger.note(record.clone()) {
                Err(LedgerError::Swept { job, .. }) => self.wait(&job)?,
                noted => return Ok(noted?),
            }
        }
    }

    fn is_of_vm(&self, record: &SnapshotRecord) -> bool {
        let VmSource { hypervisor, vm, settings } = self.source;
        record.is_at(&settings.server, &**hypervisor) && record.is_of(vm)
    }

    /// A while of it.
    fn wait(&mut self, job: &str) -> Result<(), BackupError> {
        if self.cancellation.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        let (vm, limit) = (&self.source.vm.path, self.source.hypervisor.removal_deadline());
        let limit_s = limit.as_secs();
        if self.since.is_none() {
            self.watch.note(&format!(
                "VM {vm}: a sweep is at work with what job {job} left, which is dead; its end is waited \
                 for, for {limit_s} s at most"
            ));
        }
        if self.since.get_or_insert_with(Instant::now).elapsed() >= limit {
            let why = format!(
                "a sweep is at work with what job {job} left, which is dead, and did not end within \
                 {limit_s} s; no snapshot is made beside that: look at the task at the server, and back \
                 up again"
            );
            return Err(BackupError::Unready { vm: vm.clone(), why });
        }
        thread::sleep(TICK);
        Ok(())
    }
}
