//! Engines carry out the operations of lanes.
//!
//! ```text
//!   lane ──submit(token, Op)──▶ engine ──▶ kernel
//!   lane ◀──Completion─────────  engine ◀──
//! ```
//!
//! A lane decides *what* is to happen and owns no system call; an engine knows *how* and no NBD.
//! Two engines carry out the same operations: [`uring`] hands them to the kernel through one
//! io_uring per thread; [`poll`] tries them at once and waits for readiness with epoll, for
//! kernels and containers where io_uring is not to be had.
//!
//! **Ownership.** An [`Op`] owns the buffers and descriptors that it works on, and moves into the
//! engine; both come back with its [`Completion`]. Whoever gives up on an operation shuts its
//! descriptor down and waits for the completion: nothing in flight is ever freed.
//!
//! **Cancellation.** There is none but [`Descriptor::shutdown`], after which every operation on
//! the descriptor completes.
//!
//! The payload path `splice` is the operation [`Op::Convey`]; it is the same code in both engines
//! (`conveyor.rs`), which differ only in how they wait for readiness.

mod choice;
mod conveyor;
mod descriptor;
mod poll;
mod uring;

use std::io;
use std::rc::Rc;
use std::time::Duration;

pub use choice::{EngineChoice, EngineKind};
pub(crate) use choice::{Selected, select, start};
pub(crate) use conveyor::{Conveyor, End};
pub(crate) use descriptor::{Address, Descriptor};

use crate::pool::Buf;

/// Names the operation to whoever submitted it; engines only carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// Index of the lane on its thread.
    pub(crate) lane: u32,
    /// Which strand of the lane.
    pub(crate) strand: u16,
    /// What the lane uses the operation for.
    pub(crate) role: u8,
    /// The lane's own tag: the connection's epoch, or the slot.
    pub(crate) tag: u32,
}

/// Something to do, with all that it needs.
#[derive(Debug)]
pub(crate) enum Op {
    /// Waits for a connection that was begun, and takes its error.
    Connect { socket: Rc<Descriptor> },
    /// Waits until there is something to receive, or nothing more will come.
    Await { stream: Rc<Descriptor> },
    /// Receives at least `least` and at most `most` bytes into `buf[at..]`. Completes with how
    /// many; fewer than `least` means that the peer closed.
    Receive { socket: Rc<Descriptor>, buf: Buf, at: usize, least: usize, most: usize },
    /// Sends `head[..head_len]`, then the payload (buffer, start, length), whole.
    Send {
        socket: Rc<Descriptor>,
        head: Buf,
        head_len: usize,
        payload: Option<(Buf, usize, usize)>,
    },
    /// Moves `length` bytes from one descriptor to another inside the kernel, after whatever
    /// was put into the conveyor before. On failure, the conveyor names the end that failed.
    Convey { from: Rc<Descriptor>, conveyor: Box<Conveyor>, to: Rc<Descriptor>, length: usize },
    /// Reads at a byte offset. Completes with fewer than `length` only at the end of the file.
    Read { file: Rc<Descriptor>, buf: Buf, at: usize, length: usize, offset: u64 },
    /// Writes `buf[at..at + length]` at a byte offset, whole.
    Write { file: Rc<Descriptor>, buf: Buf, at: usize, length: usize, offset: u64 },
    /// Makes a range read as zeros without writing it.
    Zero { file: Rc<Descriptor>, how: ZeroHow, offset: u64, length: u64 },
    /// Makes all that was written durable.
    Sync { file: Rc<Descriptor> },
}

impl Op {
    /// Bytes after which the operation is complete, and the end that they are waited for at.
    fn goal(&self) -> (usize, End) {
        match self {
            Self::Receive { least, .. } => (*least, End::From),
            Self::Read { length, .. } => (*length, End::From),
            Self::Send { head_len, payload, .. } => {
                let length = payload.as_ref().map_or(0, |(_, _, length)| *length);
                (head_len + length, End::To)
            }
            Self::Write { length, .. } => (*length, End::To),
            Self::Connect { .. }
            | Self::Await { .. }
            | Self::Convey { .. }
            | Self::Zero { .. }
            | Self::Sync { .. } => (0, End::To),
        }
    }

    /// Counts bytes that passed through the operation's descriptor.
    fn count(&self, bytes: usize) {
        match self {
            Self::Receive { socket, .. } => socket.count_received(bytes),
            Self::Read { file, .. } => file.count_received(bytes),
            Self::Send { socket, .. } => socket.count_sent(bytes),
            Self::Write { file, .. } => file.count_sent(bytes),
            // A conveyor counts for itself; the others move nothing.
            Self::Connect { .. }
            | Self::Await { .. }
            | Self::Convey { .. }
            | Self::Zero { .. }
            | Self::Sync { .. } => {}
        }
    }
}

/// How a range of a file is zeroed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ZeroHow {
    /// Deallocates it: the file gets a hole.
    PunchHole,
    /// Keeps it allocated.
    ZeroRange,
}

/// The end of an operation.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) token: Token,
    pub(crate) op: Op,
    pub(crate) result: io::Result<usize>,
}

/// Wakes an engine that waits, from another thread.
#[derive(Clone, Debug)]
pub(crate) struct Waker(std::sync::Arc<std::os::fd::OwnedFd>);

impl Waker {
    fn new() -> io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(std::sync::Arc::new(fd)))
    }

    /// Makes the current or the next wait return. Never blocks.
    pub(crate) fn wake(&self) {
        // A full counter (EAGAIN) is already a wake-up that nobody has taken yet.
        let _already_awake = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    fn clear(&self) {
        // EAGAIN: someone else's wake-up was already taken with an earlier read.
        let _nothing_to_take = rustix::io::read(&*self.0, &mut [0u8; 8]);
    }
}

/// One thread's engine.
pub(crate) trait Engine {
    /// Starts an operation. Never blocks on a peer.
    fn submit(&mut self, token: Token, op: Op);

    /// Appends what has completed; waits at most `timeout` when nothing has. Returns early on
    /// a wake-up, with nothing appended.
    fn wait(&mut self, timeout: Duration, completions: &mut Vec<Completion>) -> io::Result<()>;

    /// A handle that ends a wait from another thread.
    fn waker(&self) -> Waker;
}
