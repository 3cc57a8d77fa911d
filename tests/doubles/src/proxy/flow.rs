//! One direction of one connection.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::line::Shared;
use crate::process::timespec;
use crate::socket::Stream;

/// The most that is taken from a socket at once.
const CHUNK_BYTES: usize = 64 << 10;
/// The most that is on its way in one direction of a connection.
const ON_THE_WAY_BYTES: usize = 32 << 20;
/// What a narrow line takes in ahead: as little as a router would, or the limit would not be
/// felt until 32 MiB were lost in it.
const NARROW_AHEAD: Duration = Duration::from_millis(50);

/// What one direction is like.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Direction {
    pub(super) delay: Duration,
    pub(super) bytes_per_second: Option<u64>,
}

/// One direction of one connection.
pub(super) struct Flow<'a> {
    shared: &'a Shared,
    id: u64,
    direction: Direction,
    counter: &'a AtomicU64,
    /// Chunks with the time at which they are due, and how much of each is written.
    queue: VecDeque<(Instant, Vec<u8>, usize)>,
    queued_bytes: usize,
    /// When a narrow line is free for the next chunk.
    free: Instant,
    ended: bool,
}

impl<'a> Flow<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        id: u64,
        direction: Direction,
        counter: &'a AtomicU64,
    ) -> Self {
        Self {
            shared,
            id,
            direction,
            counter,
            queue: VecDeque::new(),
            queued_bytes: 0,
            free: Instant::now(),
            ended: false,
        }
    }

    /// Moves bytes until the source ends or either side breaks.
    pub(super) fn run(mut self, source: &Stream, target: &Stream) {
        match self.forward(source, target) {
            Ok(()) => target.shutdown(Shutdown::Write),
            // One side broke: so does the other.
            Err(_) => [source, target].iter().for_each(|stream| stream.reset()),
        }
    }

    fn forward(&mut self, source: &Stream, target: &Stream) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let (mut reader, mut writer) = (source.try_clone()?, target.try_clone()?);
        while !self.ended || !self.queue.is_empty() {
            let (readable, writable) = self.wait(source, target)?;
            self.shared.pass(self.id)?;
            if writable {
                self.write(&mut writer)?;
            }
            if readable {
                self.read(&mut reader, &mut buffer)?;
            }
        }
        Ok(())
    }

    /// Waits until there is something to read and room for it, or something due that can be
    /// written.
    fn wait(&self, source: &Stream, target: &Stream) -> io::Result<(bool, bool)> {
        let now = Instant::now();
        let due = self.queue.front().map(|(due, ..)| due.saturating_duration_since(now));
        let reading = !self.ended && self.queued_bytes < self.capacity();
        let writing = due.is_some_and(|due| due.is_zero());
        let mut fds = Vec::new();
        // A descriptor polled for nothing would still wake us for a hang-up, again and again.
        if reading {
            fds.push(PollFd::new(source, PollFlags::IN));
        }
        if writing {
            fds.push(PollFd::new(target, PollFlags::OUT));
        }
        let timeout = due.filter(|_| !writing).map(timespec);
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok((false, false)),
            polled => polled?,
        };
        let ready = |position: usize| fds.get(position).is_some_and(|fd| !fd.revents().is_empty());
        let writable = writing && ready(usize::from(reading));
        Ok((reading && ready(0), writable))
    }

    fn capacity(&self) -> usize {
        let ahead = self.direction.delay + NARROW_AHEAD;
        self.direction.bytes_per_second.map_or(ON_THE_WAY_BYTES, |rate| {
            let bytes = u128::from(rate) * ahead.as_micros() / 1_000_000;
            usize::try_from(bytes)
                .map_or(ON_THE_WAY_BYTES, |bytes| bytes.clamp(1, ON_THE_WAY_BYTES))
        })
    }

    fn read(&mut self, source: &mut Stream, buffer: &mut [u8]) -> io::Result<()> {
        let room = buffer.len().min(self.capacity() - self.queued_bytes);
        let count = match source.read(&mut buffer[..room]) {
            Err(e) if is_transient(&e) => return Ok(()),
            count => count?,
        };
        if count == 0 {
            self.ended = true;
            return Ok(());
        }
        let now = Instant::now();
        let taken = self.direction.bytes_per_second.map_or(Duration::ZERO, |rate| {
            Duration::from_secs(count as u64) / u32::try_from(rate.max(1)).unwrap_or(u32::MAX)
        });
        self.free = self.free.max(now) + taken;
        let due = self.free + self.direction.delay;
        self.queue.push_back((due, buffer[..count].to_vec(), 0));
        self.queued_bytes += count;
        Ok(())
    }

    /// Writes what is due.
    fn write(&mut self, target: &mut Stream) -> io::Result<()> {
        while let Some((due, chunk, done)) = self.queue.front_mut() {
            if *due > Instant::now() {
                break;
            }
            let count = match target.write(&chunk[*done..]) {
                Err(e) if is_transient(&e) => break,
                count => count?,
            };
            *done += count;
            if *done == chunk.len() {
                self.queued_bytes -= chunk.len();
                self.queue.pop_front();
            }
            // Under the lock, so that nobody who waits for it misses it.
            let _state = self.shared.state();
            self.counter.fetch_add(count as u64, Ordering::Relaxed);
            self.shared.changed.notify_all();
        }
        Ok(())
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
