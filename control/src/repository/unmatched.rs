//! What is there, beside what the catalog knows.

use std::collections::BTreeSet;

use super::error::RepositoryError;
use super::work::UNPUBLISHED;
use super::{Repository, folder};
use crate::catalog::{CatalogError, PointFilter, PointId, Points, RelativePath};

/// Points of which only one half is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unmatched {
    /// Folders of points that the catalog does not know.
    pub(crate) folders: Vec<PointId>,
    /// Points whose folder is not there.
    pub(crate) points: Vec<PointId>,
}

impl Repository {
    /// Compares the folders of points with the points of the catalog.
    pub(crate) fn unmatched(&self) -> Result<Unmatched, RepositoryError> {
        // Nobody publishes or deletes meanwhile.
        let _exclusively = self.exclusively()?;
        let known = self.catalog().points(&PointFilter::default())?;
        let known: BTreeSet<PointId> = known.into_iter().map(|point| point.id).collect();
        let leftovers = self.catalog().leftovers()?;
        let mut there = BTreeSet::new();
        for name in folder::names(&self.points_folder())? {
            if let Ok(point) = name.parse::<PointId>() {
                there.insert(point);
            }
        }
        let is_left = |point: &PointId| {
            let folder = format!("{}/", RelativePath::of_point(*point));
            // Its publishing was cut off, or its deletion: whoever cleans up next removes it.
            self.is_marked(*point)
                || leftovers.iter().any(|path| path.as_str().starts_with(&folder))
        };
        Ok(Unmatched {
            folders: there.difference(&known).filter(|point| !is_left(point)).copied().collect(),
            points: known.difference(&there).copied().collect(),
        })
    }

    fn is_marked(&self, point: PointId) -> bool {
        RelativePath::of_point(point).under(self.root()).join(UNPUBLISHED).exists()
    }

    /// The error of a point that is not found: it may well be there.
    pub(super) fn not_found(&self, error: CatalogError) -> RepositoryError {
        match error {
            CatalogError::NoSuchPoint(point)
                if RelativePath::of_point(point).under(self.root()).is_dir()
                    && !self.is_marked(point) =>
            {
                RepositoryError::PointUnknown { point }
            }
            other => other.into(),
        }
    }
}
