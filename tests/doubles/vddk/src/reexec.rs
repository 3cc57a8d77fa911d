//! The real plugin needs LD_LIBRARY_PATH to have the folder of VMware's library from the start, so
//! it runs nbdkit a second time with it. That forgets what was in memory: the password, which may
//! have come by a descriptor that was read to its end, goes along in a file without a name.

use std::ffi::OsString;
use std::fs;
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nbdkit::{Error, Result};
use rustix::io::{FdFlags, fcntl_setfd};

const VARIABLE: &str = "LD_LIBRARY_PATH";

/// Runs nbdkit again with the same arguments; returns only when that fails.
pub(crate) fn run_again(libdir: &Path, password: &str) -> Result<()> {
    let line = fs::read("/proc/self/cmdline")?;
    let mut words = line
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty() && !word.starts_with(b"password="))
        .map(|word| OsString::from_vec(word.to_owned()));
    let name = words.next().ok_or_else(|| Error::new(libc::EINVAL, "no command line"))?;

    // There and nowhere else, whatever TMPDIR says: plugins/vddk/reexec.c of nbdkit has it so.
    let mut file = tempfile::tempfile_in("/tmp")?;
    file.write_all(password.as_bytes())?;
    file.rewind()?;
    fcntl_setfd(&file, FdFlags::empty()).map_err(std::io::Error::from)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(words).arg(format!("password=-{}", file.as_raw_fd()));
    command.arg("reexeced_=").env(VARIABLE, libdir.join("lib64"));
    // It stays open for the nbdkit to come.
    let _inherited = file.into_raw_fd();
    Err(command.exec().into())
}
