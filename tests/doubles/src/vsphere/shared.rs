//! What all connections and tasks of one server share.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Map, Value};

use super::collector::Reading;
use super::draw::Draw;
use super::fault::Fault;
use super::log::Log;
use super::published::Published;
use super::session::Sessions;
use super::trouble::Trouble;
use super::world::World;

#[derive(Debug)]
pub(crate) struct Shared {
    /// Where the disks lie.
    pub(crate) folder: PathBuf,
    pub(crate) sessions: Mutex<Sessions>,
    pub(crate) reading: Mutex<Reading>,
    pub(crate) log: Mutex<Log>,
    pub(crate) troubles: Mutex<Vec<Trouble>>,
    /// Spells the answers; as vCenter does where there is none.
    pub(crate) spelling: Mutex<Option<Draw>>,
    pub(crate) options: Options,
    world: Mutex<World>,
    changed: Condvar,
    published: Mutex<Published>,
    closing: AtomicBool,
    released: Mutex<BTreeSet<String>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What was ordered, and stays as it is.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Changed areas in a page.
    pub(crate) page_areas: usize,
    /// Objects in a page of properties, where the client does not ask for fewer.
    pub(crate) page_objects: usize,
    /// What a snapshot that is reverted to does to change ids.
    pub(crate) revert: super::revert::Revert,
    /// Where the copies of removed snapshots go.
    pub(crate) kept: Option<PathBuf>,
}

impl Shared {
    pub(crate) fn new(
        folder: PathBuf,
        options: Options,
        sessions: Sessions,
        spelling: Option<Draw>,
        world: World,
        published: Published,
    ) -> Self {
        Self {
            folder,
            options,
            sessions: Mutex::new(sessions),
            reading: Mutex::default(),
            log: Mutex::default(),
            troubles: Mutex::default(),
            spelling: Mutex::new(spelling),
            world: Mutex::new(world),
            changed: Condvar::new(),
            published: Mutex::new(published),
            closing: AtomicBool::new(false),
            released: Mutex::default(),
            threads: Mutex::default(),
        }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// Changes the inventory, tells those who wait, and writes down what the plugin of VDDK reads.
    pub(crate) fn change<T>(
        &self,
        work: impl FnOnce(&mut World) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut world = self.world();
        let done = work(&mut world)?;
        world.revision += 1;
        lock(&self.published).write(&world);
        drop(world);
        self.changed.notify_all();
        Ok(done)
    }

    /// As [`Self::change`], where nothing changes that the plugin reads.
    pub(crate) fn note<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world();
        let done = work(&mut world);
        world.revision += 1;
        drop(world);
        self.changed.notify_all();
        done
    }

    /// Waits until something has changed after this revision, at most so long.
    pub(crate) fn wait_for_change(&self, seen: u64, longest: Duration) {
        let unchanged = |world: &mut World| world.revision == seen;
        let waited = self.changed.wait_timeout_while(self.world(), longest, unchanged);
        // Who is woken looks again, for whatever reason.
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Orders what goes wrong in the plugin of VDDK.
    pub(crate) fn order_in_plugin(&self, order: impl FnOnce(&mut Map<String, Value>)) {
        let world = self.world();
        let mut published = lock(&self.published);
        order(&mut published.faults);
        published.write(&world);
    }

    /// Takes the troubles that befall a task of this method, each once.
    pub(crate) fn troubles_of_task(&self, method: &str) -> Vec<Trouble> {
        lock(&self.troubles).extract_if(.., |trouble| trouble.is_of_task(method)).collect()
    }

    /// Takes the first trouble of which this is true.
    pub(crate) fn trouble(&self, of: impl Fn(&Trouble) -> bool) -> Option<Trouble> {
        let mut troubles = lock(&self.troubles);
        let index = troubles.iter().position(of)?;
        Some(troubles.remove(index))
    }

    /// Lets a task go, or a call of a method.
    pub(crate) fn release(&self, name: &str) {
        lock(&self.released).insert(name.to_owned());
        self.note(|_| ());
    }

    pub(crate) fn is_released(&self, task: &str) -> bool {
        lock(&self.released).contains(task)
    }

    /// Whether it was let go; once only.
    pub(crate) fn take_release(&self, name: &str) -> bool {
        lock(&self.released).remove(name)
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    pub(crate) fn keep_thread(&self, thread: JoinHandle<()>) {
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Ends what waits.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.note(|_| ());
    }

    /// Waits for the tasks; they end soon once the server closes.
    pub(crate) fn join(&self) {
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            // What went wrong in it was printed by its panic.
            let _ = thread.join();
        }
    }
}

/// A lock whose holder panicked is still good: what it guards is changed in one go.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
