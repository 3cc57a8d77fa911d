//! Files that have their name only when they are whole.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use super::error::ReadError;

/// Mode of the files: they hold what is on somebody's disk.
const FILE_MODE: u32 = 0o600;

/// `NAME.partial`, which becomes `NAME`, or goes with this value. It is held by a flock(2), so
/// that what a process left that was killed can be told from what another one writes.
#[derive(Debug)]
pub(super) struct PartialFile {
    path: PathBuf,
    partial: PathBuf,
    /// Something at `path` is replaced at the end.
    replaces: bool,
    lock: Option<File>,
}

impl PartialFile {
    /// An empty file beside `path`.
    pub(super) fn create(path: PathBuf, replaces: bool) -> Result<Self, ReadError> {
        let mut partial = path.clone().into_os_string();
        partial.push(".partial");
        let mut file = Self { path, partial: partial.into(), replaces, lock: None };
        file.check_name()?;
        let lock = file.claim()?;
        let emptied = lock.set_len(0);
        file.lock = Some(lock);
        emptied.map_err(|error| ReadError::system(&file.partial, "making the file", error))?;
        Ok(file)
    }

    /// Where the content goes.
    pub(super) fn partial(&self) -> &Path {
        &self.partial
    }

    /// Has `make` put a file of its own in the place of the empty one.
    pub(super) fn make_anew(
        &mut self,
        make: impl FnOnce(&Path) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        fs::remove_file(&self.partial)
            .map_err(|error| ReadError::system(&self.partial, "making it anew", error))?;
        self.lock = None;
        make(&self.partial)?;
        self.lock = Some(self.claim()?);
        Ok(())
    }

    /// Makes it durable and gives it its name.
    pub(super) fn finish(mut self) -> Result<PathBuf, ReadError> {
        let failed = |what| move |path: &Path, error| ReadError::system(path, what, error);
        let file = File::open(&self.partial).and_then(|file| file.sync_all());
        file.map_err(|error| failed("writing it to the disk")(&self.partial, error))?;
        self.rename()?;
        self.lock = None;
        let folder = folder_of(&self.path);
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| failed("writing it to the disk")(folder, error))?;
        Ok(self.path.clone())
    }

    fn rename(&self) -> Result<(), ReadError> {
        let failed = |error: io::Error| ReadError::system(&self.path, "giving it its name", error);
        if self.replaces {
            return fs::rename(&self.partial, &self.path).map_err(failed);
        }
        match renameat_with(CWD, &self.partial, CWD, &self.path, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::EXIST) => Err(ReadError::Exists { path: self.path.clone() }),
            // A file system that cannot do it in one step.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                self.check_name()?;
                fs::rename(&self.partial, &self.path).map_err(failed)
            }
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Sees before all the work whether the name can be given.
    fn check_name(&self) -> Result<(), ReadError> {
        match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(ReadError::system(&self.path, "looking for it", error)),
            Ok(there) if self.replaces && there.is_file() => Ok(()),
            Ok(there) if self.replaces => {
                let what = "replacing it";
                let kind = if there.is_dir() { "a folder" } else { "no regular file" };
                Err(ReadError::system(&self.path, what, io::Error::other(format!("it is {kind}"))))
            }
            Ok(_) => Err(ReadError::Exists { path: self.path.clone() }),
        }
    }

    /// Opens the file, or makes it, and holds it.
    fn claim(&self) -> Result<File, ReadError> {
        let failed = |error| ReadError::system(&self.partial, "making the file", error);
        let busy = || ReadError::Busy { path: self.partial.clone() };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        // What somebody has put there to lead us elsewhere is not followed.
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
        let file = options.open(&self.partial).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(busy()),
            Err(error) => return Err(failed(error.into())),
        }
        // Its last owner may have renamed or removed it meanwhile.
        let mine = file.metadata().map_err(failed)?;
        let same = fs::symlink_metadata(&self.partial)
            .is_ok_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino()));
        if same { Ok(file) } else { Err(busy()) }
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        // Without the lock it is another one's, or has its name.
        if self.lock.is_some() {
            let _ = fs::remove_file(&self.partial);
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_has_its_name_only_when_it_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.raw");
        let file = PartialFile::create(path.clone(), false).unwrap();
        fs::write(file.partial(), "content").unwrap();
        assert_eq!(names(folder.path()), ["root.raw.partial"]);
        assert_eq!(file.finish().unwrap(), path);
        assert_eq!(names(folder.path()), ["root.raw"]);
        assert_eq!(fs::read(&path).unwrap(), b"content");
    }

    #[test]
    fn a_file_that_is_not_finished_goes() {
        let folder = tempfile::tempdir().unwrap();
        drop(PartialFile::create(folder.path().join("root.raw"), false).unwrap());
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn what_is_there_is_replaced_only_at_the_end_and_only_if_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.raw");
        fs::write(&path, "old").unwrap();
        let refused = PartialFile::create(path.clone(), false).unwrap_err();
        assert!(matches!(refused, ReadError::Exists { .. }), "{refused}");
        let file = PartialFile::create(path.clone(), true).unwrap();
        fs::write(file.partial(), "new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        file.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.raw");
        let file = PartialFile::create(path.clone(), false).unwrap();
        fs::write(&path, "somebody's").unwrap();
        let refused = file.finish().unwrap_err();
        assert!(matches!(refused, ReadError::Exists { .. }), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), b"somebody's");
        assert_eq!(names(folder.path()), ["root.raw"]);
    }

    #[test]
    fn what_a_killed_process_left_is_taken_over_and_what_a_living_one_writes_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.raw");
        fs::write(folder.path().join("root.raw.partial"), "left behind").unwrap();
        let file = PartialFile::create(path.clone(), false).unwrap();
        assert_eq!(fs::read(file.partial()).unwrap(), b"");
        let refused = PartialFile::create(path, false).unwrap_err();
        assert!(matches!(refused, ReadError::Busy { .. }), "{refused}");
        assert_eq!(names(folder.path()), ["root.raw.partial"]);
    }
}
