//! What a busy machine takes from a test: a limit of time holds for the program, and not for those
//! who run beside it.

use std::fs;
use std::time::Duration;

/// How long threads of this process could have run, and had to wait for a processor, since they
/// began: of those that `is_counted` takes, which is told whether it is the calling one, and the
/// name. Nothing where the kernel does not count it.
pub fn queued(is_counted: impl Fn(bool, &str) -> bool) -> Duration {
    let own = fs::read_link("/proc/thread-self").unwrap();
    let threads = fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap());
    // One that has ended meanwhile has no files.
    let waits = threads.filter_map(|thread| {
        let is_own = own.file_name() == Some(thread.file_name().as_os_str());
        let name = fs::read_to_string(thread.path().join("comm")).ok()?;
        let counts = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let waited = counts.split_whitespace().nth(1)?.parse::<u64>().ok()?;
        is_counted(is_own, name.trim_end()).then_some(waited)
    });
    Duration::from_nanos(waits.sum())
}
