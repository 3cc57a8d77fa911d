//! Memory of processes, by /proc.

use std::fs;
use std::io;

/// Memory of a process in bytes, pages that are shared with others in proportion (PSS).
///
/// # Errors
/// It is gone, or the kernel does not tell.
pub(crate) fn pss_bytes(pid: u32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    bytes(&rollup, "Pss:").ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Memory of this process, in the same way; 0 where the kernel does not tell.
pub(crate) fn own_pss_bytes() -> u64 {
    pss_bytes(std::process::id()).unwrap_or(0)
}

/// The value of a line that has kibibytes.
pub(crate) fn bytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}
