//! Which of the standard streams the caller has closed.
//!
//! The runtime opens `/dev/null` in the place of those before `main` begins, so that no file gets
//! their numbers; from then on nobody can tell them from streams that lead there because the caller
//! wants it. So they are looked at before the runtime begins.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU8, Ordering};

/// A standard stream, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Input = 0,
    Output = 1,
}

/// Whether the caller had closed it when the program began.
pub(crate) fn is_closed(stream: Stream) -> bool {
    CLOSED.load(Ordering::Relaxed) >> (stream as u8) & 1 == 1
}

/// A bit for each descriptor that was closed.
static CLOSED: AtomicU8 = AtomicU8::new(0);

// SAFETY: the C runtime calls what this section points to once, on the only thread, before `main`;
// the function has its calling convention, takes none of its arguments, and uses nothing that the
// Rust runtime would have to set up: two system calls and an atomic.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    for descriptor in [Stream::Input as i32, Stream::Output as i32] {
        // SAFETY: F_GETFD takes any number, reads no memory, and changes nothing.
        if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } == -1 {
            CLOSED.fetch_or(1 << descriptor, Ordering::Relaxed);
        }
    }
}
