//! A leased port, and how it is written in a catalog.

use super::super::nodes::NodeName;
use super::holder::Holder;
use crate::catalog::{
    Claim, ClaimKind, DiskName, IdempotencyKey, Job, JobId, UnixMillis, ValueError, VmName,
};

/// A port that a job has for a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortLease {
    /// The port.
    pub port: u16,
    /// The job that has it.
    pub job: JobId,
    /// The name that its caller gave that job.
    pub name: Option<IdempotencyKey>,
    /// The VM.
    pub vm: VmName,
    /// The disk.
    pub disk: DiskName,
    /// The node that may reach it through a tunnel.
    pub node: Option<NodeName>,
    /// Since when.
    pub since: UnixMillis,
}

impl PortLease {
    pub(super) fn new(port: u16, job: &Job, disk: &DiskName, node: Option<&NodeName>) -> Self {
        Self {
            port,
            job: job.id,
            name: job.key.clone(),
            vm: job.vm.clone(),
            disk: disk.clone(),
            node: node.cloned(),
            since: UnixMillis::now(),
        }
    }

    /// What its export is called: no other has this name at any time. It begins with an id and has
    /// no slash, so that as a path it leads nowhere.
    #[must_use]
    pub fn export_name(&self) -> String {
        format!("{}.{}", self.job, self.disk)
    }

    /// Whether this is the one that has it.
    #[must_use]
    pub fn is_held_by(&self, holder: &Holder) -> bool {
        holder.as_str() == self.job.as_str() || self.name.as_ref() == Some(holder.name())
    }

    /// The job, as its caller calls it.
    #[must_use]
    pub fn holder(&self) -> Holder {
        self.name.clone().map_or_else(|| self.job.into(), Into::into)
    }

    /// The port and the export on it. Together they hold all that a restart has to know.
    pub(super) fn claims(&self) -> Result<Vec<Claim>, ValueError> {
        // No part of it has a slash.
        let mut export = format!("{}/{}", self.port, self.export_name());
        if let Some(node) = &self.node {
            export = format!("{export}/{node}");
        }
        Ok(vec![Claim::port(self.port), Claim::new(ClaimKind::Export, &export)?])
    }

    /// What an export's claim says that [`claims`](Self::claims) made for this job.
    pub(super) fn of_claim(claim: &Claim, job: JobId) -> Option<Claimed> {
        let (port, name) = claim.key().split_once('/')?;
        let (name, node) = match name.split_once('/') {
            Some((name, node)) => (name, Some(node.parse().ok()?)),
            None => (name, None),
        };
        let disk = name.strip_prefix(job.as_str())?.strip_prefix('.')?;
        (claim.kind() == ClaimKind::Export).then_some(()).and_then(|()| {
            Some(Claimed { port: port.parse().ok()?, disk: disk.parse().ok()?, node })
        })
    }
}

/// What is known of a lease by its claims alone.
pub(super) struct Claimed {
    pub(super) port: u16,
    pub(super) disk: DiskName,
    pub(super) node: Option<NodeName>,
}
