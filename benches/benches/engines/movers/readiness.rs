//! Non-blocking system calls on readiness that mio tells, all lanes on one thread.

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::pipe::{SpliceFlags, splice};

use super::{BLOCKS, Payload, Pipe};
use crate::lane::{ACKS, Acks, Block, Job, Progress, REPLY};

pub(super) fn run(job: &Job, payload: Payload) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut lanes = Vec::new();
    for index in 0..job.lanes {
        let lane = Lane::new(job, payload)?;
        for (end, stream) in [&lane.source, &lane.target].into_iter().enumerate() {
            poll.registry().register(
                &mut SourceFd(&stream.as_raw_fd()),
                Token(index * 2 + end),
                Interest::READABLE | Interest::WRITABLE,
            )?;
        }
        lanes.push(lane);
    }
    let mut events = Events::with_capacity(256);
    for lane in &mut lanes {
        lane.step()?;
    }
    while lanes.iter().any(|lane| !lane.progress.is_done()) {
        poll.poll(&mut events, None)?;
        for event in &events {
            let lane = &mut lanes[event.token().0 / 2];
            let at_source = event.token().0 % 2 == 0;
            let ended = event.is_read_closed() || event.is_error();
            let ready = if at_source { &mut lane.source_ready } else { &mut lane.target_ready };
            ready.read |= event.is_readable() || ended;
            ready.write |= event.is_writable() || ended;
            lane.step()?;
        }
    }
    Ok(())
}

/// What epoll said last; an edge is used up by EAGAIN.
struct Ready {
    read: bool,
    write: bool,
}

/// What comes next from the source.
enum Taking {
    Head(usize),
    Payload(usize),
}

struct Lane {
    source: TcpStream,
    target: TcpStream,
    source_ready: Ready,
    target_ready: Ready,
    progress: Progress,
    request: usize,
    payload: Payload,
    asking: Vec<u8>,
    taking: Taking,
    head: [u8; REPLY],
    free: Vec<Block>,
    full: VecDeque<Block>,
    /// Bytes of the block in front that have left.
    sent: usize,
    pipe: Pipe,
    /// Bytes in the pipe.
    held: usize,
    acks: Acks,
}

impl Lane {
    fn new(job: &Job, payload: Payload) -> io::Result<Self> {
        let (source, target) = job.connect()?;
        source.set_nonblocking(true)?;
        target.set_nonblocking(true)?;
        Ok(Self {
            source,
            target,
            source_ready: Ready { read: true, write: true },
            target_ready: Ready { read: true, write: true },
            progress: Progress::new(job),
            request: job.request,
            payload,
            asking: Vec::new(),
            taking: Taking::Head(0),
            head: [0; REPLY],
            free: (0..BLOCKS).map(|_| Block::new(job.request)).collect(),
            full: VecDeque::new(),
            sent: 0,
            pipe: Pipe::new()?,
            held: 0,
            acks: Acks::default(),
        })
    }

    /// Does all that can be done now.
    fn step(&mut self) -> io::Result<()> {
        loop {
            self.ask()?;
            let mut moved = match self.payload {
                Payload::Buffers => self.take()? | self.put()?,
                Payload::Splice => self.convey()?,
            };
            moved |= self.hear()?;
            if !moved {
                return Ok(());
            }
        }
    }

    fn ask(&mut self) -> io::Result<()> {
        self.progress.ask(&mut self.asking);
        while self.source_ready.write && !self.asking.is_empty() {
            match send(&self.source, &self.asking, SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.asking.drain(..count)),
                Err(Errno::AGAIN) => self.source_ready.write = false,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Receives the head of a reply; true when the payload is next.
    fn take_head(&mut self) -> io::Result<bool> {
        while let Taking::Head(have) = self.taking {
            if !self.source_ready.read || self.progress.taken == self.progress.asked {
                return Ok(false);
            }
            match recv(&self.source, &mut self.head[have..], RecvFlags::empty()) {
                Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, count)) if have + count < REPLY => {
                    self.taking = Taking::Head(have + count);
                }
                Ok(_) => {
                    self.progress.check_reply(&self.head)?;
                    self.taking = Taking::Payload(0);
                    if self.payload == Payload::Splice {
                        // The payload before is gone, and an empty pipe takes a head whole.
                        let head = self.progress.write_head();
                        self.held = rustix::io::write(&self.pipe.writer, &head)?;
                    }
                }
                Err(Errno::AGAIN) => self.source_ready.read = false,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(true)
    }

    fn take(&mut self) -> io::Result<bool> {
        let mut moved = false;
        while !self.free.is_empty() && self.take_head()? {
            let Taking::Payload(have) = self.taking else {
                break;
            };
            let Some(block) = self.free.last_mut().filter(|_| self.source_ready.read) else {
                break;
            };
            match recv(&self.source, &mut block.payload_mut()[have..], RecvFlags::empty()) {
                Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, count)) if have + count < self.request => {
                    self.taking = Taking::Payload(have + count);
                }
                Ok(_) => {
                    self.full.extend(self.free.pop());
                    self.progress.taken += 1;
                    self.taking = Taking::Head(0);
                    moved = true;
                }
                Err(Errno::AGAIN) => self.source_ready.read = false,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(moved)
    }

    fn put(&mut self) -> io::Result<bool> {
        let mut moved = false;
        while self.target_ready.write
            && let Some(block) = self.full.front_mut()
        {
            if self.sent == 0 {
                block.put_head(self.progress.write_head());
            }
            match send(&self.target, &block.message()[self.sent..], SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => self.target_ready.write = false,
                Err(e) => return Err(e.into()),
            }
            if self.sent == block.message().len() {
                self.free.extend(self.full.pop_front());
                self.progress.put += 1;
                self.sent = 0;
                moved = true;
            }
        }
        Ok(moved)
    }

    /// Fills the pipe with what is there, then empties it.
    fn convey(&mut self) -> io::Result<bool> {
        let mut moved = false;
        while self.take_head()? {
            let Taking::Payload(have) = self.taking else {
                break;
            };
            let mut taken = have;
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            while self.source_ready.read && taken < self.request && self.held < self.pipe.capacity {
                let most = (self.request - taken).min(self.pipe.capacity - self.held);
                match splice(&self.source, None, &self.pipe.writer, None, most, flags) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(count) => {
                        taken += count;
                        self.held += count;
                    }
                    // The source is dry, or the pipe has no slot left: which, is seen when the
                    // pipe is empty.
                    Err(Errno::AGAIN) if taken > have => break,
                    Err(Errno::AGAIN) => {
                        self.source_ready.read = self.held > 0;
                        break;
                    }
                    Err(e) => return Err(e.into()),
                }
            }
            let mut left = false;
            while self.target_ready.write && self.held > 0 {
                let more =
                    if taken < self.request { SpliceFlags::MORE } else { SpliceFlags::empty() };
                match splice(&self.pipe.reader, None, &self.target, None, self.held, flags | more) {
                    Ok(count) => {
                        self.held -= count;
                        left = true;
                    }
                    Err(Errno::AGAIN) => self.target_ready.write = false,
                    Err(e) => return Err(e.into()),
                }
            }
            self.taking = Taking::Payload(taken);
            if taken == self.request && self.held == 0 {
                self.progress.taken += 1;
                self.progress.put += 1;
                self.taking = Taking::Head(0);
                moved = true;
            } else if taken == have && !left {
                break;
            }
        }
        Ok(moved)
    }

    /// Receives acknowledgements.
    fn hear(&mut self) -> io::Result<bool> {
        let before = self.progress.acked;
        let mut bytes = [0; ACKS];
        while self.target_ready.read && self.progress.acked < self.progress.put {
            match recv(&self.target, &mut bytes[..], RecvFlags::empty()) {
                Ok((_, count)) => self.acks.feed(&bytes[..count], &mut self.progress)?,
                Err(Errno::AGAIN) => self.target_ready.read = false,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(self.progress.acked > before)
    }
}
