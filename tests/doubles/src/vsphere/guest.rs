//! A guest that writes to all disks of its VM in step, so that one can see whether a copy of them
//! is of one instant.
//!
//! With each step a counter rises, and a block full of it goes to a fixed place of every disk and
//! to one that is drawn from the counter, under the lock that a snapshot takes too.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::draw::Draw;
use super::virtual_machine::VirtualMachine;

/// What is written at once.
const BLOCK_BYTES: usize = 4096;
/// The block that always has the newest counter.
const FIXED_OFFSET: u64 = 64 << 10;

/// Where the steps go, and how to find them again.
#[derive(Clone, Copy, Debug)]
pub struct Steps;

/// A guest at work; it stops when it is dropped.
#[derive(Debug)]
pub struct Guest {
    counter: Arc<AtomicU64>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Steps {
    /// The counter of a raw disk, 0 where no step was made.
    pub fn counter(disk: &Path) -> io::Result<u64> {
        let mut counter = [0; 8];
        File::open(disk)?.read_exact_at(&mut counter, FIXED_OFFSET)?;
        Ok(u64::from_le_bytes(counter))
    }

    /// Where a step writes on a disk of this size, besides the fixed place.
    pub fn offset(counter: u64, key: i32, capacity: u64) -> u64 {
        let blocks = capacity / BLOCK_BYTES as u64;
        let mixed = counter ^ (u64::from(key.unsigned_abs()) << 40);
        let block = Draw::new(mixed).below(blocks);
        let fixed = FIXED_OFFSET / BLOCK_BYTES as u64;
        // The fixed place has the newest counter alone.
        let block = if block == fixed { (block + 1) % blocks } else { block };
        block * BLOCK_BYTES as u64
    }

    /// Makes one step on all disks of a VM.
    pub fn step(machine: &VirtualMachine, counter: u64) -> io::Result<()> {
        let block = counter.to_le_bytes().repeat(BLOCK_BYTES / 8);
        let mut writes = Vec::new();
        for (key, capacity) in machine.disks()? {
            writes.push((key, FIXED_OFFSET, block.as_slice()));
            writes.push((key, Self::offset(counter, key, capacity), block.as_slice()));
        }
        machine.write_all(&writes)
    }
}

impl Guest {
    /// Begins, with a step and then a pause of `pace`. Its disks have to be of 128 KiB at least.
    pub fn start(machine: &VirtualMachine, pace: Duration) -> io::Result<Self> {
        Steps::step(machine, 1)?;
        let counter = Arc::new(AtomicU64::new(1));
        let stopping = Arc::new(AtomicBool::new(false));
        let (machine, told, stop) = (machine.clone(), Arc::clone(&counter), Arc::clone(&stopping));
        let thread = thread::Builder::new().name("guest".to_owned()).spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let next = told.load(Ordering::SeqCst) + 1;
                Steps::step(&machine, next)?;
                told.store(next, Ordering::SeqCst);
                thread::park_timeout(pace);
            }
            Ok(())
        })?;
        Ok(Self { counter, stopping, thread: Some(thread) })
    }

    /// The newest counter that is on all disks.
    pub fn counter(&self) -> u64 {
        self.counter.load(Ordering::SeqCst)
    }

    /// Ends it; returns its last counter, or why it could not go on.
    pub fn stop(mut self) -> io::Result<u64> {
        self.end()?;
        Ok(self.counter())
    }

    fn end(&mut self) -> io::Result<()> {
        self.stopping.store(true, Ordering::SeqCst);
        match self.thread.take() {
            Some(thread) => {
                thread.thread().unpark();
                thread.join().expect("a guest does not panic")
            }
            None => Ok(()),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Who wants to know why it ended asks with `stop`.
        let _ = self.end();
    }
}
