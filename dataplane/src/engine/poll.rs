//! The engine on readiness (epoll through mio), for kernels and containers without io_uring.
//!
//! An operation is tried at once; if its descriptor is not ready it waits in the descriptor's
//! place until epoll says that it is. Files are always ready: reads and writes of files happen
//! on the spot, so a slow disk holds its thread up. That is the price of this engine, and why
//! `auto` prefers the ring.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll as Epoll, Token as EventToken};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::conveyor::{End, Step};
use super::descriptor::{Descriptor, Kind};
use super::{Completion, Engine, Op, Token, Waker, ZeroHow};

/// A pipe that can be written takes this much without blocking (PIPE_BUF, pipe(7)).
const PIPE_READY_BYTES: usize = 4096;
/// Readiness events that one wait takes.
const EVENTS: usize = 256;

/// One epoll set and the operations that wait for it.
pub(crate) struct Poll {
    epoll: Epoll,
    events: Events,
    /// By descriptor number. A number is reused only after its descriptor is closed, which is
    /// after every operation on it has ended, for they own it.
    places: Vec<Place>,
    ready: VecDeque<Completion>,
    waker: Waker,
}

#[derive(Default)]
struct Place {
    /// Operations that wait to read, and to write, with the bytes done so far.
    readers: Option<Waiting>,
    writers: Option<Waiting>,
}

struct Waiting {
    token: Token,
    op: Op,
    done: usize,
}

/// What an attempt came to.
enum Attempt {
    Done(io::Result<usize>),
    Wait(End),
}

impl Poll {
    /// Sets an epoll instance up.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let waker = Waker::new()?;
        let fd = waker.0.as_raw_fd();
        epoll.registry().register(
            &mut SourceFd(&fd),
            EventToken(event_token(fd)),
            Interest::READABLE,
        )?;
        Ok(Self {
            epoll,
            events: Events::with_capacity(EVENTS),
            places: Vec::new(),
            ready: VecDeque::new(),
            waker,
        })
    }

    fn place(&mut self, fd: RawFd) -> &mut Place {
        let index = event_token(fd);
        if index >= self.places.len() {
            self.places.resize_with(index + 1, Place::default);
        }
        &mut self.places[index]
    }

    fn attempt(&mut self, mut waiting: Waiting) {
        match attempt(&mut waiting.op, &mut waiting.done) {
            Attempt::Done(result) => {
                self.ready.push_back(Completion { token: waiting.token, op: waiting.op, result });
            }
            Attempt::Wait(end) => self.wait_for(end, waiting),
        }
    }

    fn wait_for(&mut self, end: End, waiting: Waiting) {
        let descriptor = match (&waiting.op, end) {
            (Op::Convey { from, .. }, End::From) => from,
            (Op::Convey { to, .. }, End::To) => to,
            (Op::Connect { socket } | Op::Receive { socket, .. } | Op::Send { socket, .. }, _) => {
                socket
            }
            (Op::Await { stream }, _) => stream,
            (
                Op::Read { file, .. }
                | Op::Write { file, .. }
                | Op::Zero { file, .. }
                | Op::Sync { file },
                _,
            ) => file,
        };
        let fd = descriptor.raw();
        if !descriptor.watched.replace(true) {
            let both = Interest::READABLE | Interest::WRITABLE;
            if let Err(e) = self.epoll.registry().register(
                &mut SourceFd(&fd),
                EventToken(event_token(fd)),
                both,
            ) {
                let Waiting { token, op, .. } = waiting;
                return self.ready.push_back(Completion { token, op, result: Err(e) });
            }
            // Edges before the registration are lost: try once more before waiting for one.
            return self.attempt(waiting);
        }
        let place = self.place(fd);
        let seat = match end {
            End::From => &mut place.readers,
            End::To => &mut place.writers,
        };
        assert!(seat.is_none(), "a lane has one operation a direction on a descriptor");
        *seat = Some(waiting);
    }

    fn wake(&mut self, index: usize, readable: bool, writable: bool) {
        let Some(place) = self.places.get_mut(index) else {
            return;
        };
        let reader = if readable { place.readers.take() } else { None };
        let writer = if writable { place.writers.take() } else { None };
        for waiting in [reader, writer].into_iter().flatten() {
            self.attempt(waiting);
        }
    }
}

impl Engine for Poll {
    fn submit(&mut self, token: Token, op: Op) {
        if let Op::Receive { socket, .. } = &op {
            socket.announce_any();
        }
        self.attempt(Waiting { token, op, done: 0 });
    }

    fn wait(&mut self, timeout: Duration, completions: &mut Vec<Completion>) -> io::Result<()> {
        // Also when something is ready: lanes whose files are always ready must not starve those
        // that wait for sockets.
        let timeout = if self.ready.is_empty() { timeout } else { Duration::ZERO };
        match self.epoll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            if event.token().0 == event_token(self.waker.0.as_raw_fd()) {
                self.waker.clear();
                continue;
            }
            let ended = event.is_error() || event.is_read_closed() || event.is_write_closed();
            self.wake(event.token().0, event.is_readable() || ended, event.is_writable() || ended);
        }
        self.events = events;
        completions.extend(self.ready.drain(..));
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

fn event_token(fd: RawFd) -> usize {
    usize::try_from(fd).unwrap_or(usize::MAX)
}

/// Does what can be done now.
fn attempt(op: &mut Op, done: &mut usize) -> Attempt {
    match op {
        Op::Connect { socket } => return connect(socket),
        Op::Await { stream } => {
            return match when_ready(stream, PollFlags::IN) {
                Ok(()) => Attempt::Done(Ok(0)),
                Err(Errno::AGAIN | Errno::INTR) => Attempt::Wait(End::From),
                Err(e) => Attempt::Done(Err(e.into())),
            };
        }
        Op::Convey { from, conveyor, to, length } => {
            return match conveyor.step(from, to, *length) {
                Ok(Step::Done) => Attempt::Done(Ok(*length)),
                Ok(Step::Wait(end)) => Attempt::Wait(end),
                Err(e) => Attempt::Done(Err(e)),
            };
        }
        _ => {}
    }
    let (goal, end) = op.goal();
    loop {
        match transfer(op, *done) {
            Ok(count) => {
                op.count(count);
                *done += count;
                if *done >= goal || (count == 0 && end == End::From) {
                    return Attempt::Done(Ok(*done));
                }
                if count == 0 {
                    return Attempt::Done(Err(io::ErrorKind::WriteZero.into()));
                }
            }
            Err(Errno::AGAIN) => return Attempt::Wait(end),
            Err(Errno::INTR) => {}
            Err(e) => return Attempt::Done(Err(e.into())),
        }
    }
}

/// One system call for what is left of `op` after `done` bytes.
fn transfer(op: &mut Op, done: usize) -> Result<usize, Errno> {
    match op {
        Op::Receive { socket, buf, at, most, .. } => {
            receive(socket, &mut buf.bytes_mut()[*at + done..*at + *most])
        }
        Op::Send { socket, head, head_len, payload } => {
            send(socket, &head[..*head_len], payload.as_ref(), done)
        }
        Op::Read { file, buf, at, length, offset } => {
            let into = &mut buf.bytes_mut()[*at + done..*at + *length];
            rustix::io::pread(&**file, into, *offset + done as u64)
        }
        Op::Write { file, buf, at, length, offset } => {
            let from = &buf[*at + done..*at + *length];
            rustix::io::pwrite(&**file, from, *offset + done as u64)
        }
        Op::Zero { file, how, offset, length } => {
            let flags = match how {
                ZeroHow::PunchHole => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                ZeroHow::ZeroRange => FallocateFlags::ZERO_RANGE,
            };
            rustix::fs::fallocate(&**file, flags, *offset, *length).map(|()| 0)
        }
        Op::Sync { file } => rustix::fs::fdatasync(&**file).map(|()| 0),
        // `attempt` does these itself.
        Op::Connect { .. } | Op::Await { .. } | Op::Convey { .. } => Ok(0),
    }
}

fn connect(socket: &Descriptor) -> Attempt {
    if let Err(e) = socket.take_connect_error() {
        return Attempt::Done(Err(e));
    }
    match rustix::net::getpeername(socket) {
        Ok(_) => Attempt::Done(Ok(0)),
        Err(Errno::NOTCONN) => Attempt::Wait(End::To),
        Err(e) => Attempt::Done(Err(e.into())),
    }
}

fn receive(socket: &Descriptor, into: &mut [u8]) -> Result<usize, Errno> {
    match socket.kind() {
        Kind::Socket => rustix::net::recv(socket, into, rustix::net::RecvFlags::DONTWAIT)
            .map(|(_, count)| count),
        // It is blocking, for it is shared with others: nothing is tried that could block.
        Kind::Stream | Kind::File => {
            when_ready(socket, PollFlags::IN).and_then(|()| rustix::io::read(socket, into))
        }
    }
}

fn send(
    socket: &Descriptor,
    head: &[u8],
    payload: Option<&(crate::pool::Buf, usize, usize)>,
    done: usize,
) -> Result<usize, Errno> {
    let head_left = &head[done.min(head.len())..];
    let payload_left = payload.map_or(&[][..], |(buf, start, length)| {
        &buf[*start + done.saturating_sub(head.len())..*start + *length]
    });
    let parts = [io::IoSlice::new(head_left), io::IoSlice::new(payload_left)];
    match socket.kind() {
        Kind::Socket => {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            rustix::net::sendmsg(
                socket,
                &parts,
                &mut rustix::net::SendAncillaryBuffer::default(),
                flags,
            )
        }
        Kind::Stream | Kind::File => when_ready(socket, PollFlags::OUT).and_then(|()| {
            let part = if head_left.is_empty() { payload_left } else { head_left };
            // As much as a pipe that is ready takes at once.
            rustix::io::write(socket, &part[..part.len().min(PIPE_READY_BYTES)])
        }),
    }
}

/// EAGAIN unless a descriptor in blocking mode is ready.
fn when_ready(stream: &Descriptor, flags: PollFlags) -> Result<(), Errno> {
    let mut fds = [PollFd::new(stream, flags)];
    match rustix::event::poll(&mut fds, Some(&Timespec::default()))? {
        0 => Err(Errno::AGAIN),
        _ => Ok(()),
    }
}
