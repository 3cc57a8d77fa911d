//! Files that have their name only when they are whole.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use super::error::ReadError;

/// Mode of the files: they hold what is on somebody's disk.
const FILE_MODE: u32 = 0o600;

/// `NAME.partial`, which becomes `NAME`, or goes with this value. It is held by a flock(2), so
/// that what a process left that was killed can be told from what another one writes. What gets the
/// name is the file that was written, and nobody else has it.
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
        // One that was left may have been open to others. Not all file systems have permissions.
        let _ = lock.set_permissions(Permissions::from_mode(FILE_MODE));
        let emptied = lock.set_len(0);
        file.lock = Some(lock);
        emptied.map_err(|error| ReadError::system(&file.partial, "making the file", error))?;
        Ok(file)
    }

    /// Where the content goes.
    pub(super) fn partial(&self) -> &Path {
        &self.partial
    }

    /// The same, by the descriptor that is held: whatever somebody puts in its place, or has there
    /// lead elsewhere, is not written.
    pub(super) fn held(&self) -> PathBuf {
        let held = self.lock.as_ref().map(|lock| format!("/proc/self/fd/{}", lock.as_raw_fd()));
        let held = held.map(PathBuf::from).filter(|path| path.exists());
        held.unwrap_or_else(|| self.partial.clone())
    }

    /// Has `make` put a file of its own in the place of the empty one.
    pub(super) fn make_anew(
        &mut self,
        make: impl FnOnce(&Path) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        if !self.lock.as_ref().is_some_and(|lock| is_at(lock, &self.partial)) {
            return Err(ReadError::Swapped { path: self.partial.clone() });
        }
        fs::remove_file(&self.partial)
            .map_err(|error| ReadError::system(&self.partial, "making it anew", error))?;
        self.lock = None;
        make(&self.partial)?;
        self.lock = Some(self.claim_made()?);
        Ok(())
    }

    /// Makes it durable and gives it its name.
    pub(super) fn finish(mut self) -> Result<PathBuf, ReadError> {
        let failed = |what| move |path: &Path, error| ReadError::system(path, what, error);
        let lock = self.lock.take().expect("it is held until it has its name");
        // Before anything is given a name that says that it is right.
        if !is_at(&lock, &self.partial) {
            return Err(ReadError::Swapped { path: self.partial.clone() });
        }
        lock.sync_all().map_err(|error| failed("writing it to the disk")(&self.partial, error))?;
        if let Err(error) = self.rename() {
            self.lock = Some(lock);
            return Err(error);
        }
        // Whoever may write the folder may have been quick enough.
        if !is_at(&lock, &self.path) {
            return Err(ReadError::Swapped { path: self.path.clone() });
        }
        drop(lock);
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

    /// Makes the file, or opens the one that is there, and holds it.
    fn claim(&self) -> Result<File, ReadError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(FILE_MODE);
        // What somebody has put there to lead us elsewhere is not followed.
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
        // A file system may give what we make to somebody else: NFS gives nobody what root makes.
        let (file, owner_matters) = match options.clone().create_new(true).open(&self.partial) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Opening a pipe or a device may do something already.
                let there = fs::symlink_metadata(&self.partial);
                self.check_ours(&there.map_err(|error| self.not_made(error))?, true)?;
                (options.open(&self.partial), true)
            }
            made => (made, false),
        };
        self.hold(file.map_err(|error| self.not_made(error))?, owner_matters)
    }

    /// Holds the file that a program has just made at our request.
    fn claim_made(&self) -> Result<File, ReadError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
        let file = options.open(&self.partial).map_err(|error| self.not_made(error))?;
        self.hold(file, false)
    }

    fn hold(&self, file: File, owner_matters: bool) -> Result<File, ReadError> {
        let busy = || ReadError::Busy { path: self.partial.clone() };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(busy()),
            Err(error) => return Err(self.not_made(error.into())),
        }
        let mine = file.metadata().map_err(|error| self.not_made(error))?;
        self.check_ours(&mine, owner_matters)?;
        // Its last owner may have renamed or removed it meanwhile.
        if is_at(&file, &self.partial) { Ok(file) } else { Err(busy()) }
    }

    fn not_made(&self, error: io::Error) -> ReadError {
        ReadError::system(&self.partial, "making the file", error)
    }

    /// What is written into it is seen by whoever else has it: so it is this user's, and has no
    /// other name.
    fn check_ours(&self, there: &Metadata, owner_matters: bool) -> Result<(), ReadError> {
        let stranger = |why| Err(ReadError::NotOurs { path: self.partial.clone(), why });
        if !there.is_file() {
            return stranger("it is no regular file");
        }
        if owner_matters && there.uid() != rustix::process::geteuid().as_raw() {
            return stranger("it belongs to another user");
        }
        if there.nlink() > 1 {
            return stranger("it has another name too (a hard link)");
        }
        Ok(())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        // Without the lock it is another one's, or has its name; and somebody may have put another
        // one in its place.
        if self.lock.as_ref().is_some_and(|lock| is_at(lock, &self.partial)) {
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Whether a path leads to the file that is open.
fn is_at(file: &File, path: &Path) -> bool {
    let mine = file.metadata();
    let there = fs::symlink_metadata(path);
    mine.is_ok_and(|mine| {
        there.is_ok_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino()))
    })
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

    #[test]
    fn a_file_that_somebody_else_has_too_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let partial = folder.path().join("root.raw.partial");
        let refused = |why: &str| {
            let error = PartialFile::create(folder.path().join("root.raw"), false).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        };
        let precious = folder.path().join("precious");
        fs::write(&precious, "content").unwrap();
        fs::hard_link(&precious, &partial).unwrap();
        refused("another name");
        fs::remove_file(&partial).unwrap();
        std::os::unix::fs::symlink(&precious, &partial).unwrap();
        refused("no regular file");
        fs::remove_file(&partial).unwrap();
        fs::create_dir(&partial).unwrap();
        refused("no regular file");
        assert_eq!(fs::read(&precious).unwrap(), b"content");
    }

    #[test]
    fn a_file_that_was_left_open_to_others_is_closed_to_them() {
        let folder = tempfile::tempdir().unwrap();
        let partial = folder.path().join("root.raw.partial");
        fs::write(&partial, "left behind").unwrap();
        fs::set_permissions(&partial, Permissions::from_mode(0o666)).unwrap();
        let path = PartialFile::create(folder.path().join("root.raw"), false).unwrap();
        let path = path.finish().unwrap();
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, FILE_MODE);
    }

    #[test]
    fn a_file_that_is_swapped_meanwhile_does_not_get_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = PartialFile::create(folder.path().join("root.raw"), false).unwrap();
        let partial = file.partial().to_owned();
        fs::rename(&partial, folder.path().join("away")).unwrap();
        fs::write(&partial, "evil").unwrap();
        let refused = file.finish().unwrap_err();
        assert!(matches!(refused, ReadError::Swapped { .. }), "{refused}");
        assert!(!folder.path().join("root.raw").exists());
        assert_eq!(fs::read(&partial).unwrap(), b"evil", "what is not ours is left alone");
    }

    #[test]
    fn a_file_of_another_user_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let partial = folder.path().join("root.raw.partial");
        fs::write(&partial, "").unwrap();
        const NOBODY: u32 = 65_534;
        if std::os::unix::fs::chown(&partial, Some(NOBODY), None).is_err() {
            eprintln!("skipped: only root gives files away");
            return;
        }
        fs::set_permissions(&partial, Permissions::from_mode(0o666)).unwrap();
        let error = PartialFile::create(folder.path().join("root.raw"), false).unwrap_err();
        assert!(error.to_string().contains("another user"), "{error}");
    }
}
