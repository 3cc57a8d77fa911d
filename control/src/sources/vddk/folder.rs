//! The private folder of one nbdkit.
//!
//! ```text
//!  RUNTIME/blockferry-vddk-XXXXXXXX/      held by a flock(2) on it, which ends with its maker
//!                                  nbd    the socket
//!                                  pid    of nbdkit, noted before it gets the password
//! ```
//!
//! A folder goes with the value. What a killed maker leaves is removed by the next that makes one
//! in the same place, which may be `/tmp`: so only what has this name and is this user's, and only
//! these two files of it. An nbdkit that did not hear of its maker's death, for VMware's library may
//! hold it up, is killed then; it is known by having the folder in its arguments.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use rustix::time::Timespec;

use super::error::SourceError;

/// How the names of such folders begin.
const PREFIX: &str = "blockferry-vddk-";
/// What follows: letters and digits that no other has.
const RANDOM_CHARS: usize = 8;
/// Whoever can enter it can read the disk.
const MODE: u32 = 0o700;
const SOCKET: &str = "nbd";
const PID: &str = "pid";
/// Bytes of a socket's path, for the kernel: `sun_path` less its NUL.
const MAX_SOCKET_PATH_BYTES: usize = 107;
/// Folders that are made at most until one is had: others who clean up may take one for left over
/// in the moment before it is held.
const ATTEMPTS: u32 = 16;
/// How long the kernel may take to end a process that was left over.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// A folder that goes with this value, or is removed by a later one after a kill.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _held: File,
}

impl Folder {
    /// Cleans up after the dead in `runtime`, which is made if it is not there, then makes a folder
    /// in it.
    pub(super) fn make(runtime: &Path) -> Result<Self, SourceError> {
        let failed = |error| SourceError::Folder { path: runtime.to_owned(), error };
        let runtime = &fitting(runtime)?;
        DirBuilder::new().recursive(true).mode(MODE).create(runtime).map_err(failed)?;
        clean_up(runtime);
        for _ in 0..ATTEMPTS {
            let folder = tempfile::Builder::new()
                .prefix(PREFIX)
                .rand_bytes(RANDOM_CHARS)
                .permissions(Permissions::from_mode(MODE))
                .tempdir_in(runtime)
                .map_err(failed)?;
            if let Some(held) = hold(folder.path()).map_err(failed)? {
                return Ok(Self { path: folder.keep(), _held: held });
            }
        }
        Err(failed(io::Error::other("others remove it again and again")))
    }

    /// Where nbdkit is to listen.
    pub(super) fn socket(&self) -> PathBuf {
        self.path.join(SOCKET)
    }

    /// Notes who is to listen there.
    pub(super) fn note(&self, pid: u32) -> Result<(), SourceError> {
        fs::write(self.path.join(PID), pid.to_string())
            .map_err(|error| SourceError::Folder { path: self.path.clone(), error })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed now is left to the next one.
        let _ = remove(&self.path);
    }
}

/// The folder by its whole path, if sockets in those that are made in it can be bound. It need not be
/// there.
pub(super) fn fitting(runtime: &Path) -> Result<PathBuf, SourceError> {
    let failed = |error| SourceError::Folder { path: runtime.to_owned(), error };
    let runtime = std::path::absolute(runtime).map_err(failed)?;
    let length = runtime.as_os_str().len() + 1 + PREFIX.len() + RANDOM_CHARS + 1 + SOCKET.len();
    if length > MAX_SOCKET_PATH_BYTES {
        return Err(SourceError::SocketPath { path: runtime, length });
    }
    Ok(runtime)
}

/// Removes the folders in `runtime` whose makers have ended, and ends what still serves there. What
/// cannot be looked at or removed stays: it may be somebody else's, and hinders nobody.
pub(super) fn clean_up(runtime: &Path) {
    for entry in fs::read_dir(runtime).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = is_name(&entry.file_name())
            && fs::symlink_metadata(&path)
                .is_ok_and(|data| data.is_dir() && data.uid() == geteuid().as_raw());
        if ours && let Ok(Some(_held)) = hold(&path) {
            end_left_over(&path);
            let _left = remove(&path);
        }
    }
}

fn is_name(name: &OsStr) -> bool {
    let random = name.as_bytes().strip_prefix(PREFIX.as_bytes());
    random.is_some_and(|random| {
        random.len() == RANDOM_CHARS && random.iter().all(u8::is_ascii_alphanumeric)
    })
}

/// Holds a folder; nothing if somebody else does, or it is not there (any more).
fn hold(folder: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let opened =
        OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(folder);
    let held = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match flock(&held, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    // Its last owner may have removed it meanwhile.
    let mine = held.metadata()?;
    let same = fs::symlink_metadata(folder)
        .is_ok_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino()));
    Ok(same.then_some(held))
}

/// Ends the nbdkit of a folder whose maker is dead.
fn end_left_over(folder: &Path) {
    let noted = fs::read_to_string(folder.join(PID)).ok();
    let Some(pid) = noted.and_then(|text| text.trim().parse().ok()).and_then(Pid::from_raw) else {
        return;
    };
    // What is opened stays the same process, whoever has the number later.
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    let arguments = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let socket = folder.join(SOCKET);
    if !arguments.split(|byte| *byte == 0).any(|word| word == socket.as_os_str().as_bytes()) {
        return;
    }
    // It may have ended by itself, which is as good.
    let _ = pidfd_send_signal(&process, Signal::KILL);
    let grace = Timespec::try_from(KILL_GRACE).ok();
    let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], grace.as_ref());
}

/// Removes a folder that is held, with what we have made in it. The process is noted as long as
/// there is a socket.
fn remove(folder: &Path) -> io::Result<()> {
    for name in [SOCKET, PID] {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    fs::remove_dir(folder)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    fn left(runtime: &Path, name: &str) -> PathBuf {
        let folder = runtime.join(format!("{PREFIX}{name}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(SOCKET), "").unwrap();
        folder
    }

    #[test]
    fn a_folder_is_private_and_goes_with_its_owner() {
        let runtime = tempfile::tempdir().unwrap();
        let folder = Folder::make(&runtime.path().join("run")).unwrap();
        assert_eq!(fs::metadata(&folder.path).unwrap().mode() & 0o777, 0o700);
        fs::write(folder.socket(), "").unwrap();
        folder.note(1).unwrap();
        drop(folder);
        assert!(names(&runtime.path().join("run")).is_empty());
    }

    #[test]
    fn what_the_dead_left_goes_and_what_the_living_have_stays() {
        let runtime = tempfile::tempdir().unwrap();
        let living = Folder::make(runtime.path()).unwrap();
        let dead = left(runtime.path(), "abcdef01");
        fs::write(dead.join(PID), "4000000").unwrap();
        let next = Folder::make(runtime.path()).unwrap();
        assert!(!dead.exists() && living.path.exists() && next.path.exists());
    }

    #[test]
    fn what_others_have_made_is_left_alone() {
        let runtime = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join(SOCKET), "").unwrap();
        fs::write(left(runtime.path(), "abcdef01").join("thesis"), "").unwrap();
        left(runtime.path(), "notes");
        let link = runtime.path().join(format!("{PREFIX}abcdef02"));
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        let _made = Folder::make(runtime.path()).unwrap();
        assert_eq!(names(runtime.path()).len(), 4);
        assert!(runtime.path().join(format!("{PREFIX}abcdef01/thesis")).exists());
        assert_eq!(names(elsewhere.path()), [SOCKET]);
    }

    #[test]
    fn a_process_that_was_left_over_is_ended_and_another_of_its_number_is_not() {
        let runtime = tempfile::tempdir().unwrap();
        let folder = left(runtime.path(), "abcdef01");
        let start = |socket: &Path| {
            let mut shell = Command::new("sh");
            shell.args(["-c", "echo; read -r x"]).arg("sh").arg(socket);
            shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        };
        let (mut ours, mut other) =
            (start(&folder.join(SOCKET)), start(&runtime.path().join("other")));
        for child in [&mut ours, &mut other] {
            // The shell runs, and has its arguments.
            let mut stdout = child.stdout.take().unwrap();
            io::Read::read_exact(&mut stdout, &mut [0]).unwrap();
        }
        fs::write(folder.join(PID), other.id().to_string()).unwrap();
        clean_up(runtime.path());
        assert!(other.try_wait().unwrap().is_none() && !folder.exists());

        let folder = left(runtime.path(), "abcdef01");
        fs::write(folder.join(PID), ours.id().to_string()).unwrap();
        clean_up(runtime.path());
        assert!(!folder.exists());
        // It is dead already, or this would wait for ever.
        assert!(ours.try_wait().unwrap().is_some_and(|status| !status.success()));
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_folder_too_deep_for_a_socket_is_refused() {
        let runtime = tempfile::tempdir().unwrap();
        let error = Folder::make(&runtime.path().join("x".repeat(80))).unwrap_err();
        assert!(matches!(error, SourceError::SocketPath { .. }), "{error}");
        assert!(names(runtime.path()).is_empty());
    }
}
