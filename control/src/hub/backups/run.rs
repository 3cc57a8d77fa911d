//! One job, on a thread of its own.

use std::sync::Arc;

use super::error::SubmitError;
use super::feed::JobEvent;
use super::queue::Shared;
use super::ticket::Ticket;
use crate::backup::{BackupError, Carrier, Ground, Here, Origin, Run, Watch};
use crate::catalog::{FailureKind, Jobs};
use crate::hub::PortLease;
use crate::hub::at_node::AtNode;

/// Who reads the disks of a job, and where they come from if not from its request.
type Reader = (Arc<dyn Carrier>, Option<Box<dyn Origin>>);

fn reader(shared: &Shared, ticket: &Ticket) -> Result<Reader, SubmitError> {
    let Some(node) = &ticket.node else {
        return Ok((Arc::new(Here::with(&shared.settings)), None));
    };
    let nodes = shared.nodes.as_ref().ok_or(SubmitError::NoNodes)?;
    let connections = shared.settings.lane.connections;
    let of_snapshot = ticket.vm.is_some();
    let watch = Arc::new(ticket.feed.clone());
    let at = AtNode::new(nodes, node, ticket.job.id, connections, of_snapshot, watch)?;
    let origin = ticket.vm.as_ref().map(|vm| Box::new(at.origin(vm)) as Box<dyn Origin>);
    Ok((Arc::new(at), origin))
}

/// Runs a job to its end, which it notes in the catalog and tells on the feed.
pub(super) fn run(shared: &Shared, ticket: &Ticket, ports: Vec<PortLease>) {
    let fail = |failure: FailureKind, reason: &str| {
        shared.tally.failed();
        match shared.catalog.fail(ticket.job.id, failure, reason) {
            Ok(job) => ticket.feed.job(&job),
            Err(unnoted) => ticket.feed.note(&format!("the job's end is not noted: {unnoted}")),
        }
    };
    // A node may have been taken away since the job was taken in.
    let (carrier, origin) = match reader(shared, ticket) {
        Ok(reader) => reader,
        Err(error) => return fail(FailureKind::Other, &error.to_string()),
    };
    let work = match ticket.repository.begin_for(ticket.job.id, Some(&ticket.request.vm)) {
        Ok(work) => work,
        Err(error) => return fail(error.failure(), &error.to_string()),
    };
    let ground = Ground {
        repository: ticket.repository.clone(),
        jobs: Arc::clone(&shared.catalog),
        exports: Arc::clone(&shared.exports),
        ports: Some((Arc::clone(&shared.ports), ports)),
        carrier,
    };
    let watch: Arc<dyn Watch> = Arc::new(ticket.feed.clone());
    let run = Run {
        origin: origin.as_deref(),
        ground: &ground,
        request: &ticket.request,
        settings: &shared.settings,
        watch: &watch,
        cancellation: &ticket.cancellation,
        job: ticket.job.id,
    };
    // How it ended is noted and told by the run itself.
    match run.to_end(work) {
        Ok(report) => {
            shared.tally.done(&report);
            let disks = report.disks.into_iter();
            let disks = disks.map(|disk| (disk.plan.name, disk.counts, disk.elapsed)).collect();
            ticket.feed.tell(JobEvent::Moved { elapsed: report.elapsed, disks });
        }
        Err(BackupError::Cancelled) => shared.tally.cancelled(),
        Err(_) => shared.tally.failed(),
    }
}
