//! One connection: requests in, replies out.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::builder::Replies;
use super::fault::{Fault, Occasion};
use super::image::in_memory;
use super::log::{Command, Request};
use super::reply::{Encoder, Reply, Then};
use super::server::Shared;
use super::wire::{self, errno, export, flag};
use crate::disk::Random;
use crate::process::timespec;
use crate::socket::Stream;

/// Longer than any test.
pub(super) const FOREVER: Duration = Duration::from_secs(24 * 3600);
/// How long an interleaving server waits for one more request before it answers.
const GATHER: Duration = Duration::from_millis(3);
/// How many requests an interleaving server answers together.
const TOGETHER: usize = 16;
/// A payload above this ends the connection, as with qemu-nbd.
const PAYLOAD_BYTES: u64 = 64 << 20;

pub(super) struct Session<'a> {
    pub(super) shared: &'a Shared,
    stream: Stream,
    pub(super) id: u64,
    life: u64,
    pub(super) replies: Replies,
    pub(super) no_zeroes: bool,
    /// The export whose base:allocation was agreed on.
    pub(super) context_of: Option<String>,
    random: Random,
    /// A fault ended this connection, not the client.
    broken: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(shared: &'a Shared, stream: Stream, id: u64, life: u64) -> Self {
        Self {
            shared,
            stream,
            id,
            life,
            replies: Replies::Simple,
            no_zeroes: false,
            context_of: None,
            random: Random::new(shared.config.interleave.unwrap_or(0) + id),
            broken: false,
        }
    }

    /// Serves the client until one side has enough.
    pub(super) fn run(mut self) {
        let shared = self.shared;
        let Ok(_slot) = shared.take_slot() else {
            return;
        };
        // An error here is the client's leaving or a fault; both are what tests are about.
        if let Ok(true) = self.handshake() {
            let _ = self.transmit();
        }
        self.stream.shutdown(Shutdown::Both);
        if self.broken && shared.config.lose_unflushed {
            shared.crash();
        }
    }

    fn transmit(&mut self) -> io::Result<()> {
        let mut waiting = Vec::new();
        while let Some(reply) = self.serve()? {
            waiting.push(reply);
            let more = self.shared.config.interleave.is_some()
                && waiting.len() < TOGETHER
                && self.readable_within(GATHER)?;
            if !more {
                self.answer(std::mem::take(&mut waiting))?;
            }
        }
        self.answer(waiting)
    }

    /// Takes one request and carries it out; `None` for DISC.
    fn serve(&mut self) -> io::Result<Option<Reply>> {
        let mut request = self.take_header()?;
        if request.command == Command::Disc {
            self.shared.world().log.push(request);
            self.shared.notify();
            return Ok(None);
        }
        let fault = self.fault(request.command.occasions());
        let mut payload = Vec::new();
        if request.command == Command::Write {
            if matches!(fault, Some(Fault::CloseInRequest | Fault::StallInRequest)) {
                self.take(request.length / 2)?;
                if fault == Some(Fault::CloseInRequest) {
                    return Err(self.break_off());
                }
                self.shared.park(self.id, FOREVER)?;
            }
            if request.length > PAYLOAD_BYTES {
                self.violation(&format!("a payload of {} bytes", request.length));
                return Err(self.break_off());
            }
            payload = self.take(request.length)?;
        }
        if fault == Some(Fault::Crash) {
            self.shared.crash();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let pieces = self.carry_out(&mut request, &payload, fault.as_ref())?;
        Ok(Some(Reply::new(pieces, fault.as_ref())))
    }

    /// Does what is asked, all of it at one moment, and logs it.
    fn carry_out(
        &mut self,
        request: &mut Request,
        payload: &[u8],
        fault: Option<&Fault>,
    ) -> io::Result<Vec<Vec<u8>>> {
        let shared = self.shared;
        let mut world = shared.world();
        if world.image.life != self.life {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let encoder = Encoder { replies: self.replies, request: *request };
        let refusal = fault.and_then(|fault| encoder.refusal(fault));
        let pieces = if let Some(refusal) = refusal {
            request.error = match fault {
                Some(Fault::Error(errno)) => *errno,
                _ => errno::EIO,
            };
            vec![refusal]
        } else if let Err((errno, why)) = self.check(request, world.image.size) {
            request.error = errno;
            world.violations.push(format!("connection {}: {why}: {request:?}", self.id));
            vec![encoder.error(errno, why)]
        } else {
            if self.must_tell_payload(request.command) && request.flags & flag::PAYLOAD_LEN == 0 {
                // Real servers put up with it, because qemu's client does it.
                let text = format!("connection {}: no PAYLOAD_LEN: {request:?}", self.id);
                world.violations.push(text);
            }
            let Request { offset, length, flags, .. } = *request;
            let stable = flags & flag::FUA != 0;
            match request.command {
                Command::Read => {
                    let data = world.image.read(offset, length);
                    let mixed = shared.config.interleave.map(|_| Fault::MixedChunks);
                    encoder.read(&data, fault.or(mixed.as_ref()), &mut self.random)
                }
                Command::BlockStatus => {
                    let mut extents = world.image.extents(offset, length);
                    if fault == Some(&Fault::LongLastExtent) && flags & flag::REQ_ONE == 0 {
                        let kept = extents.len();
                        extents = world.image.extents(offset, world.image.size - offset);
                        extents.truncate(kept);
                    }
                    vec![encoder.block_status(extents, fault)]
                }
                command => {
                    match command {
                        Command::Write => world.image.write(offset, payload, stable),
                        Command::WriteZeroes | Command::Trim => {
                            world.image.zero(offset, length, stable);
                        }
                        Command::Flush => world.image.flush(),
                        _ => {}
                    }
                    vec![encoder.done()]
                }
            }
        };
        world.log.push(*request);
        shared.notify();
        Ok(pieces)
    }

    /// Whether the flag PAYLOAD_LEN has to be set.
    fn must_tell_payload(&self, command: Command) -> bool {
        command == Command::Write && self.replies == Replies::Extended
    }

    /// What is wrong with a request.
    fn check(&self, request: &Request, size: u64) -> Result<(), (u32, &'static str)> {
        let Request { command, offset, length, flags, .. } = *request;
        let config = &self.shared.config;
        let lacks = |bits| config.flags & bits != bits;
        let writes = matches!(command, Command::Write | Command::WriteZeroes | Command::Trim);
        let invalid = |why| Err((errno::EINVAL, why));
        if writes && !lacks(export::READ_ONLY) {
            return Err((errno::EPERM, "a write to a read-only export"));
        }
        let needed = match command {
            Command::Flush => export::SEND_FLUSH,
            Command::Trim => export::SEND_TRIM,
            Command::WriteZeroes => export::SEND_WRITE_ZEROES,
            Command::Cache => export::SEND_CACHE,
            _ => 0,
        };
        let conditions: [(u16, u16); 3] = [
            (flag::FUA, export::SEND_FUA),
            (flag::DF, export::SEND_DF),
            (flag::FAST_ZERO, export::SEND_FAST_ZERO),
        ];
        if lacks(needed) || conditions.iter().any(|&(bit, needs)| flags & bit != 0 && lacks(needs))
        {
            return invalid("not advertised");
        }
        if flags & flag::DF != 0 && self.replies == Replies::Simple {
            return invalid("DF without structured replies");
        }
        if flags & flag::PAYLOAD_LEN != 0 && !self.must_tell_payload(command) {
            return invalid("PAYLOAD_LEN belongs to a write with extended headers");
        }
        match command {
            Command::Flush if offset != 0 || length != 0 => return invalid("a flush of a range"),
            Command::Flush => return Ok(()),
            Command::Other(_) => return invalid("an unknown command"),
            Command::BlockStatus if self.context_of.is_none() => {
                return invalid("block status without a context");
            }
            _ => {}
        }
        let (minimum, _, maximum) = config.block;
        let minimum = u64::from(minimum);
        if length == 0 {
            return invalid("no length");
        }
        if offset.checked_add(length).is_none_or(|end| end > size) {
            let errno = if writes { errno::ENOSPC } else { errno::EINVAL };
            return Err((errno, "past the end"));
        }
        if offset % minimum != 0 || length % minimum != 0 {
            return invalid("not aligned to the minimum block");
        }
        let carries = matches!(command, Command::Read | Command::Write);
        if carries && length > u64::from(maximum) {
            return invalid("more than the maximum payload");
        }
        Ok(())
    }

    /// Sends replies; the pieces of several come in any order, each reply's own in order.
    fn answer(&mut self, replies: Vec<Reply>) -> io::Result<()> {
        let mut left = Vec::new();
        for reply in replies {
            if let Some(time) = reply.wait {
                self.shared.park(self.id, time)?;
            }
            if let Some(time) = reply.drip {
                self.mix(std::mem::take(&mut left))?;
                for byte in reply.pieces.concat() {
                    self.shared.park(self.id, time)?;
                    self.send(&[byte])?;
                }
                continue;
            }
            if reply.then == Then::GoOn {
                left.push(reply.pieces.into_iter());
                continue;
            }
            // What came before it is not to be lost with it.
            self.mix(std::mem::take(&mut left))?;
            reply.pieces.iter().try_for_each(|piece| self.send(piece))?;
            match reply.then {
                Then::Park => self.shared.park(self.id, FOREVER)?,
                Then::Reset => self.stream.reset(),
                Then::Repeat => loop {
                    self.send(reply.pieces.last().expect("there is something to repeat"))?;
                },
                _ => {}
            }
            return Err(self.break_off());
        }
        self.mix(left)
    }

    fn mix(&mut self, mut left: Vec<std::vec::IntoIter<Vec<u8>>>) -> io::Result<()> {
        while !left.is_empty() {
            let chosen = in_memory(self.random.below(left.len() as u64));
            match left[chosen].next() {
                Some(piece) => self.send(&piece)?,
                None => drop(left.swap_remove(chosen)),
            }
        }
        Ok(())
    }

    fn take_header(&mut self) -> io::Result<Request> {
        let extended = self.replies == Replies::Extended;
        let magic = self.take_u32()?;
        if magic != if extended { wire::EXTENDED_REQUEST } else { wire::REQUEST } {
            self.violation(&format!("a request with the magic {magic:#010x}"));
            return Err(io::ErrorKind::InvalidData.into());
        }
        let flags_and_command = self.take_u32()?.to_be_bytes();
        let [flags, command] = [&flags_and_command[..2], &flags_and_command[2..]]
            .map(|half| u16::from_be_bytes(half.try_into().expect("two bytes")));
        Ok(Request {
            connection: self.id,
            command: command.into(),
            flags,
            cookie: self.take_u64()?,
            offset: self.take_u64()?,
            length: if extended { self.take_u64()? } else { self.take_u32()?.into() },
            error: 0,
        })
    }

    fn readable_within(&self, time: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        Ok(poll(&mut fds, Some(&timespec(time)))? > 0)
    }

    pub(super) fn fault(&self, occasions: &[Occasion]) -> Option<Fault> {
        let chunks = self.replies != Replies::Simple;
        self.shared.fault(occasions, self.id, chunks)
    }

    pub(super) fn violation(&self, text: &str) {
        self.shared.violation(self.id, text);
    }

    /// The error with which a fault ends this connection.
    pub(super) fn break_off(&mut self) -> io::Error {
        self.broken = true;
        io::ErrorKind::ConnectionAborted.into()
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub(super) fn take(&mut self, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; in_memory(length)];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn take_u32(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.stream.read_exact(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    pub(super) fn take_u64(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.stream.read_exact(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }
}
