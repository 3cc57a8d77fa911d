//! What processes take of the machine, by /proc.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::proc::{bytes, pss_bytes};

/// CPU time of this process, kernel threads that work for it among it.
pub(super) fn own_cpu() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(used.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(used.tv_nsec).unwrap_or(0))
}

/// Forgets the peak of this process's memory, where the kernel lets it.
pub(super) fn forget_peak() {
    // Without it the peak is that of the process's whole life.
    let _as_allowed = fs::write("/proc/self/clear_refs", "5");
}

/// The peak of this process's resident memory in bytes.
pub(super) fn own_peak() -> Option<u64> {
    bytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Memory of a process in bytes, shared pages in proportion; 0 for one that is gone.
pub(super) fn pss(pid: u32) -> u64 {
    pss_bytes(pid).unwrap_or(0)
}

/// All processes at one moment.
pub(super) struct Processes {
    /// By parent: process id and ticks, those of children that it has waited for among them.
    children: HashMap<u32, Vec<u32>>,
    ticks: HashMap<u32, u64>,
}

impl Processes {
    pub(super) fn now() -> Self {
        let mut processes = Self { children: HashMap::new(), ticks: HashMap::new() };
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(pid) = pid else { continue };
            // One that is gone meanwhile has none.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            if let Some((parent, ticks)) = parent_and_ticks(&stat) {
                processes.children.entry(parent).or_default().push(pid);
                processes.ticks.insert(pid, ticks);
            }
        }
        processes
    }

    /// CPU time of a process and of all below it.
    pub(super) fn cpu(&self, root: u32) -> Duration {
        let mut ticks = 0;
        let mut waiting = vec![root];
        while let Some(pid) = waiting.pop() {
            ticks += self.ticks.get(&pid).unwrap_or(&0);
            waiting.extend(self.children.get(&pid).into_iter().flatten());
        }
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second().max(1))
    }
}

/// Fields 4 and 14 to 17 of proc_pid_stat(5), counted behind the name, which may hold anything.
fn parent_and_ticks(stat: &str) -> Option<(u32, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let times: Option<Vec<u64>> = fields.skip(9).take(4).map(|time| time.parse().ok()).collect();
    Some((parent, times?.iter().sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_a_process_and_of_what_it_waited_for() {
        let stat = "7 (a) b) S 3 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 5";
        assert_eq!(parent_and_ticks(stat), Some((3, 100)));
    }

    #[test]
    fn this_process_is_among_all() {
        let own = std::process::id();
        let processes = Processes::now();
        assert!(processes.ticks.contains_key(&own));
        assert!(pss(own) > 0 && own_peak().is_some_and(|peak| peak >= pss(own) / 2));
    }
}
