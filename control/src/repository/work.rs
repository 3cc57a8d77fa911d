//! The folder of a job, from its making to its point.

use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::error::RepositoryError;
use super::folder::{self, HeldFolder};
use super::{FOLDER_MODE, Repository};
use crate::catalog::{
    BackupMode, CatalogError, Job, JobId, JobKind, JobState, Jobs, LayerId, NewJob, NewPoint,
    Point, PointId, Points, RelativePath, VmName,
};

/// In a folder whose point is not in the catalog, or was not when this was last looked at. It has the
/// name of the VM that is backed up there: nothing in it is for others than a backup.
pub(super) const UNPUBLISHED: &str = "unpublished";

/// What a job makes before it is published, with its folder, which goes with this value unless it
/// was published. A job has to be over before this is dropped: one that is not, and has no folder,
/// is taken for one of the dead.
#[derive(Debug)]
pub struct Work {
    repository: Repository,
    job: JobId,
    path: PathBuf,
    /// `None` once it is published.
    held: Option<HeldFolder>,
}

impl Repository {
    /// Cleans up after the dead, then takes in a job with its folder.
    ///
    /// # Errors
    /// [`RepositoryError::AtWork`], and when the repository cannot be written.
    pub fn begin(&self, vm: VmName, mode: BackupMode) -> Result<(Job, Work), RepositoryError> {
        let exclusively = self.exclusively()?;
        self.clean_up_under(&exclusively)?;
        self.claim(&vm)?;
        let owner = Some(vm.clone());
        let job = self
            .catalog
            .add_job(NewJob { kind: JobKind::Backup, vm, mode, key: None, asked: None })?
            .into_job();
        match self.make_work(job.id, owner.as_ref()) {
            Ok(work) => Ok((job, work)),
            Err(error) => {
                // The error that is told is the one that led here; without its folder the job is
                // one of the dead for whoever comes next.
                let _ = self.catalog.advance(job.id, JobState::Failed, &error.to_string());
                Err(error)
            }
        }
    }

    /// Cleans up after the dead, then makes the folder of a job that another catalog keeps: the
    /// backup of a VM, where one is named.
    ///
    /// # Errors
    /// [`RepositoryError::AtWork`], and when the repository cannot be written.
    pub fn begin_for(&self, job: JobId, vm: Option<&VmName>) -> Result<Work, RepositoryError> {
        let exclusively = self.exclusively()?;
        self.clean_up_under(&exclusively)?;
        if let Some(vm) = vm {
            self.claim(vm)?;
        }
        self.make_work(job, vm)
    }

    /// One backup of a VM at a time, whoever makes it, and whichever catalog has its job: the second
    /// would stand on the same layers.
    fn claim(&self, vm: &VmName) -> Result<(), RepositoryError> {
        let work = self.work_folder();
        for name in folder::names(&work)? {
            let Ok(job) = name.parse::<JobId>() else { continue };
            let mark = work.join(&name).join(UNPUBLISHED);
            // The dead are gone. Who ends now takes its folder with it, and has no VM any more.
            if fs::read_to_string(mark).is_ok_and(|owner| owner == vm.as_str()) {
                return Err(RepositoryError::AtWork { vm: vm.clone(), job });
            }
        }
        Ok(())
    }

    fn make_work(&self, job: JobId, vm: Option<&VmName>) -> Result<Work, RepositoryError> {
        let path = RelativePath::of_work(job).under(self.root());
        let failed = |error| RepositoryError::system(&path, "making the folder of a job", error);
        DirBuilder::new().mode(FOLDER_MODE).create(&path).map_err(failed)?;
        self.keep_reserve();
        let held = HeldFolder::alone(&path)?;
        let mark = File::create_new(path.join(UNPUBLISHED)).and_then(|mut mark| {
            mark.write_all(vm.map_or("", VmName::as_str).as_bytes())?;
            mark.sync_all()
        });
        mark.map_err(failed)?;
        folder::sync(&path).and_then(|()| folder::sync(&self.work_folder())).map_err(failed)?;
        Ok(Work { repository: self.clone(), job, path, held })
    }
}

impl Work {
    /// The job that it belongs to.
    #[must_use]
    pub fn job(&self) -> JobId {
        self.job
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the image of a layer is made.
    #[must_use]
    pub fn image(&self, layer: LayerId) -> PathBuf {
        self.path.join(format!("{layer}.qcow2"))
    }

    /// Where the manifest of a layer is made.
    #[must_use]
    pub fn manifest(&self, layer: LayerId) -> PathBuf {
        self.path.join(format!("{layer}.manifest"))
    }

    /// Where the digests of what a layer stands on are put together.
    #[must_use]
    pub fn base(&self, layer: LayerId) -> PathBuf {
        self.path.join(format!("{layer}.base"))
    }

    /// Publishes the point: gives the folder its name, then enters the point into the catalog.
    /// Images and manifests have to be complete and durable, and nothing else may be left in the
    /// folder.
    ///
    /// # Errors
    /// When it cannot be done: nothing is published then, and the folder goes with this value.
    pub fn publish(&mut self, point: NewPoint) -> Result<Point, RepositoryError> {
        let id = point.id;
        let repository = self.repository.clone();
        let _exclusively = repository.exclusively()?;
        self.become_point(id)?;
        let published = match repository.catalog.publish(point) {
            Ok(published) => published,
            Err(error) => {
                match repository.catalog.point(id) {
                    Err(CatalogError::NoSuchPoint(_)) => self.become_work_again(),
                    // It may be published: whoever looks next will know.
                    _ => self.held = None,
                }
                return Err(error.into());
            }
        };
        self.held = None;
        // The point stands. If the mark cannot go now, the next one who cleans up takes it away.
        let _ = fs::remove_file(self.path.join(UNPUBLISHED));
        Ok(published)
    }

    /// Removes what was made, for there will be no point, gives the VM back, and leaves the folder:
    /// the job lives until it has noted why it ends, and that may need the room.
    pub(crate) fn discard(&self) {
        for name in folder::names(&self.path).unwrap_or_default() {
            let path = self.path.join(&name);
            // What cannot be removed now goes with the folder.
            let _ = match name.as_str() {
                UNPUBLISHED => File::options().write(true).truncate(true).open(&path).map(drop),
                _ => fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)),
            };
        }
    }

    /// Others tell by the folder that the job lives, until it has noted why it ends.
    fn become_work_again(&mut self) {
        let to = RelativePath::of_work(self.job).under(self.repository.root());
        // Where it is now it is found by its mark.
        if fs::rename(&self.path, &to).is_ok() {
            self.path = to;
        }
    }

    fn become_point(&mut self, point: PointId) -> Result<(), RepositoryError> {
        let to = RelativePath::of_point(point).under(self.repository.root());
        let failed = |path: &Path, error| RepositoryError::system(path, "publishing it", error);
        folder::sync(&self.path).map_err(|error| failed(&self.path, error))?;
        fs::rename(&self.path, &to).map_err(|error| failed(&self.path, error))?;
        self.path = to;
        for folder in [self.repository.points_folder(), self.repository.work_folder()] {
            folder::sync(&folder).map_err(|error| failed(&folder, error))?;
        }
        Ok(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.held.is_some() {
            // What cannot be removed now is removed by the next one who cleans up.
            let _ = folder::remove(&self.path);
        }
    }
}
