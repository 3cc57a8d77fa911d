//! Cleaning up after processes that ended before their jobs.

use std::fs;
use std::io;
use std::path::Path;

use super::Repository;
use super::error::RepositoryError;
use super::folder::{self, HeldFolder};
use super::work::UNPUBLISHED;
use crate::catalog::{
    CatalogError, JobFilter, JobId, JobState, Jobs, Leases, PointId, Points, RelativePath,
};

/// What was cleaned up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanedUp {
    /// Jobs whose process had ended: they have failed.
    pub jobs: Vec<JobId>,
    /// Folders that they had left.
    pub folders: usize,
    /// Files of deleted points that were still there.
    pub files: usize,
}

impl Repository {
    /// Cleans up after jobs whose process has ended: their folders go, they have failed, and hold
    /// nothing any more. What is published is not touched, and neither is what a living process
    /// works on, or what nobody here has made.
    ///
    /// # Errors
    /// When the repository cannot be written.
    pub fn clean_up(&self) -> Result<CleanedUp, RepositoryError> {
        let exclusively = self.exclusively()?;
        self.clean_up_under(&exclusively)
    }

    /// The same, under the lock that keeps jobs and points from being made meanwhile.
    pub(super) fn clean_up_under(&self, _lock: &HeldFolder) -> Result<CleanedUp, RepositoryError> {
        let mut done = CleanedUp::default();
        let alive = self.remove_dead_work(&mut done)?;
        self.settle_points(&mut done)?;
        self.end_dead_jobs(&alive, &mut done)?;
        self.remove_leftovers(&mut done)?;
        Ok(done)
    }

    /// Removes the folders of dead jobs; gives back the jobs that live.
    fn remove_dead_work(&self, done: &mut CleanedUp) -> Result<Vec<JobId>, RepositoryError> {
        let mut alive = Vec::new();
        let work = self.work_folder();
        for name in folder::names(&work)? {
            let Ok(job) = name.parse::<JobId>() else { continue };
            let path = work.join(&name);
            match HeldFolder::alone(&path)? {
                None => alive.push(job),
                Some(_held) => {
                    folder::remove(&path)?;
                    done.folders += 1;
                }
            }
        }
        Ok(alive)
    }

    /// Removes folders that were to become points and did not; takes the mark off those that did.
    fn settle_points(&self, done: &mut CleanedUp) -> Result<(), RepositoryError> {
        let points = self.points_folder();
        for name in folder::names(&points)? {
            let Ok(point) = name.parse::<PointId>() else { continue };
            let path = points.join(&name);
            let mark = path.join(UNPUBLISHED);
            let marked = mark.try_exists();
            if !marked.map_err(|error| RepositoryError::system(&mark, "finding it", error))? {
                continue;
            }
            // Publishing holds the lock that we have: its owner is not at work, but dead.
            match self.catalog().point(point) {
                Ok(_) => remove_file(&mark)?,
                Err(CatalogError::NoSuchPoint(_)) => {
                    folder::remove(&path)?;
                    done.folders += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn end_dead_jobs(&self, alive: &[JobId], done: &mut CleanedUp) -> Result<(), RepositoryError> {
        use JobState::{Copying, Planning, Publishing, Queued};
        let catalog = self.catalog();
        let states = vec![Queued, Planning, Copying, Publishing];
        for job in catalog.jobs(&JobFilter { states, ..JobFilter::default() })? {
            if alive.contains(&job.id) {
                continue;
            }
            let reason = format!("its process ended while it was {}", job.state);
            catalog.advance(job.id, JobState::Failed, &reason)?;
            done.jobs.push(job.id);
        }
        for lease in catalog.leases()? {
            if !alive.contains(&lease.owner) {
                match catalog.release(lease.id, lease.owner) {
                    // A job that was published gives back the last of what it held by itself.
                    Ok(()) | Err(CatalogError::NoSuchLease(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Removes what deleted points have left.
    pub(super) fn remove_leftovers(&self, done: &mut CleanedUp) -> Result<(), RepositoryError> {
        for path in self.catalog().leftovers()? {
            self.remove_leftover(&path, done)?;
        }
        Ok(())
    }

    fn remove_leftover(
        &self,
        path: &RelativePath,
        done: &mut CleanedUp,
    ) -> Result<(), RepositoryError> {
        let file = path.under(self.root());
        done.files += usize::from(file.exists());
        remove_file(&file)?;
        if let Some(folder) = file.parent() {
            // Others may be left in it, and it may be gone.
            let _ = fs::remove_dir(folder);
        }
        self.catalog().forget_leftover(path)?;
        Ok(())
    }
}

/// Removes a file; one that is gone is no error.
fn remove_file(path: &Path) -> Result<(), RepositoryError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RepositoryError::system(path, "removing it", error))
        }
        _ => Ok(()),
    }
}
