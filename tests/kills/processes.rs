//! Processes that work on a repository, by what stands on their command lines.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// How long a process may take to be gone whose parent was killed.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// Kills one of the qemu-nbd processes that serve an image of the repository.
pub(crate) fn kill_an_export_of(repository: &Path) -> Option<Pid> {
    let mut exports = of(repository).into_iter().filter(|(_, line)| {
        line.split('\0').next().is_some_and(|program| program.ends_with("qemu-nbd"))
    });
    // The one that is found last was started last.
    let (pid, _) = exports.next_back()?;
    kill_process(pid, Signal::KILL).ok().map(|()| pid)
}

/// Fails unless all processes that have to do with the repository are gone, or go.
pub(crate) fn assert_none_of(repository: &Path) {
    for (pid, line) in of(repository) {
        // One that cannot be opened is gone.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let deadline = Timespec::try_from(END_DEADLINE).unwrap();
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&deadline)).unwrap();
        assert_eq!(ended, 1, "{} is left", line.replace('\0', " "));
    }
}

/// Processes with the repository on their command line, and that line.
fn of(repository: &Path) -> Vec<(Pid, String)> {
    let repository = repository.to_str().unwrap();
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let mut pids: Vec<i32> = pids.collect();
    pids.sort_unstable();
    let lines = pids.into_iter().filter_map(|pid| {
        // One that has ended meanwhile has none.
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains(repository).then(|| (Pid::from_raw(pid).unwrap(), line))
    });
    lines.collect()
}
