//! What points there are, whether their files are there, and what is known of damage. Nothing is
//! opened.

use crate::catalog::{
    CatalogError, Layer, Point, PointFilter, PointId, PointNote, Points, RelativePath, UnixMillis,
    VmName,
};
use crate::repository::{Repository, RepositoryError};

/// A point.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedPoint {
    /// It.
    pub point: Point,
    /// What was noted of it.
    pub notes: Vec<PointNote>,
    /// Its disks, by their names.
    pub disks: Vec<ListedDisk>,
}

/// A disk of a point.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedDisk {
    /// Its layer, and those below: the full comes last.
    pub chain: Vec<Layer>,
    /// Files of the chain, images and manifests, that are not there.
    pub missing: Vec<RelativePath>,
    /// Files of the chain that are there, and not what they should be.
    pub damaged: Vec<DamagedFile>,
}

/// A file that a verification or a restore found damaged, or that has another length than it was published with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedFile {
    /// The image of the layer.
    pub file: RelativePath,
    /// What is wrong, in words.
    pub says: String,
    /// When that was found; its length is seen now.
    pub found: Option<UnixMillis>,
}

impl ListedPoint {
    /// Whether all its files are there, as long as they were, and no verification has found any of
    /// them damaged. What has become of their content since then is another matter.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.disks.iter().all(|disk| disk.missing.is_empty() && disk.damaged.is_empty())
    }
}

impl ListedDisk {
    /// The layer of the point itself.
    #[must_use]
    pub fn layer(&self) -> &Layer {
        self.chain.first().expect("a chain has the layer that it was asked for")
    }

    /// The point of the layer below, if there is one.
    #[must_use]
    pub fn parent(&self) -> Option<PointId> {
        Some(self.chain.get(1)?.point)
    }
}

/// The points of a repository, or of one VM in it, in the order in which they were published.
///
/// # Errors
/// When the catalog cannot be read.
pub fn list_points(
    repository: &Repository,
    vm: Option<VmName>,
) -> Result<Vec<ListedPoint>, RepositoryError> {
    find_points(repository, &PointFilter { vm, ..PointFilter::default() })
}

/// One point.
///
/// # Errors
/// When there is none of this id, or the catalog cannot be read.
pub fn find_point(repository: &Repository, id: PointId) -> Result<ListedPoint, RepositoryError> {
    Ok(listed(repository, repository.catalog().point(id)?)?)
}

/// The points that a filter lets through, in the order in which they were published.
///
/// # Errors
/// When the catalog cannot be read.
pub fn find_points(
    repository: &Repository,
    filter: &PointFilter,
) -> Result<Vec<ListedPoint>, RepositoryError> {
    let catalog = repository.catalog();
    let mut listed = Vec::new();
    for point in catalog.points(filter)? {
        match self::listed(repository, point) {
            Ok(point) => listed.push(point),
            // It was deleted meanwhile.
            Err(CatalogError::NoSuchPoint(_) | CatalogError::NoSuchLayer(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(listed)
}

fn listed(repository: &Repository, point: Point) -> Result<ListedPoint, CatalogError> {
    let notes = repository.catalog().notes(point.id)?;
    Ok(ListedPoint { disks: disks(repository, point.id)?, notes, point })
}

fn disks(repository: &Repository, point: PointId) -> Result<Vec<ListedDisk>, CatalogError> {
    let catalog = repository.catalog();
    let mut disks = Vec::new();
    for layer in catalog.layers(point)? {
        let chain = catalog.chain(layer.facts.id)?;
        let files = chain.iter().flat_map(|layer| {
            let manifest = layer.facts.manifest.as_ref().map(|manifest| &manifest.path);
            [Some(&layer.facts.path), manifest].into_iter().flatten()
        });
        let missing = files.filter(|file| !file.under(repository.root()).is_file());
        let missing: Vec<RelativePath> = missing.cloned().collect();
        let damaged = chain.iter().filter(|layer| !missing.contains(&layer.facts.path));
        let damaged = damaged.filter_map(|layer| damaged_file(repository, layer)).collect();
        disks.push(ListedDisk { chain, missing, damaged });
    }
    Ok(disks)
}

fn damaged_file(repository: &Repository, layer: &Layer) -> Option<DamagedFile> {
    let (says, found) = match &layer.damage {
        Some(damage) => (damage.says.clone(), Some(damage.found)),
        None => (repository.wrong_length(layer)?, None),
    };
    Some(DamagedFile { file: layer.facts.path.clone(), says, found })
}
