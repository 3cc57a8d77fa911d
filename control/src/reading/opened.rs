//! Disks of a point that are open to be read, wherever they are kept.
//!
//! ```text
//!  Repository ──► OpenedHere    exports of our own, manifests of the chain ─┐
//!                                                                           ├─► restore
//!  HubClient  ──► OpenedByHub   exports of a hub, digests that it lent us  ─┘
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use blockferry_dataplane::Endpoint;
use blockferry_dataplane::digest::DigestAlgorithm;
use blockferry_dataplane::manifest::Manifest;
use blockferry_dataplane::plan::AreaSet;

use super::damaged::{by_layer, keep};
use super::digests::ChainDigests;
use super::error::ReadError;
use super::lanes::Reviver;
use super::serve::serve_to_read;
use super::settings::ReadSettings;
use super::verify::DamageKind;
use crate::backup::Watch;
use crate::catalog::{DiskName, LayerId, PointId, VmName};
use crate::child::each;
use crate::hub::KeptExport;
use crate::repository::{HeldLayer, HeldPoint, Repository, RepositoryError};

/// A disk of an opened point.
#[derive(Clone, Debug)]
pub(crate) struct OpenedDisk {
    pub(crate) name: DiskName,
    /// Its layer in the point.
    pub(crate) layer: LayerId,
    /// Its exact size.
    pub(crate) size_bytes: u64,
}

/// A point whose disks can be read. It is not deleted while this lives.
pub(crate) trait Opened {
    /// The point.
    fn point(&self) -> PointId;

    /// Its VM.
    fn vm(&self) -> &VmName;

    /// Its disks, by their names.
    fn disks(&self) -> &[OpenedDisk];

    /// Where one of them is read.
    fn endpoint(&self, disk: usize) -> Endpoint;

    /// How its digests are made.
    fn algorithm(&self, disk: usize) -> Option<DigestAlgorithm>;

    /// Looks after what the disks are read from; called now and then while they are.
    ///
    /// # Errors
    /// When they can be read no more.
    fn keep(&mut self, reviver: &mut Reviver<'_>) -> Result<(), ReadError>;

    /// The last words of what serves a disk, in one line.
    fn said(&self, disk: usize) -> String;

    /// Whether what was read is what was backed up; that it is not is kept where that can be.
    ///
    /// # Errors
    /// [`ReadError::Differs`] if it is not.
    fn compare(&self, disk: usize, read: &Manifest) -> Result<(), ReadError>;
}

/// A point of a repository that is here.
pub(super) struct OpenedHere<'a> {
    repository: &'a Repository,
    held: HeldPoint,
    disks: Vec<OpenedDisk>,
    sources: Vec<KeptExport>,
    digests: Vec<ChainDigests>,
    settings: &'a ReadSettings,
    watch: &'a Arc<dyn Watch>,
}

impl<'a> OpenedHere<'a> {
    /// Opens those disks of a point that can be opened, and says of each other one why not. The
    /// point is held as it was found.
    pub(super) fn open(
        repository: &'a Repository,
        mut held: HeldPoint,
        settings: &'a ReadSettings,
        watch: &'a Arc<dyn Watch>,
    ) -> (Self, Vec<(OpenedDisk, ReadError)>) {
        let layers = std::mem::take(&mut held.layers);
        let opened = each(&layers, |layer| -> Result<_, Infallible> {
            Ok(open(repository, layer, settings))
        });
        let Ok(opened) = opened;
        let (mut digests, mut sources, mut disks) = (Vec::new(), Vec::new(), Vec::new());
        let mut failed = Vec::new();
        for (layer, opened) in layers.into_iter().zip(opened) {
            let disk = OpenedDisk::of(&layer);
            match opened {
                Ok((its_digests, source)) => {
                    digests.push(its_digests);
                    sources.push(source);
                    disks.push(disk);
                    held.layers.push(layer);
                }
                Err(error) => failed.push((disk, error)),
            }
        }
        (Self { repository, held, disks, sources, digests, settings, watch }, failed)
    }
}

/// Opens a disk, to read it.
fn open(
    repository: &Repository,
    layer: &HeldLayer,
    settings: &ReadSettings,
) -> Result<(ChainDigests, KeptExport), ReadError> {
    repository.all_as_long(layer)?;
    let digests =
        ChainDigests::open(layer, repository).map_err(|error| no_digests(layer, error))?;
    let disk = || layer.layer().disk_name.clone();
    let served = serve_to_read(layer, settings)
        .map_err(|error| ReadError::Export { disk: disk(), error: Box::new(error) })?;
    Ok((digests, served))
}

impl OpenedHere<'_> {
    /// No backup is to stand on layers that differ.
    fn keep_differences(&self, held: &HeldLayer, differences: &BTreeMap<usize, AreaSet>) {
        let marks: Vec<(LayerId, String)> = differences
            .iter()
            .map(|(damaged, ranges)| (held.chain.get(*damaged).unwrap_or(held.layer()), ranges))
            // What is known already is as bad.
            .filter(|(layer, _)| layer.damage.is_none())
            .map(|(layer, ranges)| {
                (layer.facts.id, DamageKind::Content(ranges.clone()).to_string())
            })
            .collect();
        keep(self.repository, &marks, &[], self.watch);
    }
}

impl OpenedDisk {
    /// A disk of a point that is here.
    pub(super) fn of(held: &HeldLayer) -> Self {
        let facts = &held.layer().facts;
        let name = held.layer().disk_name.clone();
        Self { name, layer: facts.id, size_bytes: facts.size_bytes }
    }
}

impl Opened for OpenedHere<'_> {
    fn point(&self) -> PointId {
        self.held.point.id
    }

    fn vm(&self) -> &VmName {
        &self.held.point.vm
    }

    fn disks(&self) -> &[OpenedDisk] {
        &self.disks
    }

    fn endpoint(&self, disk: usize) -> Endpoint {
        self.sources[disk].endpoint()
    }

    fn algorithm(&self, disk: usize) -> Option<DigestAlgorithm> {
        self.digests[disk].algorithm()
    }

    fn keep(&mut self, reviver: &mut Reviver<'_>) -> Result<(), ReadError> {
        let mut disks = self.disks.iter().zip(&mut self.sources);
        disks.try_for_each(|(disk, served)| reviver.revive(&disk.name, served))
    }

    fn said(&self, disk: usize) -> String {
        self.sources[disk].said()
    }

    fn compare(&self, disk: usize, read: &Manifest) -> Result<(), ReadError> {
        let layer = &self.held.layers[disk];
        let found = self.digests[disk].differences(read)?;
        let by_digests = found.clone();
        let differences = match by_layer(layer, found, &self.settings.image_tool) {
            Ok(differences) => {
                self.keep_differences(layer, &differences);
                differences
            }
            // It differs, whoever is to blame; one that is right is not to be marked.
            Err(error) => {
                let disk = &self.disks[disk].name;
                self.watch.note(&format!(
                    "disk {disk}: which layer is damaged cannot be told, so none is marked: {error}; \
                     verify it"
                ));
                by_digests
            }
        };
        let first = differences.iter().filter_map(|(damaged, ranges)| {
            let first = ranges.as_slice().first()?;
            Some((*first, *damaged))
        });
        let Some((first, damaged)) = first.min_by_key(|(area, _)| area.start) else {
            return Ok(());
        };
        let damaged = layer.chain.get(damaged).unwrap_or(layer.layer());
        Err(ReadError::Differs {
            disk: self.disks[disk].name.clone(),
            at: Some((damaged.facts.id, damaged.point)),
            first,
            bytes: differences.values().map(AreaSet::total).sum(),
        })
    }
}

/// The error, with the disk that cannot be vouched for.
pub(crate) fn no_digests(held: &HeldLayer, error: RepositoryError) -> ReadError {
    match error {
        RepositoryError::NoDigests { layer, why, touched } => ReadError::Digests {
            disk: held.layer().disk_name.clone(),
            layer: layer.facts.id,
            point: layer.point,
            why,
            touched,
        },
        other => other.into(),
    }
}
