//! Folders for what reading needs meanwhile: sockets, and digests of what is read.
//!
//! ```text
//!  PARENT/blockferry-reading-XXXXXXXX/owner        held by a flock(2), which ends with its process
//!                                     export-*/    sockets
//!                                     digests-*/
//! ```
//!
//! A folder goes with its process. What a killed one leaves is removed by the next that makes one
//! in the same parent, which may well be `/tmp`: so only what has this name and is this user's,
//! and then only what has the mark that nobody holds, or nothing in it at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::error::ReadError;

/// How the names of such folders begin.
const PREFIX: &str = "blockferry-reading-";
/// What follows: letters and digits that no other has.
const RANDOM_CHARS: usize = 8;
/// In the folder; whoever holds it has the folder.
const OWNER: &str = "owner";
/// Whoever can enter it can read the disks.
const FOLDER_MODE: u32 = 0o700;
/// Folders that are made at most until one is had: others who clean up may take one for left over
/// in the moment between its making and its mark.
const ATTEMPTS: u32 = 16;

/// A folder that goes with this value, or is removed by the next one after a kill.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    _owner: File,
}

impl Scratch {
    /// Cleans up after the dead in `parent`, then makes a folder there.
    pub(crate) fn make(parent: &Path) -> Result<Self, ReadError> {
        clean_up(parent);
        let failed = |error| ReadError::system(parent, "making a folder in it", error);
        for _ in 0..ATTEMPTS {
            let folder = tempfile::Builder::new()
                .prefix(PREFIX)
                .rand_bytes(RANDOM_CHARS)
                .permissions(Permissions::from_mode(FOLDER_MODE))
                .tempdir_in(parent)
                .map_err(failed)?;
            if let Some(owner) = hold(folder.path(), true).map_err(failed)? {
                return Ok(Self { path: folder.keep(), _owner: owner });
            }
        }
        Err(failed(io::Error::other("others remove it again and again")))
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is left to the next one.
        let _ = remove(&self.path);
    }
}

/// Removes the folders in `parent` whose processes have ended. What cannot be looked at or removed
/// stays: it may be somebody else's, and hinders nobody.
pub(super) fn clean_up(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_str().is_some_and(is_name)
            && fs::symlink_metadata(&path).is_ok_and(|data| {
                data.is_dir() && data.uid() == rustix::process::geteuid().as_raw()
            });
        if !ours {
            continue;
        }
        let _ = match hold(&path, false) {
            Ok(Some(_owner)) => remove(&path),
            // Its maker was killed before it had a mark, or is about to make one, and then makes
            // another folder. One that has anything in it is not removed by this.
            _ if !path.join(OWNER).exists() => fs::remove_dir(&path),
            _ => Ok(()),
        };
    }
}

fn is_name(name: &str) -> bool {
    let random = name.strip_prefix(PREFIX);
    random.is_some_and(|random| {
        random.len() == RANDOM_CHARS && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Takes the mark of a folder; nothing if somebody has it, or it is not there (any more).
fn hold(folder: &Path, new: bool) -> io::Result<Option<File>> {
    let mark = folder.join(OWNER);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(new).mode(0o600);
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let owner = match options.open(&mark) {
        Ok(owner) => owner,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match flock(&owner, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    // Its last owner may have removed it meanwhile.
    let mine = owner.metadata()?;
    let same = fs::symlink_metadata(&mark)
        .is_ok_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino()));
    Ok(same.then_some(owner))
}

/// Removes a folder that is held. The mark goes last, so that what a kill leaves of it still has
/// one, or is empty.
fn remove(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() == OWNER {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_file(folder.join(OWNER))?;
    fs::remove_dir(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_folder_goes_with_its_owner_and_all_that_is_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::make(parent.path()).unwrap();
        fs::create_dir(scratch.path().join("export-1")).unwrap();
        fs::write(scratch.path().join("export-1/nbd"), "x").unwrap();
        let mode = fs::metadata(scratch.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
        drop(scratch);
        assert!(names(parent.path()).is_empty());
    }

    #[test]
    fn what_the_dead_left_goes_and_what_the_living_have_stays() {
        let parent = tempfile::tempdir().unwrap();
        let living = Scratch::make(parent.path()).unwrap();
        // As a kill leaves them: with a mark that nobody holds, and before there was one.
        let dead = parent.path().join(format!("{PREFIX}abcdef01"));
        fs::create_dir_all(dead.join("digests-1")).unwrap();
        fs::write(dead.join(OWNER), "").unwrap();
        fs::write(dead.join("digests-1/0.manifest"), "x").unwrap();
        fs::create_dir(parent.path().join(format!("{PREFIX}abcdef02"))).unwrap();
        let next = Scratch::make(parent.path()).unwrap();
        let name =
            |scratch: &Scratch| scratch.path().file_name().unwrap().to_str().unwrap().to_owned();
        let mut expected = [name(&living), name(&next)];
        expected.sort_unstable();
        assert_eq!(names(parent.path()), expected);
    }

    #[test]
    fn what_others_have_made_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join(OWNER), "somebody's").unwrap();
        // Without a mark, with another name, and a link that leads elsewhere.
        let unmarked = parent.path().join(format!("{PREFIX}abcdef01"));
        fs::create_dir(&unmarked).unwrap();
        fs::write(unmarked.join("thesis"), "").unwrap();
        for name in ["blockferry-reading-notes", "blockferry-src", "blockferry-reading-"] {
            fs::create_dir(parent.path().join(name)).unwrap();
            fs::write(parent.path().join(name).join(OWNER), "").unwrap();
        }
        let link = parent.path().join(format!("{PREFIX}abcdef03"));
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        let before = names(parent.path());
        clean_up(parent.path());
        assert_eq!(names(parent.path()), before);
        assert_eq!(names(elsewhere.path()), [OWNER]);
    }

    #[test]
    fn many_who_make_and_clean_up_at_once_take_nothing_from_each_other() {
        let parent = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for round in 0..50 {
                        let scratch = Scratch::make(parent.path()).unwrap();
                        let mine = scratch.path().join("mine");
                        fs::write(&mine, [round]).unwrap();
                        clean_up(parent.path());
                        assert_eq!(fs::read(&mine).unwrap(), [round]);
                    }
                });
            }
        });
        assert!(names(parent.path()).is_empty());
    }
}
