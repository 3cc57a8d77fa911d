//! Serving a point to others, on leased ports.

use std::fs::File;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::error::ReaderError;
use super::feed::{ReadEvent, Reading, Told};
use super::pool::{Readers, Shared};
use super::ticket::{Kind, OpenExport, Ticket};
use crate::backup::Watch;
use crate::catalog::{
    BackupMode, CatalogError, DiskName, FailureKind, Job, JobId, JobKind, JobState, Jobs, Layer,
    NewJob, Point, PointId,
};
use crate::export::ExportAccess;
use crate::hub::{ExportAddress, Holder, NodeName, PortLease, RepositoryName};
use crate::reading::{ChainDigests, Offer, ReadError, Reviver, no_digests, offer_at};
use crate::repository::{HeldPoint, Repository, RepositoryError, Work};

/// How often it is looked whether an export was called off, or its process has died.
const TICK: Duration = Duration::from_millis(100);

/// What is to be served.
#[derive(Clone, Debug)]
pub struct ExportAsked {
    /// The point.
    pub point: PointId,
    /// The repository, where it is named.
    pub repository: Option<RepositoryName>,
    /// Which of its disks; all where none is named.
    pub disks: Vec<DiskName>,
    /// Whether its clients may write; what they write is thrown away at the end.
    pub writable: bool,
    /// Connections that each disk is served to.
    pub connections: u16,
    /// The node that reaches the ports through its tunnel.
    pub node: Option<NodeName>,
}

/// A point that is served.
#[derive(Clone, Debug)]
pub struct ServedPoint {
    /// The job that has the ports.
    pub job: JobId,
    /// The point.
    pub point: Point,
    /// Its disks, by their names.
    pub disks: Vec<ServedDisk>,
}

/// A disk of it.
#[derive(Clone, Debug)]
pub struct ServedDisk {
    /// Its layer, with its name and exact size. What is served is rounded up to 512 bytes.
    pub layer: Layer,
    /// Where, and what the export is called.
    pub lease: PortLease,
    /// The qemu-nbd that serves it.
    pub pid: u32,
}

impl Readers {
    /// Serves disks of a point until the [`Reading`] is dropped. Its first event says where.
    ///
    /// # Errors
    /// [`ReaderError`] when too many do.
    pub fn export(&self, asked: ExportAsked) -> Result<Reading, ReaderError> {
        self.begin(Kind::Export, move |shared, ticket, told| run(shared, ticket, told, &asked))
    }

    /// What the chain of a disk that is exported should hold: a manifest, of as many layers as it
    /// may be. Making it takes as long as reading the manifests of the chain.
    ///
    /// # Errors
    /// [`ReaderError::NoSuchExport`], or that the digests cannot be had.
    pub fn digests(&self, job: JobId, disk: &DiskName) -> Result<File, ReaderError> {
        let ticket = self.exported(job)?;
        let export = ticket.opened.get().ok_or(ReaderError::NoSuchExport(job))?;
        let layer = export.layer(disk).ok_or_else(|| RepositoryError::NoSuchDisk {
            point: export.point,
            disk: disk.clone(),
            has: export.layers.iter().map(|held| held.layer().disk_name.clone()).collect(),
        })?;
        let digests = ChainDigests::open(layer, &export.repository);
        let digests = digests.map_err(|error| no_digests(layer, error))?;
        Ok(digests.as_one(&self.shared.settings.folder)?)
    }

    /// Takes an export back, whoever has asked for it. It ends a moment later.
    ///
    /// # Errors
    /// [`ReaderError::NoSuchExport`].
    pub fn end_export(&self, job: JobId) -> Result<(), ReaderError> {
        self.exported(job)?.call_off("the export was called off");
        Ok(())
    }

    fn exported(&self, job: JobId) -> Result<Arc<Ticket>, ReaderError> {
        let mut tickets = self.shared.tickets().into_iter();
        let found = tickets.find(|ticket| ticket.opened.get().is_some_and(|open| open.job == job));
        found.ok_or(ReaderError::NoSuchExport(job))
    }
}

fn run(shared: &Shared, ticket: &Ticket, told: Told, asked: &ExportAsked) {
    let opened = open(shared, ticket, asked);
    let mut serving = match opened {
        Ok(serving) => serving,
        Err(error) => {
            let _who_has_left = told.opened.send(Err(error));
            return;
        }
    };
    let _who_has_left = told.opened.send(Ok(()));
    told.feed.tell(ReadEvent::Served(serving.told()));
    let watch: Arc<dyn Watch> = Arc::new(told.feed.clone());
    let lost = serving.until_over(ticket, &watch);
    // Before the ports are free: who hears of the end finds that they are.
    let (reason, failure) = match &lost {
        None => (ticket.why().to_owned(), FailureKind::Other),
        Some(error) => (error.to_string(), error.failure()),
    };
    serving.end(if lost.is_some() { Some(failure) } else { None }, &reason);
    told.feed.tell(ReadEvent::Failed { failure, reason });
}

fn open<'a>(
    shared: &'a Shared,
    ticket: &Ticket,
    asked: &ExportAsked,
) -> Result<Serving<'a>, ReaderError> {
    let repository = shared.with_point(asked.point, asked.repository.as_ref())?;
    let held = repository.hold_disks(asked.point, &asked.disks)?;
    let (disks, ports) = (held.layers.len(), shared.ports.metrics().total);
    if disks > ports {
        return Err(ReaderError::TooManyDisks { disks, ports });
    }
    let new = NewJob {
        kind: JobKind::Export,
        vm: held.point.vm.clone(),
        mode: BackupMode::Auto,
        key: None,
        asked: None,
    };
    let mut claimed = Claimed { shared, job: shared.catalog.add_job(new)?.into_job(), over: false };
    let opened = claimed.serve(&repository, held, ticket, asked);
    match opened {
        Ok((offer, leases, room)) => {
            Ok(Serving { claimed, offer, leases, room, writable: asked.writable })
        }
        Err(error) => {
            claimed.end(Some(FailureKind::Other), &error.to_string());
            Err(error)
        }
    }
}

/// A job, which is over when this is.
struct Claimed<'a> {
    shared: &'a Shared,
    job: Job,
    over: bool,
}

type Opened = (Offer, Vec<PortLease>, Option<Work>);

impl Claimed<'_> {
    fn serve(
        &self,
        repository: &Repository,
        held: HeldPoint,
        ticket: &Ticket,
        asked: &ExportAsked,
    ) -> Result<Opened, ReaderError> {
        let (shared, job) = (self.shared, self.job.id);
        let why = format!("opening point {}", held.point.id);
        shared.catalog.advance(job, JobState::Planning, &why)?;
        let holder = Holder::from(job);
        let mut leases = Vec::with_capacity(held.layers.len());
        for layer in &held.layers {
            let disk = &layer.layer().disk_name;
            let node = asked.node.as_ref();
            leases.push(shared.ports.lease_for(&holder, &held.point.vm, disk, node)?);
        }
        // Writes take the room of the repository, which its backups could take as well; and what a
        // kill leaves of them goes with the folder of any dead job.
        let room = match asked.writable {
            true => Some(repository.begin_for(job, None)?),
            false => None,
        };
        let access = match &room {
            Some(room) => ExportAccess::ThrowAway { folder: room.path().to_owned() },
            None => ExportAccess::ReadOnly,
        };
        let (point, layers) = (held.point.id, held.layers.clone());
        let address =
            |lease: &PortLease| ExportAddress::Port(Arc::clone(&shared.ports), lease.clone());
        let addresses = leases.iter().map(address).collect();
        let offer = offer_at(held, addresses, &access, asked.connections, &shared.settings)?;
        let ports: Vec<String> = leases.iter().map(|lease| lease.port.to_string()).collect();
        let why = format!("point {} is served on {}", offer.point().id, ports.join(", "));
        shared.catalog.advance(job, JobState::Copying, &why)?;
        let repository = repository.clone();
        ticket.opened.get_or_init(|| OpenExport { job, point, repository, layers });
        Ok((offer, leases, room))
    }

    /// Gives the ports back, on which nothing runs any more, and ends the job. What cannot be noted
    /// now is settled at the next start.
    fn end(&mut self, failure: Option<FailureKind>, reason: &str) {
        let (catalog, job) = (&self.shared.catalog, self.job.id);
        let _at_the_next_start = self.shared.ports.release_all(&Holder::from(job));
        let _at_the_next_start: Result<Job, CatalogError> = match failure {
            Some(failure) => catalog.fail(job, failure, reason),
            None => catalog.advance(job, JobState::Cancelled, reason),
        };
        self.over = true;
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.end(Some(FailureKind::Other), "a part of the hub panicked");
        }
    }
}

/// Disks that are served.
struct Serving<'a> {
    // First, for ports are given back when nothing runs on them.
    offer: Offer,
    room: Option<Work>,
    leases: Vec<PortLease>,
    writable: bool,
    claimed: Claimed<'a>,
}

impl Serving<'_> {
    fn told(&self) -> ServedPoint {
        let disks = self.offer.disks().into_iter().zip(&self.leases);
        let disks = disks.map(|(offered, lease)| ServedDisk {
            layer: offered.layer,
            lease: lease.clone(),
            pid: offered.pid,
        });
        let (job, point) = (self.claimed.job.id, self.offer.point().clone());
        ServedPoint { job, point, disks: disks.collect() }
    }

    /// Looks after the exports until it is called off, or one of them is gone for good.
    fn until_over(&mut self, ticket: &Ticket, watch: &Arc<dyn Watch>) -> Option<ReadError> {
        let mut reviver = Reviver::new(watch);
        while !ticket.cancellation.is_cancelled() {
            // Another process would not have what was written to the first one.
            if !self.writable
                && let Err(error) = self.offer.revive(&mut reviver)
            {
                return Some(error);
            }
            if let Some((disk, exited)) = self.offer.lost() {
                return Some(ReadError::Lost { disk, exited });
            }
            thread::sleep(TICK);
        }
        None
    }

    fn end(self, failure: Option<FailureKind>, reason: &str) {
        let Self { offer, room, leases: _, writable: _, mut claimed } = self;
        // They are gone, however they took it.
        let _how = offer.end();
        claimed.end(failure, reason);
        // After its job, or it would be taken for one of the dead.
        drop(room);
    }
}
