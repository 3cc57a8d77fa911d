//! Taking points out.

use super::Repository;
use super::error::RepositoryError;
use super::folder::HeldFolder;
use super::reconcile::CleanedUp;
use crate::catalog::{PointId, Points, RelativePath};

impl Repository {
    /// Deletes a point with its files.
    ///
    /// # Errors
    /// When somebody reads it, when a layer of another point stands on one of its layers, and when
    /// the repository cannot be written.
    pub fn delete(&self, point: PointId) -> Result<(), RepositoryError> {
        let _exclusively = self.exclusively()?;
        self.catalog().point(point)?;
        let folder = RelativePath::of_point(point).under(self.root());
        let alone = HeldFolder::alone(&folder)?;
        if alone.is_none() && folder.exists() {
            return Err(RepositoryError::InUse { point });
        }
        self.catalog().delete_point(point)?;
        self.remove_leftovers(&mut CleanedUp::default())
    }
}
