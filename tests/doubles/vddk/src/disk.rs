//! A disk, as one connection has it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nbdkit::{Error, ExtentHandle, ExtentType, Flags, FuaFlags, Result, Server, ThreadModel};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use crate::parameters;
use crate::reexec;
use crate::state::{self, Faults, State, Version};

/// All that VMware's library reads and writes are sectors.
pub(crate) const SECTOR_BYTES: u64 = 512;
/// What it tells of as allocated or not (`VIXDISKLIB_MIN_CHUNK_SIZE`).
const CHUNK_BYTES: u64 = 64 << 10;

/// Read by this process, for [`Faults::die_after_bytes`].
static READ_BYTES: AtomicU64 = AtomicU64::new(0);
/// Written by it, for [`Faults::die_after_written`].
static WRITTEN_BYTES: AtomicU64 = AtomicU64::new(0);

pub(crate) struct Disk {
    file: File,
    capacity: u64,
    read_only: bool,
    single_link: bool,
    faults: Faults,
    host: Host,
}

/// The host that this connection goes to, for as long as it lives, wherever the VM is meanwhile.
struct Host {
    name: Option<String>,
    libdir: PathBuf,
    /// The state that was looked at last.
    seen: Mutex<Version>,
    /// It has ended the connection, and a connection does not come back.
    gone: AtomicBool,
}

impl Host {
    /// Fails once the host has ended the connection.
    fn check(&self, call: &str) -> Result<()> {
        let Some(name) = &self.name else { return Ok(()) };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Version::now(&self.libdir)?;
        if now != *seen {
            *seen = now;
            if State::read(&self.libdir)?.is_closed(name) {
                self.gone.store(true, Ordering::Relaxed);
            }
        }
        if self.gone.load(Ordering::Relaxed) {
            let why = "The connection was ended: the host is entering maintenance mode";
            return Err(Error::new(libc::EIO, format!("{call}: {why}")));
        }
        Ok(())
    }
}

fn aligned(what: &str, length: usize, offset: u64) -> Result<()> {
    if offset.is_multiple_of(SECTOR_BYTES) && (length as u64).is_multiple_of(SECTOR_BYTES) {
        return Ok(());
    }
    Err(Error::new(libc::EINVAL, format!("{what} is not aligned to sectors")))
}

fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}

impl Disk {
    /// The first allocated byte at or after `offset`, and the end of what is allocated there; both
    /// of whole chunks.
    fn allocated(&self, offset: u64) -> Result<Option<(u64, u64)>> {
        let start = match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            // No data from there on.
            Err(Errno::NXIO) => return Ok(None),
            Err(error) => return Err(std::io::Error::from(error).into()),
        };
        let end = seek(&self.file, SeekFrom::Hole(start)).map_err(std::io::Error::from)?;
        Ok(Some((start / CHUNK_BYTES * CHUNK_BYTES, end.next_multiple_of(CHUNK_BYTES))))
    }
}

/// Dies when so much was moved.
fn count(moved: &AtomicU64, bytes: usize, limit: Option<u64>) {
    let moved = moved.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
    if limit.is_some_and(|limit| moved >= limit) {
        // As the kernel does where memory is short: without a word.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

impl Server for Disk {
    fn name() -> &'static str {
        "vddk"
    }

    fn longname() -> Option<&'static str> {
        Some("double of the VMware VDDK plugin")
    }

    fn version() -> Option<&'static str> {
        Some(env!("CARGO_PKG_VERSION"))
    }

    fn dump_plugin() {
        parameters::dump();
    }

    fn magic_config_key() -> Option<&'static str> {
        Some("file")
    }

    fn thread_model() -> Result<ThreadModel> {
        Ok(ThreadModel::Parallel)
    }

    fn config(key: &str, value: &str) -> Result<()> {
        parameters::given().take(key, value)
    }

    fn config_complete() -> Result<()> {
        parameters::given().complete()
    }

    fn get_ready() -> Result<()> {
        let given = parameters::given().clone();
        let libdir = given.libdir.unwrap_or_else(|| "/usr/lib64/vmware-vix-disklib".into());
        if !libdir.join(state::FILE).is_file() {
            let why = format!(
                "{}/lib64/libvixDiskLib.so.7: cannot open shared object file: No such file or \
                 directory\n\nIf 'lib64/libvixDiskLib.so.7' is located on a non-standard path you \
                 may need to\nset libdir=/path/to/vmware-vix-disklib-distrib.\n\nSee \
                 nbdkit-vddk-plugin(1) man page section \"LIBRARY LOCATION\" for details.",
                libdir.display()
            );
            return Err(Error::new(libc::ENOENT, why));
        }
        match given.password {
            Some(password) if !given.reexecuted => reexec::run_again(&libdir, &password),
            _ => Ok(()),
        }
    }

    fn open(read_only: bool) -> Result<Box<dyn Server>> {
        let given = parameters::given().clone();
        let libdir = given.libdir.clone().unwrap_or_else(|| "/".into());
        pause(State::read(&libdir)?.faults.open_delay_ms);
        // As it is when the disk is opened, and not when that was asked for.
        let seen = Mutex::new(Version::now(&libdir)?);
        let state = State::read(&libdir)?;
        let backing = state.disk(&given, read_only)?;
        let file = File::options().read(true).write(!read_only).open(&backing.path)?;
        Ok(Box::new(Self {
            file,
            capacity: backing.capacity,
            read_only,
            single_link: given.single_link,
            faults: state.faults.clone(),
            host: Host { name: state.host(&given), libdir, seen, gone: AtomicBool::new(false) },
        }))
    }

    fn get_size(&self) -> Result<i64> {
        i64::try_from(self.capacity).map_err(|error| Error::new(libc::EOVERFLOW, error))
    }

    fn can_write(&self) -> Result<bool> {
        Ok(!self.read_only)
    }

    fn can_flush(&self) -> Result<bool> {
        Ok(true)
    }

    fn can_fua(&self) -> Result<FuaFlags> {
        Ok(FuaFlags::Native)
    }

    fn can_extents(&self) -> Result<bool> {
        Ok(true)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        aligned("read", buffer.len(), offset)?;
        pause(self.faults.read_delay_ms);
        self.host.check("VixDiskLib_Read")?;
        let covered = offset..offset + buffer.len() as u64;
        if self.faults.fail_reads_at.is_some_and(|at| covered.contains(&at)) {
            return Err(Error::new(libc::EIO, "VixDiskLib_Read: Unknown error"));
        }
        count(&READ_BYTES, buffer.len(), self.faults.die_after_bytes);
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64)? {
                0 => {
                    buffer[filled..].fill(0);
                    break;
                }
                read => filled += read,
            }
        }
        Ok(())
    }

    fn write_at(&self, buffer: &[u8], offset: u64, flags: Flags) -> Result<()> {
        aligned("write", buffer.len(), offset)?;
        self.host.check("VixDiskLib_Write")?;
        let covered = offset..offset + buffer.len() as u64;
        if !self.faults.lose_writes_at.is_some_and(|at| covered.contains(&at)) {
            self.file.write_all_at(buffer, offset)?;
        }
        count(&WRITTEN_BYTES, buffer.len(), self.faults.die_after_written);
        if flags.contains(Flags::FUA) { self.flush() } else { Ok(()) }
    }

    fn flush(&self) -> Result<()> {
        Ok(self.file.sync_data()?)
    }

    fn extents(
        &self,
        count: u32,
        offset: u64,
        _flags: Flags,
        extents: &mut ExtentHandle,
    ) -> Result<()> {
        pause(self.faults.extents_delay_ms);
        self.host.check("VixDiskLib_QueryAllocatedBlocks")?;
        if self.faults.fail_extents {
            return Err(Error::new(libc::EIO, "VixDiskLib_QueryAllocatedBlocks: Unknown error"));
        }
        // What is not in this link may be in the one below.
        let hole = if self.single_link { ExtentType::Hole } else { ExtentType::HoleZero };
        let end = (offset + u64::from(count)).min(self.capacity);
        let mut position = offset;
        while position < end {
            let chunk = position / CHUNK_BYTES * CHUNK_BYTES;
            let (data, next) = self.allocated(chunk)?.unwrap_or((end, end));
            for (until, kind) in [(data, hole), (next, ExtentType::Allocated)] {
                let until = until.min(end);
                if until > position {
                    extents.add(position, until - position, kind)?;
                    position = until;
                }
            }
        }
        Ok(())
    }
}
