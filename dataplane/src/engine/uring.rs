//! The engine on io_uring: one ring per thread.
//!
//! Every operation but [`Op::Convey`] becomes one submission; a short transfer is submitted again
//! for the rest. A move through a conveyor is tried at once, and the ring tells when the end that
//! it waits for is ready.
//!
//! An operation in flight lives in a boxed [`Entry`], whose address the kernel may hold (message
//! headers). Entries are reused, so that nothing is allocated per operation once as many exist as
//! were ever in flight.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::squeue::Entry as Sqe;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};

use super::conveyor::{End, Step};
use super::descriptor::{Descriptor, Kind};
use super::{Completion, Engine, Op, Token, Waker, ZeroHow};

/// Submissions that fit before the kernel must be told of them.
const SUBMISSIONS: u32 = 256;
/// Completions that fit before the kernel has to keep them itself.
const COMPLETIONS: u32 = 2048;
/// The same where memory that may be locked is short: 64 * 64 + 256 * 16 bytes, and the heads.
const SUBMISSIONS_IF_SHORT: u32 = 64;
const COMPLETIONS_IF_SHORT: u32 = 256;
/// `user_data` of the poll on the waker.
const WAKE: u64 = u64::MAX;
/// `user_data` of the request that cancels everything at the end.
const CANCEL: u64 = u64::MAX - 1;
/// How long the end of an engine waits for operations in flight before it leaves them (and
/// their memory) to the kernel for good.
const END_DEADLINE: Duration = Duration::from_secs(2);

/// One ring and the operations in flight on it.
pub(crate) struct Uring {
    ring: IoUring,
    #[allow(
        clippy::vec_box,
        reason = "the kernel holds addresses of entries, which must not move"
    )]
    entries: Vec<Box<Entry>>,
    free: Vec<usize>,
    in_flight: usize,
    /// Completed without the ring's help.
    ready: VecDeque<Completion>,
    waker: Waker,
}

struct Entry {
    /// What is in flight, with its token.
    work: Option<(Token, Op)>,
    /// Bytes already transferred by earlier submissions of this operation.
    done: usize,
    message: libc::msghdr,
    vectors: [libc::iovec; 2],
}

impl Uring {
    /// Sets a ring up, with fewer wishes where the kernel is older.
    pub(crate) fn new() -> io::Result<Self> {
        let ring = match build(SUBMISSIONS, COMPLETIONS) {
            // An ordinary user may lock little memory, and each ring takes its share.
            Err(e) if e.raw_os_error() == Some(libc::ENOMEM) => {
                build(SUBMISSIONS_IF_SHORT, COMPLETIONS_IF_SHORT)?
            }
            built => built?,
        };
        // The wait with a deadline needs it (5.11); so does everything older than the kernels
        // that this engine is measured on.
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the kernel's io_uring is older than 5.11",
            ));
        }
        let mut engine = Self {
            ring,
            entries: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
            ready: VecDeque::new(),
            waker: Waker::new()?,
        };
        engine.watch_waker();
        Ok(engine)
    }

    fn watch_waker(&mut self) {
        let poll =
            opcode::PollAdd::new(Fd(self.waker.0.as_raw_fd()), poll_mask(libc::POLLIN)).build();
        self.push(poll.user_data(WAKE));
    }

    /// Queues a submission; tells the kernel of the earlier ones when the queue is full.
    fn push(&mut self, sqe: Sqe) {
        loop {
            // SAFETY: everything that `sqe` points to lives in an `Entry` (boxed, and kept until
            // the completion), in a pooled buffer or in a descriptor that the entry's op owns.
            if unsafe { self.ring.submission().push(&sqe) }.is_ok() {
                return;
            }
            // EBUSY or EINTR: completions have to be taken first, which the next wait does; a
            // full queue of 256 is drained by submitting, so this loop ends.
            let _retried_by_the_loop = self.ring.submit();
        }
    }

    fn allocate(&mut self, token: Token, op: Op) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            // SAFETY: msghdr and iovec are plain C structs for which all zeros is a valid value.
            let (message, vectors) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
            self.entries.push(Box::new(Entry { work: None, done: 0, message, vectors }));
            self.entries.len() - 1
        });
        self.entries[index].work = Some((token, op));
        self.entries[index].done = 0;
        self.in_flight += 1;
        index
    }

    fn complete(&mut self, index: usize, result: io::Result<usize>) {
        if let Some((token, op)) = self.entries[index].work.take() {
            self.free.push(index);
            self.in_flight -= 1;
            self.ready.push_back(Completion { token, op, result });
        }
    }

    /// Submits an operation, or what is left of it.
    fn start(&mut self, index: usize) {
        let entry = &mut *self.entries[index];
        let Some((_, op)) = &mut entry.work else {
            return;
        };
        if let Op::Convey { from, conveyor, to, length } = op {
            let (waits_for, mask) = match conveyor.step(from, to, *length) {
                Ok(Step::Done) => {
                    let length = *length;
                    return self.complete(index, Ok(length));
                }
                Ok(Step::Wait(End::From)) => (from.raw(), poll_mask(libc::POLLIN)),
                Ok(Step::Wait(End::To)) => (to.raw(), poll_mask(libc::POLLOUT)),
                Err(e) => return self.complete(index, Err(e)),
            };
            return self
                .push(opcode::PollAdd::new(Fd(waits_for), mask).build().user_data(index as u64));
        }
        let sqe = submission(op, entry.done, &mut entry.message, &mut entry.vectors);
        self.push(sqe.user_data(index as u64));
    }

    /// Takes one result of the ring; submits the rest of a short transfer.
    fn take(&mut self, index: usize, result: i32) {
        let Ok(count) = usize::try_from(result) else {
            return match -result {
                libc::EINTR | libc::EAGAIN => self.start(index),
                errno => self.complete(index, Err(io::Error::from_raw_os_error(errno))),
            };
        };
        let entry = &mut *self.entries[index];
        let Some((_, op)) = &entry.work else { return };
        match op {
            Op::Convey { .. } => return self.start(index),
            Op::Connect { socket } => {
                let connected = socket.take_connect_error().map(|()| 0);
                return self.complete(index, connected);
            }
            Op::Await { .. } => return self.complete(index, Ok(0)),
            _ => op.count(count),
        }
        let (goal, end) = op.goal();
        entry.done += count;
        let done = entry.done;
        if done >= goal {
            return self.complete(index, Ok(done));
        }
        match (count, end) {
            // The peer closed, or the file ends: the lane is told how far it came.
            (0, End::From) => self.complete(index, Ok(done)),
            (0, End::To) => self.complete(index, Err(io::ErrorKind::WriteZero.into())),
            _ => self.start(index),
        }
    }

    fn drain_ring(&mut self) {
        loop {
            let Some(cqe) = self.ring.completion().next() else {
                return;
            };
            match cqe.user_data() {
                WAKE => {
                    self.waker.clear();
                    self.watch_waker();
                }
                CANCEL => {}
                index => self.take(usize::try_from(index).unwrap_or(usize::MAX), cqe.result()),
            }
        }
    }

    fn enter(&mut self, least: usize, timeout: Duration) -> io::Result<()> {
        let timespec = Timespec::new().sec(timeout.as_secs()).nsec(timeout.subsec_nanos());
        let args = SubmitArgs::new().timespec(&timespec);
        match self.ring.submitter().submit_with_args(least, &args) {
            Ok(_) => Ok(()),
            Err(e) => match e.raw_os_error() {
                // A deadline, a signal, or a completion queue to be drained first.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(e),
            },
        }
    }
}

impl Engine for Uring {
    fn submit(&mut self, token: Token, op: Op) {
        if let Op::Receive { socket, .. } = &op {
            socket.announce_any();
        }
        let index = self.allocate(token, op);
        self.start(index);
    }

    fn wait(&mut self, timeout: Duration, completions: &mut Vec<Completion>) -> io::Result<()> {
        if self.ready.is_empty() {
            self.drain_ring();
        }
        if self.ready.is_empty() {
            self.enter(1, timeout)?;
            self.drain_ring();
        } else if !self.ring.submission().is_empty() {
            self.enter(0, Duration::ZERO)?;
            self.drain_ring();
        }
        completions.extend(self.ready.drain(..));
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

impl Drop for Uring {
    /// Cancels what is in flight and waits for it; what does not end in time keeps its memory.
    fn drop(&mut self) {
        let until = std::time::Instant::now() + END_DEADLINE;
        if self.in_flight > 0 {
            let all = io_uring::types::CancelBuilder::any();
            self.push(opcode::AsyncCancel2::new(all).build().user_data(CANCEL));
        }
        while self.in_flight > 0 && std::time::Instant::now() < until {
            if self.enter(1, Duration::from_millis(50)).is_err() {
                break;
            }
            loop {
                let Some(cqe) = self.ring.completion().next() else {
                    break;
                };
                if let Ok(index) = usize::try_from(cqe.user_data())
                    && index < self.entries.len()
                    && self.entries[index].work.take().is_some()
                {
                    self.in_flight -= 1;
                }
            }
        }
        if self.in_flight > 0 {
            // The kernel may still write to these buffers: they stay mapped for good.
            std::mem::forget(std::mem::take(&mut self.entries));
        }
    }
}

fn build(submissions: u32, completions: u32) -> io::Result<IoUring> {
    let tuned = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_cqsize(completions)
        .build(submissions);
    match tuned {
        // Before 6.1 the kernel does not know these flags.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            IoUring::builder().setup_cqsize(completions).build(submissions)
        }
        built => built,
    }
}

fn poll_mask(events: libc::c_short) -> u32 {
    u32::from(events.unsigned_abs())
}

/// A transfer's length for the ring; a larger one completes short and goes on from there.
fn ring_len(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(1 << 30)
}

/// The submission for what is left of `op` after `done` bytes.
fn submission(
    op: &mut Op,
    done: usize,
    message: &mut libc::msghdr,
    vectors: &mut [libc::iovec; 2],
) -> Sqe {
    match op {
        Op::Connect { socket } => {
            opcode::PollAdd::new(Fd(socket.raw()), poll_mask(libc::POLLOUT)).build()
        }
        Op::Await { stream } => {
            opcode::PollAdd::new(Fd(stream.raw()), poll_mask(libc::POLLIN)).build()
        }
        Op::Receive { socket, buf, at, most, .. } => {
            let into = &mut buf.bytes_mut()[*at + done..*at + *most];
            let (fd, start, length) = (Fd(socket.raw()), into.as_mut_ptr(), ring_len(into.len()));
            match socket.kind() {
                Kind::Socket => opcode::Recv::new(fd, start, length).build(),
                Kind::Stream | Kind::File => {
                    apart(socket, opcode::Read::new(fd, start, length).offset(u64::MAX).build())
                }
            }
        }
        Op::Send { socket, head, head_len, payload } => {
            let head = &head[done.min(*head_len)..*head_len];
            let rest = payload.as_ref().map_or(&[][..], |(buf, start, length)| {
                &buf[*start + done.saturating_sub(*head_len)..*start + *length]
            });
            apart(socket, send(socket, head, rest, message, vectors))
        }
        Op::Read { file, buf, at, length, offset } => {
            let into = &mut buf.bytes_mut()[*at + done..*at + *length];
            opcode::Read::new(Fd(file.raw()), into.as_mut_ptr(), ring_len(into.len()))
                .offset(*offset + done as u64)
                .build()
        }
        Op::Write { file, buf, at, length, offset } => {
            let from = &buf[*at + done..*at + *length];
            opcode::Write::new(Fd(file.raw()), from.as_ptr(), ring_len(from.len()))
                .offset(*offset + done as u64)
                .build()
        }
        Op::Zero { file, how, offset, length } => {
            let mode = match how {
                ZeroHow::PunchHole => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                ZeroHow::ZeroRange => libc::FALLOC_FL_ZERO_RANGE,
            };
            opcode::Fallocate::new(Fd(file.raw()), *length).offset(*offset).mode(mode).build()
        }
        Op::Sync { file } => {
            opcode::Fsync::new(Fd(file.raw())).flags(io_uring::types::FsyncFlags::DATASYNC).build()
        }
        // Moves never become one submission; `start` steps them itself.
        Op::Convey { from, .. } => {
            opcode::PollAdd::new(Fd(from.raw()), poll_mask(libc::POLLIN)).build()
        }
    }
}

/// The same submission, carried out by a thread of the kernel where it could block this one.
fn apart(stream: &Descriptor, sqe: Sqe) -> Sqe {
    if stream.is_terminal() { sqe.flags(io_uring::squeue::Flags::ASYNC) } else { sqe }
}

/// The submission that sends a head and what follows it, either of which may be empty.
fn send(
    socket: &Descriptor,
    head: &[u8],
    rest: &[u8],
    message: &mut libc::msghdr,
    vectors: &mut [libc::iovec; 2],
) -> Sqe {
    let fd = Fd(socket.raw());
    let one = if head.is_empty() { rest } else { head };
    if socket.kind() != Kind::Socket {
        return opcode::Write::new(fd, one.as_ptr(), ring_len(one.len())).offset(u64::MAX).build();
    }
    if rest.is_empty() || head.is_empty() {
        return opcode::Send::new(fd, one.as_ptr(), ring_len(one.len()))
            .flags(libc::MSG_NOSIGNAL)
            .build();
    }
    for (vector, part) in vectors.iter_mut().zip([head, rest]) {
        vector.iov_base = part.as_ptr().cast_mut().cast();
        vector.iov_len = part.len();
    }
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = 2;
    opcode::SendMsg::new(fd, message).flags(libc::MSG_NOSIGNAL.unsigned_abs()).build()
}
