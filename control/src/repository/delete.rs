//! Taking points out.

use super::Repository;
use super::error::RepositoryError;
use super::folder::HeldFolder;
use super::reconcile::CleanedUp;
use crate::catalog::{CatalogError, PointId, Points, RelativePath, StorageError};

impl Repository {
    /// Deletes a point with its files.
    ///
    /// # Errors
    /// When somebody reads it, when a layer of another point stands on one of its layers, and when
    /// the repository cannot be written.
    pub fn delete(&self, point: PointId) -> Result<(), RepositoryError> {
        let _exclusively = self.exclusively()?;
        let deleted = self.delete_exclusively(point);
        // It may have been given up, by this or before; there is room again if anything was deleted.
        self.keep_reserve();
        deleted
    }

    fn delete_exclusively(&self, point: PointId) -> Result<(), RepositoryError> {
        self.catalog().point(point)?;
        let folder = RelativePath::of_point(point).under(self.root());
        let alone = HeldFolder::alone(&folder)?;
        if alone.is_none() && folder.exists() {
            return Err(RepositoryError::InUse { point });
        }
        match self.catalog().delete_point(point) {
            Err(CatalogError::Storage(StorageError::Full { .. }))
                if Self::give_up_reserve(self.root()) =>
            {
                self.catalog().delete_point(point)?
            }
            deleted => deleted?,
        };
        self.remove_leftovers(&mut CleanedUp::default())
    }
}
