//! A repository: a folder with restore points, and what is on its way to become one.
//!
//! ```text
//!  DIR/catalog.db                        what is published, and the jobs that run without a hub
//!  DIR/catalog.db-reserve                room for a deletion on a full file system
//!  DIR/work/<job>/                       of a running job: images, manifests, sockets of exports
//!           │ unpublished                the mark of a folder whose point is not in the catalog
//!           ▼ renamed as a whole, then one transaction, then the mark goes
//!  DIR/points/<point>/<layer>.qcow2      an image; its parent is ../../points/<point>/<layer>.qcow2
//!                     <layer>.manifest   its digests
//! ```
//!
//! **Who owns a folder** is told by a flock(2) on the folder itself, which ends with the process
//! that has it, however that ends. The owner of a job's folder has it exclusively, and keeps it
//! while the folder becomes that of a point; readers share the folders of the points that they
//! read. Whoever finds a folder with the mark that nobody has may remove it: its job is dead.
//! A folder without the mark that the catalog does not know is never touched. The mark has the name
//! of the VM that is backed up there, and who begins with a VM looks for it in all of them.
//!
//! **What is one step for others** (a job with its folder, publishing, cleaning up) is done under a
//! lock on `DIR/work`, held for a moment only.

mod delete;
mod error;
mod files;
mod folder;
mod hold;
mod manifest;
mod reconcile;
mod reserve;
#[cfg(test)]
mod tests;
mod unmatched;
mod work;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use error::RepositoryError;
pub(crate) use error::{list as point_list, names as disk_names};
pub(crate) use files::checked_file;
pub use hold::{HeldLayer, HeldPoint};
pub use reconcile::CleanedUp;
pub use work::Work;

use self::folder::HeldFolder;
use crate::catalog::{CATALOG_FILE, CatalogError, PointId, SqliteCatalog, StorageError};

/// How long one process waits for the short steps of others.
const LOCK_DEADLINE: Duration = Duration::from_secs(60);
/// Folders of a repository hold what is on somebody's disks.
const FOLDER_MODE: u32 = 0o700;
/// Folder of the jobs that run.
const WORK: &str = "work";
/// Folder of the points.
const POINTS: &str = "points";
/// Made by mkfs in the root of a file system, which may well be a repository.
const LOST_AND_FOUND: &str = "lost+found";

/// An open repository. Cheap to clone; to be used from any thread. Calls block.
#[derive(Clone, Debug)]
pub struct Repository {
    root: Arc<Path>,
    catalog: Arc<SqliteCatalog>,
}

/// No other hub works in the repository while this is held.
#[derive(Debug)]
pub struct HubLock(
    #[expect(dead_code, reason = "it is held, and that is all that it is for")] HeldFolder,
);

/// No other batch works in the repository while this is held.
#[derive(Debug)]
pub struct BatchLock(
    #[expect(dead_code, reason = "it is held, and that is all that it is for")] HeldFolder,
);

impl Repository {
    /// Opens the repository at `root`.
    ///
    /// # Errors
    /// When there is none, or it cannot be had.
    pub fn open(root: &Path) -> Result<Self, RepositoryError> {
        Self::open_by(root, SqliteCatalog::open)
    }

    /// The same to read points, also where nothing can be written: on a file system that is
    /// read-only or full, or as a user who may only read. [`unwritable`](Self::unwritable) says so
    /// then, and nobody is kept from deleting a point that is read where locks cannot be had.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_to_read(root: &Path) -> Result<Self, RepositoryError> {
        Self::open_by(root, SqliteCatalog::open_to_read)
    }

    /// The same to delete points, also where nothing is free: the reserve is given up then.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_to_delete(root: &Path) -> Result<Self, RepositoryError> {
        match Self::open(root) {
            Err(RepositoryError::Catalog(CatalogError::Storage(StorageError::Full { .. })))
                if Self::give_up_reserve(&absolute(root)?) =>
            {
                Self::open(root)
            }
            opened => opened,
        }
    }

    fn open_by(
        root: &Path,
        open: impl Fn(&Path) -> Result<SqliteCatalog, StorageError>,
    ) -> Result<Self, RepositoryError> {
        let root = absolute(root)?;
        let catalog = root.join(CATALOG_FILE);
        match fs::metadata(&catalog) {
            Ok(data) if data.len() > 0 => Self::with(root, open(&catalog)?),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(RepositoryError::system(&catalog, "opening it", error))
            }
            _ if has_points(&root)? => Err(RepositoryError::CatalogLost { root }),
            Ok(_) => Self::with(root, open(&catalog)?),
            Err(_) => Err(RepositoryError::Missing { root }),
        }
    }

    /// Why nothing in it can be written, if that is so: it was opened to be read.
    #[must_use]
    pub fn unwritable(&self) -> Option<&StorageError> {
        self.catalog.unwritable()
    }

    /// The same; where nothing is, or an empty folder, it makes a repository.
    ///
    /// # Errors
    /// When it cannot be had or made, or the folder holds something else.
    pub fn open_or_create(root: &Path) -> Result<Self, RepositoryError> {
        let root = absolute(root)?;
        make_folder(&root)?;
        let catalog = root.join(CATALOG_FILE);
        let known = catalog.try_exists();
        let known =
            known.map_err(|error| RepositoryError::system(&catalog, "finding it", error))?;
        if !known && let Some(what) = first_stranger(&root)? {
            return Err(RepositoryError::NotEmpty { root, what });
        }
        if is_empty(&catalog) && has_points(&root)? {
            return Err(RepositoryError::CatalogLost { root });
        }
        Self::with(root, SqliteCatalog::open_or_create(&catalog)?)
    }

    fn with(root: PathBuf, catalog: SqliteCatalog) -> Result<Self, RepositoryError> {
        if catalog.unwritable().is_some() {
            return Ok(Self { root: root.into(), catalog: Arc::new(catalog) });
        }
        for folder in [WORK, POINTS] {
            make_folder(&root.join(folder))?;
        }
        let file_system = |folder: &str| fs::metadata(root.join(folder)).map(|data| data.dev());
        let apart = file_system(WORK).and_then(|work| Ok(work != file_system(POINTS)?));
        if apart.map_err(|error| RepositoryError::system(&root, "looking at its folders", error))? {
            return Err(RepositoryError::Apart { root });
        }
        Ok(Self { root: root.into(), catalog: Arc::new(catalog) })
    }

    /// Its folder, absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this is the folder of the other one, by whichever path.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let identity = |root: &Path| fs::metadata(root).map(|data| (data.dev(), data.ino())).ok();
        identity(&self.root).is_some_and(|ours| identity(&other.root) == Some(ours))
    }

    /// Its catalog.
    #[must_use]
    pub fn catalog(&self) -> &SqliteCatalog {
        &self.catalog
    }

    pub(crate) fn catalog_shared(&self) -> Arc<SqliteCatalog> {
        Arc::clone(&self.catalog)
    }

    fn work_folder(&self) -> PathBuf {
        self.root.join(WORK)
    }

    fn points_folder(&self) -> PathBuf {
        self.root.join(POINTS)
    }

    /// Keeps other hubs out until this is dropped. Commands without a hub are let in.
    ///
    /// # Errors
    /// [`RepositoryError::OtherHub`].
    pub fn lock_for_hub(&self) -> Result<HubLock, RepositoryError> {
        // Nobody else locks that folder itself.
        let held = HeldFolder::alone(&self.points_folder())?;
        held.map(HubLock).ok_or_else(|| RepositoryError::OtherHub { root: self.root.to_path_buf() })
    }

    /// Keeps other batches out until this is dropped; the same by another path is another one.
    /// Other commands are let in.
    ///
    /// # Errors
    /// [`RepositoryError::OtherBatch`].
    pub fn lock_for_batch(&self) -> Result<BatchLock, RepositoryError> {
        // Nobody else locks that folder itself.
        let held = HeldFolder::alone(self.root())?;
        let other = || RepositoryError::OtherBatch { root: self.root.to_path_buf() };
        held.map(BatchLock).ok_or_else(other)
    }

    /// What is done until this is dropped is one step for all others.
    fn exclusively(&self) -> Result<HeldFolder, RepositoryError> {
        match HeldFolder::wait(&self.work_folder(), LOCK_DEADLINE) {
            // There may be no such folder in a copy, or no locks; and nothing is written here.
            Err(RepositoryError::System { .. }) if self.unwritable().is_some() => {
                Ok(HeldFolder::not_at_all())
            }
            held => held,
        }
    }
}

fn absolute(root: &Path) -> Result<PathBuf, RepositoryError> {
    if root.as_os_str().is_empty() {
        return Err(RepositoryError::Nowhere);
    }
    std::path::absolute(root)
        .map_err(|error| RepositoryError::system(root, "finding its folder", error))
}

/// Makes a folder, and the ones above it, where it is not.
fn make_folder(path: &Path) -> Result<(), RepositoryError> {
    if path.is_dir() {
        return Ok(());
    }
    let mut folders = DirBuilder::new();
    folders.recursive(true).mode(FOLDER_MODE);
    folders
        .create(path)
        .and_then(|()| path.parent().map_or(Ok(()), folder::sync))
        .map_err(|error| RepositoryError::system(path, "making the folder", error))
}

/// Whether nothing is in the file, or there is none.
fn is_empty(file: &Path) -> bool {
    fs::metadata(file).map_or(true, |data| data.len() == 0)
}

/// Whether there are folders of points, which a catalog has to know.
fn has_points(root: &Path) -> Result<bool, RepositoryError> {
    let points = root.join(POINTS);
    if !points.is_dir() {
        return Ok(false);
    }
    Ok(folder::names(&points)?.iter().any(|name| name.parse::<PointId>().is_ok()))
}

/// Something in the folder that no new repository has.
fn first_stranger(root: &Path) -> Result<Option<String>, RepositoryError> {
    for name in folder::names(root)? {
        let beginnings = [CATALOG_FILE, WORK, POINTS, LOST_AND_FOUND];
        if !beginnings.iter().any(|ours| name.starts_with(ours)) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}
