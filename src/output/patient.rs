//! Writing to whoever may not read, for as long as it is worth waiting.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// What a pipe takes without waiting once it says that it takes anything (POSIX, PIPE_BUF).
const CHUNK: usize = 4096;
/// How often it is asked whether to wait on.
const TICK: Duration = Duration::from_millis(50);

/// Writes all of `bytes`, as soon as they are taken; asks `waits_on` now and then while they are
/// not.
///
/// # Errors
/// `TimedOut` when it is not worth waiting any more; part of it may be written. Else what the system
/// says.
pub(super) fn write_all(
    to: &(impl AsFd + ?Sized),
    mut bytes: &[u8],
    waits_on: impl Fn() -> bool,
) -> io::Result<()> {
    while !bytes.is_empty() {
        if !takes_something(to) {
            if !waits_on() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads it"));
            }
            wait(to);
            continue;
        }
        match rustix::io::write(to.as_fd(), &bytes[..bytes.len().min(CHUNK)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether a write would not have to wait. What cannot be asked says so when it is written.
pub(super) fn takes_something(to: &(impl AsFd + ?Sized)) -> bool {
    ready(to, Duration::ZERO)
}

fn wait(to: &(impl AsFd + ?Sized)) {
    ready(to, TICK);
}

fn ready(to: &(impl AsFd + ?Sized), timeout: Duration) -> bool {
    let timeout = Timespec::try_from(timeout).ok();
    poll(&mut [PollFd::from_borrowed_fd(to.as_fd(), PollFlags::OUT)], timeout.as_ref()) != Ok(0)
}
