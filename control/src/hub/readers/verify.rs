//! Verifying points of a hub.

use std::sync::Arc;

use blockferry_dataplane::Endpoint;

use super::error::ReaderError;
use super::feed::{ReadEvent, Reading, Told};
use super::pool::{Readers, Shared};
use super::ticket::{Kind, Ticket};
use crate::backup::Watch;
use crate::catalog::{DiskName, FailureKind, PointId, Points};
use crate::hub::RepositoryName;
use crate::reading::{ReadError, VerifyRequest, verify};
use crate::repository::{Repository, RepositoryError};

/// What is to be verified.
#[derive(Clone, Debug)]
pub struct VerifyAsked {
    /// The point; all of the repository where none is named.
    pub point: Option<PointId>,
    /// The repository, where it is named.
    pub repository: Option<RepositoryName>,
    /// Which of its disks; all where none is named.
    pub disks: Vec<DiskName>,
    /// Live sources, which should hold the same as a disk.
    pub against: Vec<(DiskName, Endpoint)>,
}

impl Readers {
    /// Verifies points, as [`verify`] does. Its last event says what was found.
    ///
    /// # Errors
    /// [`ReaderError`] when too many do.
    pub fn verify(&self, asked: VerifyAsked) -> Result<Reading, ReaderError> {
        self.begin(Kind::Verification, move |shared, ticket, told| {
            run(shared, ticket, told, asked);
        })
    }
}

fn run(shared: &Shared, ticket: &Ticket, told: Told, asked: VerifyAsked) {
    let repository = match found(shared, &asked) {
        Ok(repository) => repository,
        Err(error) => {
            let _who_has_left = told.opened.send(Err(error));
            return;
        }
    };
    let _who_has_left = told.opened.send(Ok(()));
    let request = VerifyRequest {
        points: asked.point.into_iter().collect(),
        disks: asked.disks,
        against: asked.against,
    };
    let watch: Arc<dyn Watch> = Arc::new(told.feed.clone());
    let settings = &shared.settings;
    let verified = verify(&repository, &request, settings, &watch, &ticket.cancellation);
    told.feed.tell(match verified {
        Ok(report) => ReadEvent::Verified(Box::new(report)),
        Err(ReadError::Cancelled) => {
            ReadEvent::Failed { failure: FailureKind::Other, reason: ticket.why().into() }
        }
        Err(error) => ReadEvent::Failed { failure: error.failure(), reason: error.to_string() },
    });
}

/// The repository that has all that is asked for.
fn found(shared: &Shared, asked: &VerifyAsked) -> Result<Repository, ReaderError> {
    let name = asked.repository.as_ref();
    let Some(point) = asked.point else {
        return Ok(shared.backups.repositories().named(name)?.1.clone());
    };
    let repository = shared.with_point(point, name)?;
    let layers = repository.catalog().layers(point)?;
    let has: Vec<DiskName> = layers.into_iter().map(|layer| layer.disk_name).collect();
    let mut wanted = asked.disks.iter().chain(asked.against.iter().map(|(disk, _)| disk));
    match wanted.find(|disk| !has.contains(disk)) {
        Some(disk) => {
            let disk = disk.clone();
            Err(RepositoryError::NoSuchDisk { point, disk, has }.into())
        }
        None => Ok(repository),
    }
}
