//! One thread of the mover: an engine, its memory, and the lanes that are pinned to it.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::engine::{self, Completion, Engine};
use crate::fault::Fault;
use crate::lane::{Context, HEAD_BYTES, Lane, Task};
use crate::pool::{Buf, Pool};
use crate::report::Event;
use crate::tls::Upgrade;

use super::{PANICKED, Shared, lock};

/// How long a thread waits when no lane knows of anything sooner.
const IDLE_WAIT: Duration = Duration::from_secs(1);

/// Runs lanes until none is left, as the thread of this number.
pub(super) fn run(shared: &Arc<Shared>, number: usize) {
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| work(shared, number)));
    let failure = match ran {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error),
        Err(_) => {
            shared.panics.fetch_add(1, Ordering::Relaxed);
            Some(std::io::Error::other(PANICKED))
        }
    };
    leave(shared, failure);
}

/// A thread runs no lane any more. What waits is left to the others, if there are any.
pub(super) fn leave(shared: &Shared, failure: Option<std::io::Error>) {
    let last = {
        let mut working = lock(&shared.working);
        *working -= usize::from(*working > 1);
        let last = shared.leaving.fetch_add(1, Ordering::Relaxed) + 1 == shared.threads;
        if let Some(error) = &failure {
            lock(&shared.failure).get_or_insert(error.to_string());
        }
        last
    };
    if last {
        if let Some(error) = failure {
            fail_rest(shared, &error);
        }
        *lock(&shared.working) = 0;
    }
    shared.ended.notify_all();
}

/// The lanes that nobody can run any more, because this thread's engine or memory failed.
fn fail_rest(shared: &Shared, error: &std::io::Error) {
    while let Some((index, lane)) = take(shared) {
        let fault = Fault::Local {
            what: "cannot run a thread of the mover".into(),
            error: std::io::Error::new(error.kind(), error.to_string()),
        };
        report_unstarted(shared, index, lane, fault);
    }
}

fn report_unstarted(shared: &Shared, index: usize, lane: Lane, fault: Fault) {
    let counts = shared.live[index].snapshot();
    (shared.observer)(&Event::Finished { lane: index, fault: Some(&fault), counts });
    let mut report = super::unreported(
        (lane.source.to_string(), lane.target.to_string()),
        &shared.live[index],
        None,
    );
    report.outcome = Err(fault);
    lock(&shared.reports)[index] = Some(report);
}

fn take(shared: &Shared) -> Option<(usize, Lane)> {
    lock(&shared.queue).pop_front()
}

fn work(shared: &Shared, number: usize) -> std::io::Result<()> {
    let share = shared.per_thread;
    let heads = Pool::new(HEAD_BYTES, share.links)?;
    let blocks = Pool::new(share.block_bytes, share.blocks)?;
    let zeros = Pool::new(share.block_bytes, 1)?.claim().ok_or(std::io::ErrorKind::OutOfMemory)?;
    // Dropped before the pools: what is in flight ends first.
    let (engine, fallen_back) = engine::start(&shared.selected)?;
    if let Some(reason) = fallen_back {
        lock(&shared.fallen_back).push(reason);
    }
    lock(&shared.wakers).push(engine.waker());
    let lent = Lent { shared, engine, heads, blocks, zeros };
    let next_tick = Instant::now();
    let mut thread = Thread {
        lent,
        lanes: share.lanes_of(number),
        tasks: BTreeMap::new(),
        next_id: 0,
        interrupted: false,
        leaving: Vec::new(),
        next_tick,
    };
    thread.run()
}

/// What the thread lends to each of its lanes in turn.
struct Lent<'a> {
    shared: &'a Shared,
    engine: Box<dyn Engine>,
    heads: Pool,
    blocks: Pool,
    zeros: Buf,
}

impl Lent<'_> {
    fn context(&mut self, now: Instant, lanes: usize) -> Context<'_> {
        let share = &self.shared.per_thread;
        Context {
            engine: &mut *self.engine,
            heads: &self.heads,
            blocks: &self.blocks,
            zeros: &self.zeros,
            conveyor_bytes: share.pipe_bytes,
            fair_bytes: share.in_flight_bytes / (lanes as u64).max(1),
            now,
            rate: &self.shared.rate,
        }
    }
}

struct Thread<'a> {
    lent: Lent<'a>,
    /// Lanes that it may have at once.
    lanes: usize,
    /// By id. Ids are not used again: operations of a lane may outlive it, and their completions
    /// must not be taken for those of another.
    tasks: BTreeMap<u32, Task>,
    next_id: u32,
    interrupted: bool,
    /// TLS sessions of lanes that are over.
    leaving: Vec<Upgrade>,
    next_tick: Instant,
}

impl Thread<'_> {
    fn run(&mut self) -> std::io::Result<()> {
        let mut completions: Vec<Completion> = Vec::new();
        let mut touched: Vec<u32> = Vec::new();
        loop {
            self.admit();
            if self.tasks.is_empty() {
                self.leaving.iter().for_each(Upgrade::settle);
                return Ok(());
            }
            let timeout = self.timeout();
            self.lent.engine.wait(timeout, &mut completions)?;
            let now = Instant::now();
            for completion in completions.drain(..) {
                let id = completion.token.lane;
                self.with(id, now, |task, context| {
                    task.complete(completion.token, completion, context)
                });
                if !touched.contains(&id) {
                    touched.push(id);
                }
            }
            for id in touched.drain(..) {
                self.with(id, now, Task::pump);
            }
            self.interrupt_if_asked(now);
            self.look_after(now);
            self.bury();
        }
    }

    fn with(&mut self, id: u32, now: Instant, act: impl FnOnce(&mut Task, &mut Context<'_>)) {
        let lanes = self.tasks.len();
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let mut context = self.lent.context(now, lanes);
        act(task, &mut context);
    }

    /// Takes lanes from the queue while there is room.
    fn admit(&mut self) {
        while self.tasks.len() < self.lanes && !self.interrupted {
            let Some((index, lane)) = take(self.lent.shared) else {
                return;
            };
            let now = Instant::now();
            let id = self.next_id;
            self.next_id += 1;
            let live = Arc::clone(&self.lent.shared.live[index]);
            let observer = Arc::clone(&self.lent.shared.observer);
            let mut context = self.lent.context(now, self.tasks.len() + 1);
            let mut task = Task::new(
                index,
                id,
                lane.source,
                lane.target,
                lane.settings,
                live,
                observer,
                &mut context,
            );
            task.pump(&mut context);
            self.next_tick = self.next_tick.min(now + task.tick_interval());
            self.tasks.insert(id, task);
            self.bury();
        }
    }

    fn timeout(&self) -> Duration {
        let wakes = self.tasks.values().filter_map(Task::wakes_at).min();
        let until = wakes.map_or(self.next_tick, |at| at.min(self.next_tick));
        until.saturating_duration_since(Instant::now()).min(IDLE_WAIT)
    }

    /// Gives time to lanes that are due, or that waited for a block of the pool.
    fn look_after(&mut self, now: Instant) {
        let tick = now >= self.next_tick;
        let fed = self.lent.blocks.free_slots() > 0;
        let is_due = |task: &Task| {
            tick || (fed && task.is_starved()) || task.wakes_at().is_some_and(|at| at <= now)
        };
        let due: Vec<u32> =
            self.tasks.iter().filter(|(_, task)| is_due(task)).map(|(id, _)| *id).collect();
        for id in due {
            self.with(id, now, if tick { Task::tick } else { Task::pump });
        }
        if tick {
            let interval = self.tasks.values().map(Task::tick_interval).min();
            self.next_tick = now + interval.unwrap_or(IDLE_WAIT);
        }
    }

    fn interrupt_if_asked(&mut self, now: Instant) {
        if self.interrupted || !self.lent.shared.cancelled.load(Ordering::Acquire) {
            return;
        }
        self.interrupted = true;
        let ids: Vec<u32> = self.tasks.keys().copied().collect();
        for id in ids {
            self.with(id, now, |task, context| {
                task.interrupt(context);
                task.pump(context);
            });
        }
        while let Some((index, lane)) = take(self.lent.shared) {
            report_unstarted(self.lent.shared, index, lane, Fault::Interrupted);
        }
    }

    /// Takes the reports of lanes that are over.
    fn bury(&mut self) {
        for (_, mut task) in self.tasks.extract_if(.., |_, task| task.is_over()) {
            self.leaving.extend(task.hang_up());
            self.leaving.retain(|session| !session.is_over());
            let index = task.index();
            let report = task.into_report();
            lock(&self.lent.shared.reports)[index] = Some(report);
        }
    }
}
