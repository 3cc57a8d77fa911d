//! One io_uring for all lanes on one thread, driven by hand.
//!
//! A lane has at most four operations in flight, one of each [`Track`]. Everything that an
//! operation works on lies in its lane, which does not move and is dropped after the ring.

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use io_uring::squeue::Entry;
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};

use super::{BLOCKS, Payload, Pipe};
use crate::lane::{ACKS, Acks, Block, HEAD, Job, Progress, REPLY};

/// Submissions that fit before the kernel must be told: four of each of 64 lanes.
const SUBMISSIONS: u32 = 256;

pub(super) fn run(job: &Job, payload: Payload) -> io::Result<()> {
    let mut lanes = Vec::new();
    for _ in 0..job.lanes {
        lanes.push(Box::new(Lane::new(job, payload)?));
    }
    // After the lanes, so that it is dropped first.
    let mut ring =
        IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(SUBMISSIONS)?;
    for (index, lane) in lanes.iter_mut().enumerate() {
        lane.pump(&mut ring, index)?;
    }
    while lanes.iter().any(|lane| !lane.progress.is_done()) {
        ring.submit_and_wait(1)?;
        loop {
            let Some(entry) = ring.completion().next() else {
                break;
            };
            let index = usize::try_from(entry.user_data() / 4).map_err(io::Error::other)?;
            let lane = &mut lanes[index];
            let track = Track::ALL[usize::try_from(entry.user_data() % 4).unwrap_or(0)];
            lane.in_flight[track as usize] = false;
            match usize::try_from(entry.result()) {
                Ok(count) => lane.complete(track, count)?,
                Err(_) => return Err(io::Error::from_raw_os_error(-entry.result())),
            }
            lane.pump(&mut ring, index)?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Track {
    Ask,
    Take,
    Put,
    Hear,
}

impl Track {
    const ALL: [Self; 4] = [Self::Ask, Self::Take, Self::Put, Self::Hear];
}

enum Taking {
    Head(usize),
    Payload(usize),
}

struct Lane {
    source: TcpStream,
    target: TcpStream,
    progress: Progress,
    request: usize,
    payload: Payload,
    in_flight: [bool; 4],
    asking: Vec<u8>,
    taking: Taking,
    head: [u8; REPLY],
    free: Vec<Block>,
    full: VecDeque<Block>,
    /// Bytes of the block in front that have left; of the payload, with a pipe.
    sent: usize,
    pipe: Pipe,
    held: usize,
    ack_bytes: [u8; ACKS],
    acks: Acks,
}

impl Lane {
    fn new(job: &Job, payload: Payload) -> io::Result<Self> {
        let (source, target) = job.connect()?;
        Ok(Self {
            source,
            target,
            progress: Progress::new(job),
            request: job.request,
            payload,
            in_flight: [false; 4],
            asking: Vec::with_capacity(HEAD * 64),
            taking: Taking::Head(0),
            head: [0; REPLY],
            free: (0..BLOCKS).map(|_| Block::new(job.request)).collect(),
            full: VecDeque::new(),
            sent: 0,
            pipe: Pipe::new()?,
            held: 0,
            ack_bytes: [0; ACKS],
            acks: Acks::default(),
        })
    }

    /// Submits what can be under way and is not.
    fn pump(&mut self, ring: &mut IoUring, index: usize) -> io::Result<()> {
        for track in Track::ALL {
            if self.in_flight[track as usize] {
                continue;
            }
            let Some(entry) = self.next(track)? else {
                continue;
            };
            let entry = entry.user_data(index as u64 * 4 + track as u64);
            // SAFETY: the entry points into this boxed lane or into blocks that it owns. They
            // stay where they are and are not touched until the completion, which `in_flight`
            // sees to, and the ring is dropped before the lanes are.
            while unsafe { ring.submission().push(&entry) }.is_err() {
                ring.submit()?;
            }
            self.in_flight[track as usize] = true;
        }
        Ok(())
    }

    fn next(&mut self, track: Track) -> io::Result<Option<Entry>> {
        let source = Fd(self.source.as_raw_fd());
        Ok(match (track, self.payload) {
            (Track::Ask, _) => {
                self.progress.ask(&mut self.asking);
                (!self.asking.is_empty()).then(|| send(source, &self.asking))
            }
            (Track::Take, payload) => match self.taking {
                _ if self.progress.taken == self.progress.asked => None,
                Taking::Head(have) => Some(recv(source, &mut self.head[have..], true)),
                Taking::Payload(have) if payload == Payload::Buffers => {
                    let block = self.free.last_mut();
                    block.map(|block| recv(source, &mut block.payload_mut()[have..], true))
                }
                Taking::Payload(have) => self.fill(have),
            },
            (Track::Put, Payload::Buffers) => {
                let target = Fd(self.target.as_raw_fd());
                let head = self.progress.write_head();
                self.full.front_mut().map(|block| {
                    if self.sent == 0 {
                        block.put_head(head);
                    }
                    send(target, &block.message()[self.sent..])
                })
            }
            (Track::Put, Payload::Splice) => self.empty(),
            (Track::Hear, _) => (self.progress.acked < self.progress.put)
                .then(|| recv(Fd(self.target.as_raw_fd()), &mut self.ack_bytes, false)),
        })
    }

    /// Fills the empty pipe; it is emptied before it is filled again.
    fn fill(&mut self, have: usize) -> Option<Entry> {
        let into_pipe = (self.held == 0 && have < self.request).then(|| {
            let most = (self.request - have).min(self.pipe.capacity);
            (Fd(self.source.as_raw_fd()), Fd(self.pipe.writer.as_raw_fd()), most, false)
        })?;
        Some(splice(into_pipe))
    }

    fn empty(&mut self) -> Option<Entry> {
        if self.held == 0 {
            return None;
        }
        let more = matches!(self.taking, Taking::Payload(have) if have < self.request);
        let (from, to) = (self.pipe.reader.as_raw_fd(), self.target.as_raw_fd());
        Some(splice((Fd(from), Fd(to), self.held, more)))
    }

    fn complete(&mut self, track: Track, count: usize) -> io::Result<()> {
        match (track, self.payload) {
            (Track::Ask, _) => drop(self.asking.drain(..count)),
            (Track::Take, _) if count == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            (Track::Take, _) => self.took(count)?,
            (Track::Put, Payload::Buffers) => {
                self.sent += count;
                if self.sent == HEAD + self.request {
                    self.free.extend(self.full.pop_front());
                    self.progress.put += 1;
                    self.sent = 0;
                }
            }
            (Track::Put, Payload::Splice) => {
                self.held -= count;
                if self.held == 0 && matches!(self.taking, Taking::Payload(n) if n == self.request)
                {
                    self.progress.taken += 1;
                    self.progress.put += 1;
                    self.taking = Taking::Head(0);
                }
            }
            (Track::Hear, _) => {
                self.acks.feed(&self.ack_bytes[..count], &mut self.progress)?;
            }
        }
        Ok(())
    }

    fn took(&mut self, count: usize) -> io::Result<()> {
        match self.taking {
            Taking::Head(have) if have + count < REPLY => self.taking = Taking::Head(have + count),
            Taking::Head(_) => {
                self.progress.check_reply(&self.head)?;
                self.taking = Taking::Payload(0);
                if self.payload == Payload::Splice {
                    let head = self.progress.write_head();
                    self.send_head(&head)?;
                }
            }
            Taking::Payload(have) if self.payload == Payload::Splice => {
                self.held += count;
                self.taking = Taking::Payload(have + count);
            }
            Taking::Payload(have) if have + count < self.request => {
                self.taking = Taking::Payload(have + count);
            }
            Taking::Payload(_) => {
                self.full.extend(self.free.pop());
                self.progress.taken += 1;
                self.taking = Taking::Head(0);
            }
        }
        Ok(())
    }

    /// A send of 28 bytes that wait for the payload costs less than an operation of the ring.
    fn send_head(&self, mut head: &[u8]) -> io::Result<()> {
        use rustix::net::SendFlags;
        while !head.is_empty() {
            let sent =
                rustix::net::send(&self.target, head, SendFlags::MORE | SendFlags::NOSIGNAL)?;
            head = &head[sent..];
        }
        Ok(())
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(1 << 30)
}

fn send(to: Fd, bytes: &[u8]) -> Entry {
    opcode::Send::new(to, bytes.as_ptr(), length(bytes.len()))
        .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
        .build()
}

fn recv(from: Fd, into: &mut [u8], all: bool) -> Entry {
    opcode::Recv::new(from, into.as_mut_ptr(), length(into.len()))
        .flags(if all { libc::MSG_WAITALL } else { 0 })
        .build()
}

fn splice((from, to, bytes, more): (Fd, Fd, usize, bool)) -> Entry {
    let more = if more { libc::SPLICE_F_MORE } else { 0 };
    opcode::Splice::new(from, -1, to, -1, length(bytes)).flags(libc::SPLICE_F_MOVE | more).build()
}
