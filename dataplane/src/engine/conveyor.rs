//! The payload path `splice`: socket to pipe to socket, never in user space.
//!
//! A [`Conveyor`] is a pipe with a memory of what is in it. [`Conveyor::step`] fills it from one
//! descriptor and empties it into another, without blocking, until all is moved or an end is not
//! ready; an engine then waits for that end and calls it again.
//!
//! `IORING_OP_SPLICE` is not used: the kernel hands it to a worker thread each time, which costs
//! more than the two system calls (docs/dependencies.md, "engines").

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::descriptor::Descriptor;

/// A pipe, and how much of a move has passed through it.
#[derive(Debug)]
pub(crate) struct Conveyor {
    reader: OwnedFd,
    writer: OwnedFd,
    /// Bytes that the pipe takes at most, if they come in full pages.
    capacity: usize,
    /// Bytes in the pipe, the header among them.
    held: usize,
    /// Bytes of the header that was put before the payload.
    head: usize,
    taken: usize,
    end: Rc<Cell<End>>,
}

/// An end of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    From,
    To,
}

/// What a move waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Done,
    Wait(End),
}

impl Conveyor {
    /// A pipe of up to `capacity` bytes, or less where the user's allowance of pipe pages is
    /// used up.
    pub(crate) fn new(capacity: usize) -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // EPERM: past the allowance (pipe-user-pages-soft). The pipe works with what it has.
        let _as_large_as_allowed = fcntl_setpipe_size(&writer, capacity);
        let capacity = rustix::pipe::fcntl_getpipe_size(&writer)?;
        Ok(Self {
            reader,
            writer,
            capacity,
            held: 0,
            head: 0,
            taken: 0,
            end: Rc::new(Cell::new(End::From)),
        })
    }

    /// Puts the header of a message before the payload that is moved next.
    pub(crate) fn put_head(&mut self, head: &[u8]) -> io::Result<()> {
        assert_eq!(self.held, 0, "a conveyor starts empty");
        let written = rustix::io::write(&self.writer, head)?;
        assert_eq!(written, head.len(), "an empty pipe takes a header whole");
        (self.held, self.head) = (written, written);
        Ok(())
    }

    /// The end that was last worked on: after a failure, the one that failed; while waiting, the
    /// one that is waited for.
    pub(crate) fn end(&self) -> End {
        self.end.get()
    }

    /// The same, for whoever wants to know while the engine has the conveyor.
    pub(crate) fn watch_end(&self) -> Rc<Cell<End>> {
        Rc::clone(&self.end)
    }

    /// Bytes of the payload that have left the source so far.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// Moves what can be moved now of `length` bytes.
    ///
    /// The pipe is filled as far as it goes before it is emptied, and the source is waited for
    /// until it has that much: few large moves wake the peers, and us, less often than many small
    /// ones, and the wake-ups are most of what a move costs.
    pub(super) fn step(
        &mut self,
        from: &Descriptor,
        to: &Descriptor,
        length: usize,
    ) -> io::Result<Step> {
        loop {
            let progress = self.fill(from, length)?;
            let missing = (length - self.taken).min(self.room());
            if self.held == 0 && missing == 0 {
                return Ok(self.finish());
            }
            // A pipe that holds something and took nothing may have run out of slots: then no
            // byte more will fit, however many come.
            if missing > 0 && (self.held == 0 || progress) {
                let accumulates = from.announce(missing);
                if self.held == 0 || accumulates {
                    return Ok(Step::Wait(End::From));
                }
            }
            if !self.empty(to, length)? {
                return Ok(Step::Wait(End::To));
            }
        }
    }

    fn finish(&mut self) -> Step {
        self.taken = 0;
        Step::Done
    }

    /// Bytes of payload that the pipe still takes, its slots permitting. The header has a slot of
    /// its own and does not count: a payload as long as the pipe goes out in one piece.
    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.held.saturating_sub(self.head))
    }

    /// Takes from the source until it is dry, the pipe is full, or everything is taken. Tells
    /// whether anything was taken.
    fn fill(&mut self, from: &Descriptor, length: usize) -> io::Result<bool> {
        let before = self.taken;
        self.end.set(End::From);
        while self.taken < length && self.room() > 0 {
            let most = (length - self.taken).min(self.room());
            match splice(
                from,
                None,
                &self.writer,
                None,
                most,
                SpliceFlags::NONBLOCK | SpliceFlags::MOVE,
            ) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(moved) => {
                    from.count_received(moved);
                    self.held += moved;
                    self.taken += moved;
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(self.taken > before)
    }

    /// Gives to the target until the pipe is empty (true) or the target takes no more (false).
    fn empty(&mut self, to: &Descriptor, length: usize) -> io::Result<bool> {
        self.end.set(End::To);
        while self.held > 0 {
            let more = if self.taken < length { SpliceFlags::MORE } else { SpliceFlags::empty() };
            match splice(
                &self.reader,
                None,
                to,
                None,
                self.held,
                SpliceFlags::NONBLOCK | SpliceFlags::MOVE | more,
            ) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(moved) => {
                    to.count_sent(moved);
                    self.held -= moved;
                    self.head = 0;
                }
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(true)
    }
}
