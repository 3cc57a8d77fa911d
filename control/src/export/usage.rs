//! What an export takes of the machine.

use std::fs;
use std::io;
use std::time::Duration;

use crate::proc::pss_bytes;

/// What a process has used and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportUsage {
    /// Processor time of all its threads, user and system.
    pub cpu: Duration,
    /// Its memory in bytes, pages that are shared with others in proportion.
    pub pss_bytes: u64,
    /// Connections that it has accepted and that are open.
    pub connections: usize,
}

impl ExportUsage {
    /// Reads it from /proc.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let cpu = cpu(&stat).ok_or(io::ErrorKind::InvalidData)?;
        let pss_bytes = pss_bytes(pid)?;
        let mut sockets: usize = 0;
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            // One that was closed since the folder was read is none of its connections any more.
            if let Ok(target) = fs::read_link(entry?.path()) {
                sockets +=
                    usize::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
            }
        }
        // It has no sockets but the one that listens and what that accepted: its standard streams
        // are pipes and /dev/null.
        Ok(Self { cpu, pss_bytes, connections: sockets.saturating_sub(1) })
    }
}

/// Fields 14 and 15 of proc_pid_stat(5), counted behind the name, which may hold anything.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = times.next()?.ok()? + times.next()?.ok()?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_millis(ticks * 1000 / per_second))
}
