//! The contenders.

mod blocking;
mod ours;
mod readiness;
mod ring;
mod tokio_uring;

use std::io;
use std::os::fd::OwnedFd;

use blockferry_dataplane::{EngineChoice, PayloadChoice};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

use crate::lane::{Job, PIPE};

/// Blocks of memory of a lane that receives and sends at the same time.
const BLOCKS: usize = 2;

/// How the payload gets from one socket into the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Payload {
    /// Received into memory, sent from there.
    Buffers,
    /// Through a pipe.
    Splice,
}

/// One way to run lanes.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// What it is, for people.
    pub(crate) what: &'static str,
    pub(crate) run: fn(&Job) -> io::Result<()>,
}

/// All of them, in the order of the table.
pub(crate) const ALL: &[Contender] = &[
    Contender {
        name: "threads",
        what: "recv and send, blocking, a thread a lane",
        run: |job| blocking::run(job, Payload::Buffers),
    },
    Contender {
        name: "mio",
        what: "recv and send on readiness (mio)",
        run: |job| readiness::run(job, Payload::Buffers),
    },
    Contender {
        name: "ring",
        what: "recv and send by io_uring",
        run: |job| ring::run(job, Payload::Buffers),
    },
    Contender {
        name: "tokio-uring",
        what: "read and write by tokio-uring 0.5",
        run: tokio_uring::run,
    },
    Contender {
        name: "ours uring pooled",
        what: "blockferry, engine uring, payload pooled",
        run: |job| ours::run(job, EngineChoice::Uring, PayloadChoice::Pooled),
    },
    Contender {
        name: "ours poll pooled",
        what: "blockferry, engine poll, payload pooled",
        run: |job| ours::run(job, EngineChoice::Poll, PayloadChoice::Pooled),
    },
    Contender {
        name: "splice threads",
        what: "splice(2), blocking, a thread a lane",
        run: |job| blocking::run(job, Payload::Splice),
    },
    Contender {
        name: "splice mio",
        what: "splice(2) on readiness (mio)",
        run: |job| readiness::run(job, Payload::Splice),
    },
    Contender {
        name: "splice ring",
        what: "IORING_OP_SPLICE",
        run: |job| ring::run(job, Payload::Splice),
    },
    Contender {
        name: "ours uring splice",
        what: "blockferry, engine uring, payload splice",
        run: |job| ours::run(job, EngineChoice::Uring, PayloadChoice::Splice),
    },
    Contender {
        name: "ours poll splice",
        what: "blockferry, engine poll, payload splice",
        run: |job| ours::run(job, EngineChoice::Poll, PayloadChoice::Splice),
    },
];

/// A pipe of a lane.
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    /// Bytes that it takes.
    capacity: usize,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        // Past the user's allowance of pipe memory the pipe stays smaller.
        let _as_large_as_allowed = fcntl_setpipe_size(&writer, PIPE);
        let capacity = fcntl_getpipe_size(&writer)?;
        Ok(Self { reader, writer, capacity })
    }
}
