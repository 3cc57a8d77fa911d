//! The server as a test holds it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::builder::VsphereBuilder;
use super::call::answer;
use super::certificate::Certificate;
use super::listener::Listener;
use super::log::{Call, TaskRun};
use super::machine::NewMachine;
use super::shared::{Shared, lock};
use super::trouble::Trouble;
use super::virtual_machine::VirtualMachine;

/// A running server; it ends with this value, and leaves its state folder behind.
#[derive(Debug)]
pub struct Vsphere {
    shared: Arc<Shared>,
    certificate: Certificate,
    state: PathBuf,
    listener: Option<Listener>,
}

impl Vsphere {
    /// A vCenter with one datacenter, and nobody who may log in.
    pub fn builder() -> VsphereBuilder {
        VsphereBuilder::default()
    }

    pub(crate) fn start(
        shared: Shared,
        certificate: Certificate,
        state: PathBuf,
        port: u16,
    ) -> io::Result<Self> {
        let shared = Arc::new(shared);
        fs::write(state.join("ca.pem"), &certificate.pem)?;
        let asked = Arc::clone(&shared);
        let config = Arc::clone(&certificate.config);
        let answer = Arc::new(move |request: &_| answer(&asked, request));
        let listener = Some(Listener::start(port, config, answer)?);
        Ok(Self { shared, certificate, state, listener })
    }

    fn listener(&self) -> &Listener {
        self.listener.as_ref().expect("it listens until it is dropped")
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener().address
    }

    /// `https://127.0.0.1:PORT/sdk`.
    pub fn url(&self) -> String {
        format!("https://{}/sdk", self.address())
    }

    /// The folder of its state: `vddk.json`, `ca.pem`, `disks/`.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The SHA-1 thumbprint of its certificate, as VDDK wants it: `AA:BB:...`.
    pub fn thumbprint(&self) -> String {
        self.certificate.sha1()
    }

    /// The SHA-256 thumbprint.
    pub fn thumbprint_sha256(&self) -> String {
        self.certificate.sha256()
    }

    /// Its certificate, which signs itself.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate.pem
    }

    /// Makes a VM.
    pub fn add_machine(&self, order: &NewMachine) -> io::Result<VirtualMachine> {
        let made = self.shared.change(|world| {
            let place = world.place(order);
            Ok(place.and_then(|place| world.add_machine(&self.shared.folder, order, place)))
        });
        let id = made.expect("nothing in it makes a fault")?;
        Ok(VirtualMachine::new(&self.shared, id))
    }

    /// A VM by its moref.
    pub fn machine(&self, id: &str) -> Option<VirtualMachine> {
        let there = self.shared.world().machines.contains_key(id);
        there.then(|| VirtualMachine::new(&self.shared, id.to_owned()))
    }

    /// The first VM of this name.
    pub fn machine_named(&self, name: &str) -> Option<VirtualMachine> {
        let world = self.shared.world();
        let id = world.machines.iter().find(|(_, machine)| machine.name == name)?.0.clone();
        Some(VirtualMachine::new(&self.shared, id))
    }

    /// All VMs.
    pub fn machines(&self) -> Vec<VirtualMachine> {
        let ids: Vec<String> = self.shared.world().machines.keys().cloned().collect();
        ids.into_iter().map(|id| VirtualMachine::new(&self.shared, id)).collect()
    }

    /// Orders that something goes wrong, once, the next time that it can.
    pub fn trouble(&self, trouble: Trouble) {
        lock(&self.shared.troubles).push(trouble);
    }

    /// What was ordered to go wrong and has not yet.
    pub fn troubles(&self) -> Vec<Trouble> {
        lock(&self.shared.troubles).clone()
    }

    /// Takes back what has not gone wrong yet.
    pub fn clear_troubles(&self) {
        lock(&self.shared.troubles).clear();
    }

    /// Ends all sessions.
    pub fn expire_sessions(&self) {
        lock(&self.shared.sessions).expire_all();
    }

    /// How many sessions are open.
    pub fn sessions(&self) -> usize {
        lock(&self.shared.sessions).count()
    }

    /// How many views and filters clients have left open.
    pub fn left_open(&self) -> usize {
        let reading = lock(&self.shared.reading);
        reading.views.len() + reading.filters.len()
    }

    /// Cuts all connections; new ones are taken.
    pub fn cut_connections(&self) {
        self.listener().cut();
    }

    /// A host goes into maintenance mode, or comes back. VMs that run move to another host of the
    /// cluster, if there is one; those that cannot get no snapshots, and nobody opens their disks.
    /// Whoever reads a disk through the host that is left reads no more.
    pub fn set_maintenance(&self, host: &str, on: bool) {
        let changed = self.shared.change(|world| {
            let mut named = world.hosts.iter_mut().filter(|(_, it)| it.name == host);
            let (id, it) = named.next().expect("a host of this name");
            it.maintenance = on;
            let (id, compute) = (id.clone(), it.compute.clone());
            let mut others = world.hosts.iter();
            let other = others.find(|(_, it)| it.compute == compute && !it.maintenance);
            if let (true, Some((other, _))) = (on, other) {
                let here = world.machines.values_mut().filter(|machine| machine.host == id);
                here.filter(|machine| machine.powered_on)
                    .for_each(|machine| machine.host.clone_from(other));
            }
            Ok(())
        });
        changed.expect("nothing in it makes a fault");
    }

    /// Sets what is free on a datastore, in bytes.
    pub fn set_free(&self, datastore: &str, bytes: u64) {
        self.shared.note(|world| {
            let mut all = world.datastores.values_mut();
            all.find(|it| it.name == datastore).expect("a datastore of this name").free = bytes;
        });
    }

    /// Orders what goes wrong in the plugin of VDDK, by the names that its double has for it:
    /// `("refuse_open", json!("words"))`.
    pub fn plugin_fault(&self, name: &str, value: serde_json::Value) {
        self.shared.order_in_plugin(|faults| {
            faults.insert(name.to_owned(), value);
        });
    }

    /// Takes back what was ordered to go wrong in the plugin.
    pub fn clear_plugin_faults(&self) {
        self.shared.order_in_plugin(serde_json::Map::clear);
    }

    /// Lets a task go on that sticks.
    pub fn release_task(&self, id: &str) {
        self.shared.release(id);
    }

    /// How many calls of a method are held.
    pub fn held(&self, method: &str) -> usize {
        self.shared.world().held.get(method).copied().unwrap_or(0)
    }

    /// Lets a call of a method go that is held.
    pub fn release_call(&self, method: &str) {
        self.shared.release(method);
    }

    /// What was asked, in order.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared.log).calls.clone()
    }

    /// How often a method was called.
    pub fn count(&self, method: &str) -> usize {
        lock(&self.shared.log).calls.iter().filter(|call| call.method == method).count()
    }

    /// Forgets what was asked.
    pub fn clear_calls(&self) {
        lock(&self.shared.log).calls.clear();
    }

    /// All tasks that there have been.
    pub fn tasks(&self) -> Vec<TaskRun> {
        let world = self.shared.world();
        let mut tasks: Vec<TaskRun> = world
            .tasks
            .iter()
            .map(|(id, task)| TaskRun {
                id: id.clone(),
                method: task.method,
                object: task.entity.id.clone(),
                started: task.started_at,
                ended: task.ended_at,
                fault: task.error.as_ref().map(|fault| fault.kind.to_owned()),
            })
            .collect();
        tasks.sort_by_key(|task| task.started);
        tasks
    }

    /// How much of the time between two moments this server worked, on answers and on tasks: what
    /// a measurement of its client has to leave out.
    pub fn own_time(&self, from: Instant, to: Instant) -> Duration {
        let calls = self.calls().into_iter().map(|call| (call.asked, call.asked + call.own));
        let tasks = self.tasks().into_iter();
        let tasks = tasks.map(|task| (task.started, task.ended.unwrap_or(to)));
        let mut spans: Vec<(Instant, Instant)> = calls
            .chain(tasks)
            .map(|(start, end)| (start.max(from), end.min(to)))
            .filter(|(start, end)| start < end)
            .collect();
        spans.sort();
        let mut own = Duration::ZERO;
        let mut covered = from;
        for (start, end) in spans {
            own += end.saturating_duration_since(start.max(covered));
            covered = covered.max(end);
        }
        own
    }

    /// Waits until this is true, and looks whenever something changes; false after the deadline.
    pub fn wait_until(&self, deadline: Duration, is_so: impl Fn(&Self) -> bool) -> bool {
        let started = Instant::now();
        loop {
            let seen = self.shared.world().revision;
            if is_so(self) {
                return true;
            }
            let left = deadline.saturating_sub(started.elapsed());
            if left.is_zero() {
                return false;
            }
            self.shared.wait_for_change(seen, left);
        }
    }
}

impl Drop for Vsphere {
    fn drop(&mut self) {
        self.shared.close();
        drop(self.listener.take());
        self.shared.join();
    }
}
