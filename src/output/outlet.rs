//! Standard error has a thread of its own that writes it: whoever has a line to say goes on, also
//! while nobody reads.
//!
//! All lines come out in their order as long as somebody reads. Where nobody does they wait in a
//! queue; when that is full and nothing was taken for [`PATIENCE`], the oldest are left out and
//! counted, for the last ones say how it ended.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::patient;

/// Bytes of lines that wait, at most; a single line may be longer.
const QUEUE_BYTES: usize = 1 << 20;
/// How long whoever says a line waits until it is written, so that what is written elsewhere comes
/// behind it: to a pipe with room, or to a terminal, far less is enough.
const IN_STEP: Duration = Duration::from_millis(50);
/// How long a reader that takes nothing is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the end of the program waits for a reader that takes a little now and then.
const LAST_WORDS: Duration = Duration::from_secs(10);

static STDERR: LazyLock<Outlet> = LazyLock::new(|| Outlet::to(Box::new(io::stderr())));

/// Writes a line to standard error, sooner or later.
pub(super) fn say(line: String) {
    STDERR.say(line);
}

/// Waits until what was said is written, as long as somebody reads.
pub(super) fn drain() {
    STDERR.drain(PATIENCE, PATIENCE);
}

/// The same at the end of the program, which is no later than a few seconds from now.
pub(crate) fn finish() {
    STDERR.drain(PATIENCE, LAST_WORDS);
}

/// Lines on their way to a descriptor.
struct Outlet {
    shared: Arc<Shared>,
}

struct Shared {
    to: Box<dyn AsFd + Send + Sync>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<String>,
    bytes: usize,
    /// Lines that had to go from the front of it.
    left_out: usize,
    /// The thread is writing one.
    in_hand: bool,
    /// Grows whenever the reader takes something.
    taken: u64,
    /// Lines wait for a reader that does not keep up; nobody waits with them.
    lags: bool,
    /// Nothing was taken for too long.
    stalled: bool,
    writer: Writer,
}

/// The thread that writes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Writer {
    #[default]
    NotYet,
    Runs,
    /// The system has no thread for us.
    None,
}

impl Outlet {
    fn to(to: Box<dyn AsFd + Send + Sync>) -> Self {
        let shared = Shared { to, queue: Mutex::default(), changed: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }

    fn say(&self, line: String) {
        let mut queue = self.shared.lock();
        if queue.writer == Writer::NotYet {
            let shared = Arc::clone(&self.shared);
            let started =
                thread::Builder::new().name("stderr".into()).spawn(move || shared.write_all());
            queue.writer = if started.is_ok() { Writer::Runs } else { Writer::None };
        }
        if queue.writer == Writer::None {
            // The lock keeps the order.
            let deadline = Instant::now() + PATIENCE;
            // There is no other place to say so.
            let _ =
                patient::write_all(&*self.shared.to, line.as_bytes(), || Instant::now() < deadline);
            return;
        }
        let mut queue = self.shared.wait_for_room(queue, line.len());
        while !queue.has_room(line.len()) {
            queue.leave_oldest_out();
        }
        queue.bytes += line.len();
        queue.waiting.push_back(line);
        self.shared.changed.notify_all();
        if !queue.lags {
            let (mut queue, waited) = self
                .shared
                .changed
                .wait_timeout_while(queue, IN_STEP, |queue| !queue.is_drained())
                .unwrap_or_else(PoisonError::into_inner);
            queue.lags = waited.timed_out();
        }
    }

    /// Waits until all is written: no longer than `patience` for a reader that takes nothing, and
    /// than `limit` for any.
    fn drain(&self, patience: Duration, limit: Duration) {
        let end = Instant::now() + limit;
        let mut queue = self.shared.lock();
        while !queue.is_drained() {
            let taken = queue.taken;
            let wait = patience.min(end.saturating_duration_since(Instant::now()));
            let (next, waited) = self
                .shared
                .changed
                .wait_timeout_while(queue, wait, |queue| {
                    !queue.is_drained() && queue.taken == taken
                })
                .unwrap_or_else(PoisonError::into_inner);
            if waited.timed_out() {
                return;
            }
            queue = next;
        }
    }
}

impl Queue {
    fn has_room(&self, more: usize) -> bool {
        self.waiting.is_empty() || self.bytes + more <= QUEUE_BYTES
    }

    fn is_drained(&self) -> bool {
        self.waiting.is_empty() && !self.in_hand
    }

    fn leave_oldest_out(&mut self) {
        if let Some(line) = self.waiting.pop_front() {
            self.bytes -= line.len();
            self.left_out += 1;
        }
    }

    /// What is written next.
    fn next(&mut self) -> Option<String> {
        match std::mem::take(&mut self.left_out) {
            0 => {
                let line = self.waiting.pop_front()?;
                self.bytes -= line.len();
                Some(line)
            }
            1 => Some("blockferry: a line was left out here, since nobody read it\n".into()),
            lines => Some(format!(
                "blockferry: {lines} lines were left out here, since nobody read them\n"
            )),
        }
    }

    fn was_taken(&mut self) {
        self.taken += 1;
        self.stalled = false;
    }
}

impl Shared {
    /// The lock of what is whole at any moment.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the reader to make room for so many bytes, as long as it takes anything.
    fn wait_for_room<'a>(
        &'a self,
        mut queue: MutexGuard<'a, Queue>,
        more: usize,
    ) -> MutexGuard<'a, Queue> {
        while !queue.has_room(more) && !queue.stalled {
            let taken = queue.taken;
            let (next, waited) = self
                .changed
                .wait_timeout_while(queue, PATIENCE, |queue| {
                    !queue.has_room(more) && queue.taken == taken && !queue.stalled
                })
                .unwrap_or_else(PoisonError::into_inner);
            queue = next;
            queue.stalled |= waited.timed_out();
        }
        queue
    }

    /// The thread's work, to the end of the program.
    fn write_all(&self) {
        let mut queue = self.lock();
        loop {
            let Some(line) = queue.next() else {
                queue.lags = false;
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.in_hand = true;
            drop(queue);
            self.write(line.as_bytes());
            queue = self.lock();
            queue.in_hand = false;
            queue.was_taken();
            self.changed.notify_all();
        }
    }

    /// Writes a line, however long that takes. It is lost if it cannot be written: there is no
    /// other place to say so.
    fn write(&self, mut rest: &[u8]) {
        while !rest.is_empty() {
            match rustix::io::write(self.to.as_fd(), rest) {
                Ok(count) => {
                    rest = &rest[count..];
                    self.lock().was_taken();
                    self.changed.notify_all();
                }
                Err(Errno::INTR) => {}
                // Whoever shares it with us does not want to wait; this thread does.
                Err(Errno::AGAIN) => {
                    let _ = poll(
                        &mut [PollFd::from_borrowed_fd(self.to.as_fd(), PollFlags::OUT)],
                        None,
                    );
                }
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::fd::OwnedFd;

    use super::*;

    fn pipe() -> (BufReader<io::PipeReader>, Outlet) {
        let (reader, writer) = io::pipe().unwrap();
        (BufReader::new(reader), Outlet::to(Box::new(OwnedFd::from(writer))))
    }

    #[test]
    fn a_reader_gets_all_lines_in_their_order() {
        // Several times what waits at most.
        const LINES: usize = 30_000;
        let (reader, outlet) = pipe();
        let shared = Arc::clone(&outlet.shared);
        let reads = thread::spawn(move || {
            // It is slow to begin: much waits by then.
            while shared.lock().bytes < QUEUE_BYTES / 2 {
                thread::yield_now();
            }
            let lines = reader.lines().map(Result::unwrap);
            let last = format!("line {}", LINES - 1);
            let mut expected = 0;
            for line in lines {
                assert!(line.starts_with(&format!("line {expected}")), "{line}");
                expected += 1;
                if line.starts_with(&last) {
                    break;
                }
            }
            expected
        });
        for line in 0..LINES {
            outlet.say(format!("line {line}{:60}\n", ""));
        }
        outlet.drain(Duration::from_secs(30), Duration::from_secs(30));
        assert!(outlet.shared.lock().is_drained());
        assert_eq!(reads.join().unwrap(), LINES);
    }

    #[test]
    fn without_a_reader_the_oldest_lines_are_left_out_and_counted() {
        let (reader, outlet) = pipe();
        let long = "x".repeat(1000);
        let begun = Instant::now();
        for line in 0..3000 {
            outlet.say(format!("{line} {long}\n"));
        }
        outlet.drain(PATIENCE, LAST_WORDS);
        // Once for the queue, once for the end: not for each line.
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        let mut lines = reader.lines().map(Result::unwrap);
        let (mut next, mut left_out) = (0, 0);
        while next < 3000 {
            let line = lines.next().unwrap();
            let number = line.split(' ').next().unwrap();
            if number == "blockferry:" {
                left_out = line.split(' ').nth(1).unwrap().parse().unwrap();
                next += left_out;
            } else {
                assert_eq!(number, next.to_string());
                next += 1;
            }
        }
        assert!(left_out > 1000, "{left_out}");
    }

    #[test]
    fn a_reader_that_is_gone_keeps_nobody_waiting() {
        let (reader, outlet) = pipe();
        drop(reader);
        for line in 0..30_000 {
            outlet.say(format!("line {line}{:60}\n", ""));
        }
        outlet.drain(Duration::from_secs(30), Duration::from_secs(30));
        assert!(outlet.shared.lock().is_drained());
    }
}
