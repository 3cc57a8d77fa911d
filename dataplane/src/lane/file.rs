//! Files, devices and streams as ends of a lane: what they are, and what they are good for.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use rustix::fs::{FileType, SeekFrom};

use crate::engine::Descriptor;
use crate::fault::Cause;
use crate::journal::FileState;

/// Major and minor number of `/dev/null` (Linux, Documentation/admin-guide/devices.txt).
const NULL_DEVICE: (u32, u32) = (1, 3);

pub(super) fn open_failed(error: io::Error) -> Cause {
    Cause::File { what: "cannot open it".into(), error }
}

/// A pipe is opened also if nobody has opened it to write.
pub(super) fn open_for_reading(path: &Path) -> io::Result<std::fs::File> {
    let mut options = OpenOptions::new();
    if std::fs::metadata(path).is_ok_and(|data| data.file_type().is_fifo()) {
        options.custom_flags(libc::O_NONBLOCK);
    }
    options.read(true).open(path)
}

pub(super) fn is_fifo(file: &impl AsFd) -> bool {
    rustix::fs::fstat(file)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

pub(super) fn open_for_writing(path: &Path) -> io::Result<std::fs::File> {
    let options =
        |read| OpenOptions::new().read(read).write(true).create(true).truncate(false).open(path);
    // Reading is needed for nothing but the journal's witnesses.
    options(true).or_else(|_| options(false))
}

/// Gives a regular file this size, if it has another; a device has the one that it has.
pub(super) fn cut_to(file: &impl AsFd, size: u64) -> io::Result<()> {
    let stat = rustix::fs::fstat(file)?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if regular && u64::try_from(stat.st_size) != Ok(size) {
        rustix::fs::ftruncate(file, size)?;
    }
    Ok(())
}

pub(super) fn stream_of(fd: &Arc<OwnedFd>) -> Result<Rc<Descriptor>, Cause> {
    let own = fd.try_clone().map_err(open_failed)?;
    Ok(Rc::new(Descriptor::stream(own)))
}

/// Whether the kernel says of a block device that it cannot be written.
pub(super) fn is_read_only(device: &impl AsFd) -> bool {
    let Ok(stat) = rustix::fs::fstat(device) else {
        return false;
    };
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let told = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro"));
    told.is_ok_and(|told| told.trim() == "1")
}

/// Refuses to read what may never end: of character devices only terminals and `/dev/null` are
/// known to.
pub(super) fn check_end(file: &impl AsFd) -> Result<(), Cause> {
    let stat = rustix::fs::fstat(file).map_err(|e| open_failed(e.into()))?;
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let endless = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && device != NULL_DEVICE
        && !file.as_fd().is_terminal();
    if endless {
        let what = "it is a character device, which may never end; where it does, read it through a pipe (cat DEVICE | ...)";
        return Err(Cause::Unfit(what.into()));
    }
    Ok(())
}

/// What shows that a regular file was written; the node of a device tells nothing of the device.
pub(super) fn state_of(file: &impl AsFd) -> Option<FileState> {
    let stat = rustix::fs::fstat(file).ok()?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let written_ns = stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
    regular.then_some(FileState { inode: stat.st_ino, written_ns })
}

/// The size of a regular file or block device; `None` for what is read in order.
pub(super) fn size_of(file: &impl AsFd) -> io::Result<Option<u64>> {
    let stat = rustix::fs::fstat(file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(u64::try_from(stat.st_size).ok()),
        FileType::BlockDevice => Ok(Some(rustix::fs::seek(file, SeekFrom::End(0))?)),
        FileType::Directory => Err(io::ErrorKind::IsADirectory.into()),
        _ => Ok(None),
    }
}
