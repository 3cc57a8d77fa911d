//! Points that are being read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Repository;
use super::error::RepositoryError;
use super::folder::HeldFolder;
use crate::catalog::{DiskName, Layer, Point, PointId, Points, RelativePath};

/// A point that cannot be deleted, with all that it stands on, until this is dropped.
#[derive(Debug)]
pub struct HeldPoint {
    /// The point.
    pub point: Point,
    /// Its disks, by their names.
    pub layers: Vec<HeldLayer>,
    _folders: Vec<HeldFolder>,
}

/// A disk of such a point.
#[derive(Clone, Debug)]
pub struct HeldLayer {
    /// Its layer, and those below: the full comes last.
    pub chain: Vec<Layer>,
    /// Its image, which names those below.
    pub image: PathBuf,
}

/// Which images have to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    All,
    Nothing,
}

impl HeldLayer {
    /// The layer itself.
    #[must_use]
    pub fn layer(&self) -> &Layer {
        self.chain.first().expect("a chain has the layer that it was asked for")
    }
}

impl Repository {
    /// Holds a point, to read it.
    ///
    /// # Errors
    /// When there is no such point, or a file that it needs is missing.
    pub fn hold(&self, id: PointId) -> Result<HeldPoint, RepositoryError> {
        self.hold_disks(id, &[])
    }

    /// Holds some disks of a point, to read them; all where none is named. What the others are
    /// like does not matter.
    ///
    /// # Errors
    /// When there is no such point or disk, or an image that these disks need is missing.
    pub fn hold_disks(
        &self,
        id: PointId,
        disks: &[DiskName],
    ) -> Result<HeldPoint, RepositoryError> {
        self.hold_needing(id, disks, Need::All)
    }

    /// The same, to look at the damage: whatever of the files is there.
    ///
    /// # Errors
    /// When there is no such point or disk.
    pub fn hold_as_found(
        &self,
        id: PointId,
        disks: &[DiskName],
    ) -> Result<HeldPoint, RepositoryError> {
        self.hold_needing(id, disks, Need::Nothing)
    }

    fn hold_needing(
        &self,
        id: PointId,
        disks: &[DiskName],
        need: Need,
    ) -> Result<HeldPoint, RepositoryError> {
        // Nobody deletes meanwhile.
        let _exclusively = self.exclusively()?;
        let point = self.catalog().point(id).map_err(|error| self.not_found(error))?;
        let mut folders = BTreeMap::new();
        let mut layers = Vec::new();
        for layer in self.wanted(id, disks)? {
            let held = self.held_layer(&layer, need)?;
            for below in &held.chain {
                self.hold_folder(below, &mut folders, need)?;
            }
            layers.push(held);
        }
        Ok(HeldPoint { point, layers, _folders: folders.into_values().collect() })
    }

    fn wanted(&self, point: PointId, disks: &[DiskName]) -> Result<Vec<Layer>, RepositoryError> {
        let mut layers = self.catalog().layers(point)?;
        let has = |disk: &DiskName| layers.iter().any(|layer| layer.disk_name == *disk);
        if let Some(disk) = disks.iter().find(|disk| !has(disk)) {
            return Err(RepositoryError::NoSuchDisk {
                point,
                disk: disk.clone(),
                has: layers.into_iter().map(|layer| layer.disk_name).collect(),
            });
        }
        layers.retain(|layer| disks.is_empty() || disks.contains(&layer.disk_name));
        Ok(layers)
    }

    fn held_layer(&self, layer: &Layer, need: Need) -> Result<HeldLayer, RepositoryError> {
        let chain = self.catalog().chain(layer.facts.id)?;
        let held = HeldLayer { image: layer.facts.path.under(self.root()), chain };
        if need == Need::All {
            self.all_there(&held)?;
        }
        Ok(held)
    }

    /// Sees whether all images of a chain are there.
    fn all_there(&self, held: &HeldLayer) -> Result<(), RepositoryError> {
        let is_there = |layer: &Layer| layer.facts.path.under(self.root()).is_file();
        held.chain
            .iter()
            .find(|layer| !is_there(layer))
            .map_or(Ok(()), |gone| Err(self.missing(gone)))
    }

    /// Sees whether all images of a chain are there, and as long as they were: qemu-nbd does not
    /// always come to an end with one that was cut.
    pub(crate) fn all_as_long(&self, held: &HeldLayer) -> Result<(), RepositoryError> {
        self.all_there(held)?;
        for layer in &held.chain {
            if let Some(why) = self.wrong_length(layer) {
                return Err(RepositoryError::LayerCut {
                    point: layer.point,
                    path: layer.facts.path.clone(),
                    why,
                    touched: self.catalog().points_on(layer.facts.id)?,
                });
            }
        }
        Ok(())
    }

    fn hold_folder(
        &self,
        layer: &Layer,
        folders: &mut BTreeMap<PointId, HeldFolder>,
        need: Need,
    ) -> Result<(), RepositoryError> {
        if folders.contains_key(&layer.point) {
            return Ok(());
        }
        let path = RelativePath::of_point(layer.point).under(self.root());
        let held = match HeldFolder::shared(&path) {
            Err(RepositoryError::System { .. }) if self.unwritable().is_some() => {
                Some(HeldFolder::not_at_all())
            }
            held => held?,
        };
        match held {
            Some(held) => {
                folders.insert(layer.point, held);
                Ok(())
            }
            None if need == Need::Nothing => Ok(()),
            // Who has it alone is about to delete it, and died in doing so, or it is gone.
            None => Err(self.missing(layer)),
        }
    }

    fn missing(&self, layer: &Layer) -> RepositoryError {
        match self.catalog().points_on(layer.facts.id) {
            Ok(touched) => RepositoryError::LayerMissing {
                point: layer.point,
                layer: layer.facts.id,
                path: layer.facts.path.clone(),
                touched,
            },
            Err(error) => error.into(),
        }
    }
}
