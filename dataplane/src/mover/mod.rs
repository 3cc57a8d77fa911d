//! The mover runs lanes: some threads, an engine each, lanes pinned to a thread.
//!
//! ```text
//!   lanes ──▶ queue ──▶ thread 0: engine, pools, tasks ──▶ reports
//!                  └──▶ thread 1: engine, pools, tasks ──┘
//! ```
//!
//! A mover has no global state; several may run in one process. Panics of its threads end in the
//! reports of the lanes that they ran.

mod thread;

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::engine::{EngineKind, Selected, Waker, select};
use crate::fault::Fault;
use crate::lane::{Lane, Observer};
use crate::rate::{RateLimit, RateShare};
use crate::report::{Counts, Event, LaneReport, LiveCounts, Report};
use crate::settings::{MAX_ADAPTED_BYTES, MoverSettings};

/// Bytes of a request on the pooled path, unless a lane sets its own: small enough that what was
/// received is still in the cache when it is looked at.
const POOLED_BYTES: usize = 512 << 10;
/// Buffers of a thread at least: one is read into while the other is written.
const LEAST_BLOCKS: usize = 2;
/// Bytes of pipes of all lanes together; half of what an ordinary user may have
/// (fs.pipe-user-pages-soft).
const PIPE_BYTES: usize = 32 << 20;
/// Bytes of one pipe at most: the largest that an ordinary user may have (fs.pipe-max-size).
const PIPE_MAX: usize = 1 << 20;
/// Bytes that all lanes together have in flight, before each is down to two requests. More of
/// them only keep the servers' memory and threads busy: 101 lanes were faster with two each than
/// with sixteen in trials on a busy machine, of which no run is kept.
const IN_FLIGHT_BYTES: u64 = 64 << 20;
const PIPE_MIN: usize = 64 << 10;

/// Runs lanes.
pub struct Mover {
    settings: MoverSettings,
    observer: Arc<Observer>,
}

/// A mover at work.
pub struct Running {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    lanes: Vec<(String, String)>,
    started: Instant,
}

/// Ends a mover's lanes early, from any thread.
#[derive(Clone)]
pub struct Canceller(Arc<Shared>);

/// What the threads of a mover share.
pub(crate) struct Shared {
    queue: Mutex<VecDeque<(usize, Lane)>>,
    live: Vec<Arc<LiveCounts>>,
    observer: Arc<Observer>,
    reports: Mutex<Vec<Option<LaneReport>>>,
    /// Threads at work; signalled when it changes.
    working: Mutex<usize>,
    ended: Condvar,
    cancelled: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
    rate: SharedRate,
    selected: Selected,
    per_thread: ThreadShare,
    panics: AtomicUsize,
    threads: usize,
    /// Threads that run no lane any more.
    leaving: AtomicUsize,
    /// Why the first thread that failed did.
    failure: Mutex<Option<String>>,
    /// Why threads have another engine than was chosen, for each of them.
    fallen_back: Mutex<Vec<String>>,
}

/// What one thread may use.
#[derive(Clone, Copy)]
struct ThreadShare {
    /// Lanes at once, of the threads that have most of them.
    lanes: usize,
    /// Threads that have so many; the others have one less.
    with_most: usize,
    links: usize,
    block_bytes: usize,
    blocks: usize,
    pipe_bytes: usize,
    in_flight_bytes: u64,
}

impl ThreadShare {
    /// Lanes that this thread may have at once.
    fn lanes_of(&self, thread: usize) -> usize {
        self.lanes - usize::from(thread >= self.with_most)
    }
}

/// The limit on all lanes together.
pub(crate) struct SharedRate(Option<Mutex<RateLimit>>);

impl SharedRate {
    /// Asks for `bytes` on behalf of a share; says when to ask again if it is not its turn.
    pub(crate) fn take(&self, share: &mut RateShare, now: Instant, bytes: u64) -> Option<Instant> {
        let limit = self.0.as_ref()?;
        share.take(now, bytes, |missing| lock(limit).reserve(now, missing))
    }

    /// Bytes of a request at most, so that turns come often.
    pub(crate) fn piece_bytes(&self) -> Option<u64> {
        self.0.as_ref().map(|limit| lock(limit).piece_bytes())
    }
}

impl Mover {
    /// A mover that is yet to be started.
    #[must_use]
    pub fn new(settings: MoverSettings) -> Self {
        Self { settings, observer: Arc::new(|_| {}) }
    }

    /// Calls `observer` with everything that happens, on the mover's threads: it should be quick.
    /// Where it panics, the lanes go on.
    #[must_use]
    pub fn on_event(mut self, observer: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        // An observer that panics loses that event and nothing else.
        self.observer = Arc::new(move |event| {
            let _told_by_the_panic_hook =
                std::panic::catch_unwind(AssertUnwindSafe(|| observer(event)));
        });
        self
    }

    /// Starts the lanes.
    ///
    /// # Errors
    /// When the engine that was asked for cannot be had, or no thread can be started. What goes
    /// wrong with a lane is told by its report.
    pub fn start(self, lanes: Vec<Lane>) -> Result<Running, Fault> {
        let local = |what: &str| {
            let what = what.to_owned();
            move |error| Fault::Local { what, error }
        };
        let selected = select(self.settings.engine).map_err(local("cannot use the engine"))?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let count = lanes.len();
        // A thread without lanes would be of no use.
        let at_once = count.min(self.settings.max_lanes).max(1);
        let threads =
            self.settings.threads.filter(|threads| *threads > 0).unwrap_or(processors).min(at_once);
        // Nor would one without memory.
        let fed = self.settings.pool_bytes / (LEAST_BLOCKS * block_bytes(largest_request(&lanes)));
        let threads = threads.min(fed).max(1);
        let shared = Arc::new(Shared {
            live: (0..count).map(|_| Arc::default()).collect(),
            observer: self.observer,
            reports: Mutex::new((0..count).map(|_| None).collect()),
            working: Mutex::new(threads),
            ended: Condvar::new(),
            cancelled: AtomicBool::new(false),
            wakers: Mutex::new(Vec::new()),
            rate: SharedRate(
                self.settings
                    .rate_limit
                    .and_then(NonZeroU64::new)
                    .map(|rate| Mutex::new(RateLimit::new(rate))),
            ),
            selected,
            per_thread: share(&self.settings, &lanes, at_once, threads),
            panics: AtomicUsize::new(0),
            threads,
            leaving: AtomicUsize::new(0),
            failure: Mutex::new(None),
            fallen_back: Mutex::new(Vec::new()),
            queue: Mutex::new(VecDeque::new()),
        });
        let names =
            lanes.iter().map(|lane| (lane.source.to_string(), lane.target.to_string())).collect();
        lock(&shared.queue).extend(lanes.into_iter().enumerate());
        let started = Instant::now();
        let mut handles = Vec::new();
        for number in 0..threads {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("mover-{number}"));
            let ours = Arc::clone(&shared);
            match thread.spawn(move || thread::run(&ours, number)) {
                Ok(handle) => handles.push(handle),
                Err(error) if handles.is_empty() => {
                    return Err(local("cannot start a thread")(error));
                }
                // Those that run do all the work.
                Err(_) => thread::leave(&shared, None),
            }
        }
        Ok(Running { shared, threads: handles, lanes: names, started })
    }
}

impl Running {
    /// The counts of all lanes together, so far.
    #[must_use]
    pub fn progress(&self) -> Counts {
        self.shared.live.iter().fold(Counts::default(), |sum, live| sum.plus(&live.snapshot()))
    }

    /// The counts of one lane, so far; all zero for a lane that is not there.
    #[must_use]
    pub fn lane_progress(&self, lane: usize) -> Counts {
        self.shared.live.get(lane).map(|live| live.snapshot()).unwrap_or_default()
    }

    /// The engine in use, and why.
    #[must_use]
    pub fn engine(&self) -> (EngineKind, &str) {
        (self.shared.selected.kind, &self.shared.selected.reason)
    }

    /// A handle that ends all lanes early.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::clone(&self.shared))
    }

    /// Whether all lanes are over.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        *lock(&self.shared.working) == 0
    }

    /// Waits for the end of all lanes, at most `timeout`; true when they are over.
    #[must_use]
    pub fn wait_for(&self, timeout: Duration) -> bool {
        let working = lock(&self.shared.working);
        let waited = self.shared.ended.wait_timeout_while(working, timeout, |working| *working > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }

    /// Waits for the end of all lanes, and tells what they did.
    #[must_use]
    pub fn wait(self) -> Report {
        let threads = self.threads.len();
        for thread in self.threads {
            if thread.join().is_err() {
                // `thread::run` catches panics itself; this is one of its own clean-up.
                self.shared.panics.fetch_add(1, Ordering::Relaxed);
            }
        }
        let cancelled = self.shared.cancelled.load(Ordering::Relaxed);
        let fallen_back = lock(&self.shared.fallen_back);
        let engine_reason = match fallen_back.first() {
            None => self.shared.selected.reason.clone(),
            Some(why) => format!(
                "{}; but {} of {threads} threads use readiness: {why}",
                self.shared.selected.reason,
                fallen_back.len()
            ),
        };
        drop(fallen_back);
        let failure = lock(&self.shared.failure).take();
        let failure = failure.as_deref().filter(|_| !cancelled);
        let reports = std::mem::take(&mut *lock(&self.shared.reports));
        let lanes = reports.into_iter().zip(self.lanes).zip(&self.shared.live);
        let lanes = lanes
            .map(|((report, names), live)| {
                report.unwrap_or_else(|| unreported(names, live, failure))
            })
            .collect();
        Report {
            lanes,
            engine: self.shared.selected.kind,
            engine_reason,
            threads,
            elapsed: self.started.elapsed(),
        }
    }
}

/// Why lanes are lost with their thread.
const PANICKED: &str = "a thread of the mover panicked; this is a defect of blockferry";

/// The report of a lane that never came to one.
fn unreported(
    (source, target): (String, String),
    live: &LiveCounts,
    failure: Option<&str>,
) -> LaneReport {
    let fault = failure.map_or(Fault::Interrupted, |failure| Fault::Local {
        what: "the lane was lost".into(),
        error: std::io::Error::other(failure),
    });
    LaneReport {
        source,
        target,
        size: None,
        outcome: Err(fault),
        counts: live.snapshot(),
        payload: None,
        connections: 0,
        reconnects: 0,
        flushes: 0,
        request_bytes: 0,
        elapsed: Duration::ZERO,
    }
}

impl std::fmt::Debug for Canceller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cancelled = self.0.cancelled.load(Ordering::Relaxed);
        f.debug_struct("Canceller").field("cancelled", &cancelled).finish()
    }
}

impl Canceller {
    /// Lanes that run drain, flush and end with [`Fault::Interrupted`]; others do not begin.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
        for waker in lock(&self.0.wakers).iter() {
            waker.wake();
        }
    }
}

impl MoverSettings {
    /// The least of [`pool_bytes`](Self::pool_bytes) that is kept to, for lanes whose requests have at
    /// most so many bytes: what a single thread needs.
    #[must_use]
    pub fn least_pool_bytes(request_bytes: Option<u32>) -> usize {
        LEAST_BLOCKS * block_bytes(request_bytes)
    }
}

/// The longest request that is asked for, if any is.
fn largest_request(lanes: &[Lane]) -> Option<u32> {
    lanes.iter().filter_map(|lane| lane.settings.request_bytes).max()
}

/// Bytes of a buffer.
fn block_bytes(request_bytes: Option<u32>) -> usize {
    let largest = request_bytes.unwrap_or(0) as usize;
    largest.clamp(POOLED_BYTES, 32 << 20).next_power_of_two()
}

/// Divides what the settings allow among the threads.
fn share(settings: &MoverSettings, lanes: &[Lane], at_once: usize, threads: usize) -> ThreadShare {
    let most = at_once.div_ceil(threads);
    let connections =
        lanes.iter().map(|lane| usize::from(lane.settings.connections.max(1))).max().unwrap_or(1);
    let block_bytes = block_bytes(largest_request(lanes));
    let strands = most * connections;
    ThreadShare {
        lanes: most,
        with_most: at_once - (most - 1) * threads,
        // Two links a strand, each with one operation a direction, and as many again for those
        // of connections that were given up and have not ended.
        links: strands * 2 * 2 * 2 + 16,
        in_flight_bytes: IN_FLIGHT_BYTES / threads as u64,
        block_bytes,
        blocks: (settings.pool_bytes / threads / block_bytes).max(LEAST_BLOCKS),
        pipe_bytes: (PIPE_BYTES / (most * threads * connections))
            .clamp(PIPE_MIN, PIPE_MAX.min(MAX_ADAPTED_BYTES as usize)),
    }
}

/// Locks what a panicking thread may have held: its data are counts and finished reports, which
/// are whole at any moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_took_more_than_the_memory_that_was_given() {
        for pool_bytes in [1 << 20, 3 << 20, 64 << 20, 65 << 20] {
            let settings = MoverSettings { pool_bytes, ..MoverSettings::default() };
            for wanted in [1, 2, 12, 128] {
                let threads = wanted.min(pool_bytes / MoverSettings::least_pool_bytes(None));
                let share = share(&settings, &[], 128, threads);
                assert!(threads * share.blocks * share.block_bytes <= pool_bytes, "{pool_bytes}");
            }
        }
        assert_eq!(MoverSettings::least_pool_bytes(Some(16 << 20)), 32 << 20);
    }

    #[test]
    fn the_shares_of_all_threads_are_as_many_lanes_as_may_run_at_once() {
        for (at_once, threads) in [(1, 1), (3, 2), (4, 2), (101, 2), (7, 7), (128, 12)] {
            let share = share(&MoverSettings::default(), &[], at_once, threads);
            let lanes = (0..threads).map(|thread| share.lanes_of(thread));
            assert!(lanes.clone().all(|lanes| lanes > 0));
            assert_eq!(lanes.sum::<usize>(), at_once);
        }
    }
}
