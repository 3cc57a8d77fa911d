//! The server as a test sees it, and what its connections share.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::builder::{Config, Hostile};
use super::fault::{Fault, Faults, Occasion};
use super::image::Image;
use super::log::{Command, Request, merged};
use super::session::Session;
use crate::socket::{Address, Listener, Stream};

/// A running hostile server. It ends with this value, with all its connections.
#[derive(Debug)]
pub struct HostileServer {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    address: Address,
    accepting: Option<JoinHandle<()>>,
    _dir: Option<TempDir>,
}

/// What the connections of a server share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    faults: Mutex<Faults>,
    world: Mutex<World>,
    /// The world has changed: something was logged, or a connection came or went.
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) image: Image,
    pub(super) log: Vec<Request>,
    pub(super) violations: Vec<String>,
    connections: HashMap<u64, Stream>,
    accepted: u64,
    served: usize,
    stopped: bool,
}

impl HostileServer {
    pub(super) fn start(
        hostile: Hostile,
        listener: Listener,
        dir: Option<TempDir>,
    ) -> io::Result<Self> {
        let address = listener.address()?;
        let listener = Arc::new(listener);
        let world = World { image: hostile.image, ..World::default() };
        let shared = Arc::new(Shared {
            config: hostile.config,
            faults: Mutex::new(hostile.faults),
            world: Mutex::new(world),
            changed: Condvar::new(),
        });
        let accepting = thread::spawn({
            let (shared, listener) = (Arc::clone(&shared), Arc::clone(&listener));
            move || accept(&shared, &listener)
        });
        Ok(Self { shared, listener, address, accepting: Some(accepting), _dir: dir })
    }

    /// The NBD URI of its export.
    pub fn uri(&self) -> String {
        self.address.uri(self.shared.config.export.as_deref().unwrap_or(""))
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The requests so far, in the order in which they were carried out.
    pub fn log(&self) -> Vec<Request> {
        self.shared.world().log.clone()
    }

    /// What clients did against the protocol or against what was advertised.
    pub fn violations(&self) -> Vec<String> {
        self.shared.world().violations.clone()
    }

    /// The faults that have happened.
    pub fn fired(&self) -> Vec<Fault> {
        self.shared.faults.lock().unwrap().fired.clone()
    }

    /// How many connections were accepted.
    pub fn accepted(&self) -> u64 {
        self.shared.world().accepted
    }

    /// The whole disk as it is now, flushed or not.
    pub fn content(&self) -> Vec<u8> {
        let world = self.shared.world();
        world.image.read(0, world.image.size)
    }

    /// A part of the disk as it is now.
    pub fn content_at(&self, offset: u64, length: u64) -> Vec<u8> {
        self.shared.world().image.read(offset, length)
    }

    /// The ranges that WRITE has covered successfully, in order, merged: offset and length.
    pub fn written(&self) -> Vec<(u64, u64)> {
        self.covered(Command::Write)
    }

    /// The ranges that WRITE_ZEROES has covered successfully, in order, merged.
    pub fn zeroed(&self) -> Vec<(u64, u64)> {
        self.covered(Command::WriteZeroes)
    }

    /// The ranges that READ has covered successfully, in order, merged.
    pub fn read(&self) -> Vec<(u64, u64)> {
        self.covered(Command::Read)
    }

    /// How many requests of this kind succeeded.
    pub fn count(&self, command: Command) -> usize {
        self.succeeded(command).len()
    }

    /// How many flushes succeeded.
    pub fn flushes(&self) -> usize {
        self.count(Command::Flush)
    }

    /// Waits until `condition` holds for the log; false when `deadline` passes before.
    pub fn wait_for_log(&self, deadline: Duration, condition: impl Fn(&[Request]) -> bool) -> bool {
        let end = Instant::now() + deadline;
        let mut world = self.shared.world();
        while !condition(&world.log) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            world = self.shared.changed.wait_timeout(world, left).unwrap().0;
        }
        true
    }

    /// As if it were killed and started again: all connections close, and what was not flushed
    /// is lost. New connections are served.
    pub fn crash(&self) {
        self.shared.crash();
    }

    fn covered(&self, command: Command) -> Vec<(u64, u64)> {
        let requests = self.succeeded(command);
        merged(requests.iter().map(|r| (r.offset, r.length)).collect())
    }

    fn succeeded(&self, command: Command) -> Vec<Request> {
        let mut log = self.log();
        log.retain(|request| request.command == command && request.error == 0);
        log
    }
}

impl Drop for HostileServer {
    fn drop(&mut self) {
        self.shared.stop();
        self.listener.close();
        if let Some(accepting) = self.accepting.take() {
            let ended = accepting.join();
            assert!(ended.is_ok() || thread::panicking(), "a session has panicked, see above");
        }
    }
}

impl Shared {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(super) fn fault(
        &self,
        occasions: &[Occasion],
        connection: u64,
        chunks: bool,
    ) -> Option<Fault> {
        self.faults.lock().unwrap().take(occasions, connection, chunks)
    }

    pub(super) fn violation(&self, connection: u64, text: &str) {
        let text = format!("connection {connection}: {text}");
        self.world().violations.push(text);
    }

    /// Someone who waits for the log may find in it what he waits for.
    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Does nothing for this long; an error when the server ends or this connection is closed
    /// by a crash before.
    pub(super) fn park(&self, connection: u64, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        let mut world = self.world();
        loop {
            if !world.connections.contains_key(&connection) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            world = self.changed.wait_timeout(world, left).unwrap().0;
        }
    }

    /// Waits until fewer clients are served than can be at once, and counts one more.
    pub(super) fn take_slot(&self) -> io::Result<Slot<'_>> {
        let mut world = self.world();
        while world.served >= self.config.at_once && !world.stopped {
            world = self.changed.wait(world).unwrap();
        }
        if world.stopped {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        world.served += 1;
        Ok(Slot(self))
    }

    pub(super) fn crash(&self) {
        let mut world = self.world();
        world.image.lose();
        world.image.life += 1;
        world.close_connections();
        self.notify();
    }

    fn stop(&self) {
        let mut world = self.world();
        world.stopped = true;
        world.close_connections();
        self.notify();
    }
}

impl World {
    fn close_connections(&mut self) {
        for (_, stream) in self.connections.drain() {
            stream.shutdown(Shutdown::Both);
        }
    }
}

/// The place of a client that is served.
pub(super) struct Slot<'a>(&'a Shared);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.world().served -= 1;
        self.0.notify();
    }
}

/// Accepts until the listener is closed, then waits for all sessions.
fn accept(shared: &Arc<Shared>, listener: &Listener) {
    thread::scope(|scope| {
        while let Ok(stream) = listener.accept() {
            let Ok(second) = stream.try_clone() else {
                continue;
            };
            let mut world = shared.world();
            if world.stopped {
                return;
            }
            world.accepted += 1;
            let id = world.accepted;
            world.connections.insert(id, second);
            if let (2.., Some(size)) = (id, shared.config.size_on_reconnect) {
                world.image.size = size;
            }
            let life = world.image.life;
            drop(world);
            scope.spawn(move || {
                Session::new(shared, stream, id, life).run();
                shared.world().connections.remove(&id);
            });
        }
    });
}
