//! Verifying: whether what is kept still is what was backed up.
//!
//! ```text
//!  catalog     the file itself; points without folders, and folders without points
//!  for each point, held:
//!    layers    of each chain, the full first: its file, qemu-img check, its parent, its manifest
//!    content   read through the chain by lanes into nothing, against the manifests;
//!              live sources beside it, against what was read
//!    ledger    the damage by layer, and the points that stand on it
//! ```

mod content;
mod layers;
mod ledger;
mod live;
mod report;

use std::sync::Arc;
use std::time::Instant;

use blockferry_dataplane::{Counts, Endpoint};

use self::ledger::Ledger;
pub use self::report::{
    Against, AgainstOutcome, CatalogFault, Content, Damage, DamageKind, VerifiedDisk,
    VerifiedPoint, VerifyReport,
};
use super::damaged::keep;
use super::error::ReadError;
use super::scratch::Scratch;
use super::settings::ReadSettings;
use crate::backup::{Cancellation, Watch};
use crate::catalog::{CatalogError, DiskName, LayerId, PointFilter, PointId, Points};
use crate::repository::{Repository, RepositoryError};

/// What is to be verified.
#[derive(Clone, Debug, Default)]
pub struct VerifyRequest {
    /// Which points; all where none is named.
    pub points: Vec<PointId>,
    /// Which of their disks; all where none is named.
    pub disks: Vec<DiskName>,
    /// Live sources, which should hold the same as a disk of each point.
    pub against: Vec<(DiskName, Endpoint)>,
}

/// Reads points and says what is damaged, which is no error. It is kept in the catalog: no backup
/// stands on a layer that was found damaged, until a verification finds it right. Nothing else is
/// changed.
///
/// # Errors
/// [`ReadError`] where it could not be found out.
pub fn verify(
    repository: &Repository,
    request: &VerifyRequest,
    settings: &ReadSettings,
    watch: &Arc<dyn Watch>,
    cancellation: &Cancellation,
) -> Result<VerifyReport, ReadError> {
    let started = Instant::now();
    let all = request.points.is_empty();
    let points = if all {
        let points = repository.catalog().points(&PointFilter::default())?;
        points.into_iter().map(|point| point.id).collect()
    } else {
        request.points.clone()
    };
    let mut catalog = catalog_faults(repository, &request.points)?;
    let (planned, disks) = planned(repository, &points, request)?;
    let scratch = Scratch::make(&settings.folder)?;
    let settings = &settings.at_once(disks).within(&scratch);
    let mut run = Run {
        repository,
        request,
        settings,
        watch,
        cancellation,
        ledger: Ledger::new(repository),
        planned,
        finished: 0,
    };
    let looked = run.all_of(&points, all, &mut catalog);
    let (damage, right) = run.ledger.into_findings()?;
    // Also of a verification that was called off, or could not go on.
    keep(repository, &marks(&damage), &right, watch);
    let (verified, against) = looked?;
    Ok(VerifyReport { points: verified, damage, catalog, against, elapsed: started.elapsed() })
}

/// What is wrong with the catalog itself, and with what it says of these points; of all where none
/// is named.
fn catalog_faults(
    repository: &Repository,
    points: &[PointId],
) -> Result<Vec<CatalogFault>, ReadError> {
    let file = repository.catalog().faults()?.into_iter().map(CatalogFault::File);
    let unmatched = repository.unmatched()?;
    let folders = unmatched.folders.into_iter().map(CatalogFault::FolderWithoutPoint);
    let without = unmatched.points.into_iter().map(CatalogFault::PointWithoutFolder);
    let wanted = |fault: &CatalogFault| {
        points.is_empty() || fault.point().is_none_or(|point| points.contains(&point))
    };
    Ok(file.chain(folders).chain(without).filter(wanted).collect())
}

/// What is wrong with each layer, in words.
fn marks(damage: &[Damage]) -> Vec<(LayerId, String)> {
    let mut damaged: Vec<(LayerId, String)> = Vec::new();
    for found in damage {
        let (id, says) = (found.layer.facts.id, found.kind.to_string());
        match damaged.iter_mut().find(|(known, _)| *known == id) {
            Some((_, all)) => *all = format!("{all}; {says}"),
            None => damaged.push((id, says)),
        }
    }
    damaged
}

/// Bytes that are to be read, for the display, and the disks of the point that has most of them.
fn planned(
    repository: &Repository,
    points: &[PointId],
    request: &VerifyRequest,
) -> Result<(u64, usize), ReadError> {
    let (mut bytes, mut disks) = (0_u64, 0);
    for point in points {
        let layers = match repository.catalog().layers(*point) {
            Err(CatalogError::NoSuchPoint(_)) => continue,
            layers => layers?,
        };
        disks = disks.max(layers.len());
        for layer in layers {
            let wanted = request.disks.is_empty() || request.disks.contains(&layer.disk_name);
            let live = request.against.iter().filter(|(disk, _)| *disk == layer.disk_name).count();
            let times = u64::from(wanted) + u64::try_from(live).unwrap_or(0);
            bytes = bytes.saturating_add(layer.facts.size_bytes.saturating_mul(times));
        }
    }
    Ok((bytes, disks))
}

/// One verification.
struct Run<'a> {
    repository: &'a Repository,
    request: &'a VerifyRequest,
    settings: &'a ReadSettings,
    watch: &'a Arc<dyn Watch>,
    cancellation: &'a Cancellation,
    ledger: Ledger<'a>,
    /// Bytes of all points.
    planned: u64,
    /// Bytes of the points that are done.
    finished: u64,
}

impl Run<'_> {
    /// Verifies all these points, or all that there are of them.
    fn all_of(
        &mut self,
        points: &[PointId],
        some_may_go: bool,
        catalog: &mut Vec<CatalogFault>,
    ) -> Result<(Vec<VerifiedPoint>, Vec<Against>), ReadError> {
        let mut verified = Vec::with_capacity(points.len());
        let mut against = Vec::new();
        for id in points {
            if self.cancellation.is_cancelled() {
                return Err(ReadError::Cancelled);
            }
            match self.repository.hold_as_found(*id, &self.request.disks) {
                Ok(held) => verified.push(self.point(&held, &mut against)?),
                // It was deleted meanwhile.
                Err(RepositoryError::Catalog(CatalogError::NoSuchPoint(_))) if some_may_go => {}
                // It is one of the faults of the catalog.
                Err(RepositoryError::PointUnknown { .. }) => {}
                Err(RepositoryError::Catalog(CatalogError::NoSuchLayer(layer))) => {
                    catalog.push(CatalogFault::Chain { point: *id, layer });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok((verified, against))
    }

    /// Tells how far all points are, with the lanes of this one.
    fn tell(&self, lanes: &[Counts]) {
        let sum = lanes.iter().fold(Counts::default(), |sum, counts| sum.plus(counts));
        let mut told = sum;
        told.planned = self.planned;
        told.skipped = sum.skipped + self.finished;
        self.watch.progress(&[told]);
    }
}
