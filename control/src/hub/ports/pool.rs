//! Leasing and releasing.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::super::nodes::NodeName;
use super::error::PortError;
use super::holder::Holder;
use super::lease::PortLease;
use super::table::{Hold, PortMetrics, Slot, Stage, Table};
use crate::catalog::{
    BackupMode, CatalogError, DiskName, Job, JobKind, Jobs, Leases, NewJob, SqliteCatalog, VmName,
};
use crate::export::{ExportError, Listener};

/// How long a call waits for another one that changes the same port: longer than the catalog
/// waits for other processes, which is the longest that either can take.
const CHANGE_DEADLINE: Duration = Duration::from_secs(30);

/// Called when ports are free again.
struct ReleaseHook(OnceLock<Box<dyn Fn() + Send + Sync>>);

impl fmt::Debug for ReleaseHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReleaseHook").field("is_set", &self.0.get().is_some()).finish()
    }
}

/// The ports of a hub. Any thread may ask; calls block.
#[derive(Debug)]
pub struct Ports {
    own: Arc<SqliteCatalog>,
    callers: Arc<SqliteCatalog>,
    table: Mutex<Table>,
    changed: Condvar,
    released: ReleaseHook,
}

impl Ports {
    pub(super) fn with(
        range: RangeInclusive<u16>,
        own: Arc<SqliteCatalog>,
        callers: Arc<SqliteCatalog>,
    ) -> Self {
        Self {
            own,
            callers,
            table: Mutex::new(Table::new(range)),
            changed: Condvar::new(),
            released: ReleaseHook(OnceLock::new()),
        }
    }

    /// Leases the lowest free port to a job, for a disk, and binds it. The same job and disk get
    /// the port again that they have. `holder` is a job that is known here, or the name of one
    /// that is made now.
    ///
    /// # Errors
    /// [`PortError`]: all taken, a job of another VM or one that is over, or the catalog's.
    pub fn lease(
        &self,
        holder: &Holder,
        vm: &VmName,
        disk: &DiskName,
    ) -> Result<PortLease, PortError> {
        self.lease_for(holder, vm, disk, None)
    }

    /// The same for a node, which may reach the port through its tunnel.
    ///
    /// # Errors
    /// As [`lease`](Self::lease), and where the disk has a port already that is another node's.
    pub fn lease_for(
        &self,
        holder: &Holder,
        vm: &VmName,
        disk: &DiskName,
        node: Option<&NodeName>,
    ) -> Result<PortLease, PortError> {
        let (job, named) = self.job(holder, vm)?;
        loop {
            let reservation = match self.reserve(&job, disk, node)? {
                Reserved::Before(lease) if lease.node.as_ref() != node => {
                    return Err(PortError::OtherNode { port: lease.port });
                }
                Reserved::Before(lease) => return Ok(lease),
                Reserved::Now(reservation) => reservation,
            };
            match self.grant(&reservation.lease, named)? {
                Some(hold) => return Ok(reservation.keep(hold)),
                None => reservation.outside(),
            }
        }
    }

    /// Releases one port of this holder.
    ///
    /// # Errors
    /// [`PortError`]: nobody has it, another one has, or an export runs there.
    pub fn release(&self, port: u16, holder: &Holder) -> Result<PortLease, PortError> {
        let mut table = self.settled(|table| {
            let slot = table.slots().find(|slot| slot.lease.port == port);
            slot.filter(|slot| !slot.is_settled()).map(|slot| slot.lease.port)
        })?;
        let slot = table.slot(port).ok_or(PortError::NotLeased(port))?;
        if !slot.lease.is_held_by(holder) {
            return Err(PortError::NotOwner(port));
        }
        let going = self.take_away(&mut table, &[port])?;
        drop(table);
        self.give_back(going).map(|mut leases| leases.remove(0))
    }

    /// Releases all ports of this holder, and says which those were: none the second time.
    ///
    /// # Errors
    /// [`PortError`]: an export runs on one of them; then all of them stay.
    pub fn release_all(&self, holder: &Holder) -> Result<Vec<PortLease>, PortError> {
        let mut table = self.settled(|table| {
            let mut own = table.slots().filter(|slot| slot.lease.is_held_by(holder));
            own.find(|slot| !slot.is_settled()).map(|slot| slot.lease.port)
        })?;
        let own = table.slots().filter(|slot| slot.lease.is_held_by(holder));
        let ports: Vec<u16> = own.map(|slot| slot.lease.port).collect();
        let going = self.take_away(&mut table, &ports)?;
        drop(table);
        self.give_back(going)
    }

    /// The leases, by port.
    #[must_use]
    pub fn leases(&self) -> Vec<PortLease> {
        let table = self.table();
        let held = table.slots().filter(|slot| slot.is_settled());
        held.map(|slot| slot.lease.clone()).collect()
    }

    /// Whether the port is leased for this node.
    #[must_use]
    pub fn is_leased_for(&self, port: u16, node: &NodeName) -> bool {
        self.table().slot(port).is_some_and(|slot| {
            slot.lease.node.as_ref() == Some(node) && matches!(slot.stage, Stage::Held(_))
        })
    }

    /// Counts of ports.
    #[must_use]
    pub fn metrics(&self) -> PortMetrics {
        self.table().metrics()
    }

    /// The listener of a leased port, for an export on it. While it is held, the port cannot be
    /// released.
    ///
    /// # Errors
    /// [`PortError`]: nobody has it, or another one has.
    pub fn use_for_export(
        self: &Arc<Self>,
        port: u16,
        holder: &Holder,
    ) -> Result<PortUse, PortError> {
        let mut table = self.table();
        match table.slot(port) {
            Some(Slot { lease, .. }) if !lease.is_held_by(holder) => Err(PortError::NotOwner(port)),
            Some(Slot { lease, stage: Stage::Held(hold) }) => {
                hold.uses += 1;
                let (lease, listener) = (lease.clone(), hold.listener.clone());
                Ok(PortUse { lease, listener: Some(listener), ports: Arc::clone(self) })
            }
            _ => Err(PortError::NotLeased(port)),
        }
    }

    /// Has `tell` called whenever ports were released; the first one stays. It should be quick.
    pub(crate) fn on_release(&self, tell: impl Fn() + Send + Sync + 'static) {
        let _one_queue_is_enough = self.released.0.set(Box::new(tell));
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job that a holder is, and whether it is one that a caller named.
    fn job(&self, holder: &Holder, vm: &VmName) -> Result<(Job, bool), PortError> {
        let known = self.known_job(holder)?;
        let (job, named) = match known {
            Some(known) => known,
            None => {
                let (vm, key) = (vm.clone(), Some(holder.name().clone()));
                let new =
                    NewJob { kind: JobKind::Backup, vm, mode: BackupMode::Auto, key, asked: None };
                match self.callers.add_job(new) {
                    Ok(admission) => (admission.into_job(), true),
                    // All of them are made in this way, so only the VM can be another.
                    Err(CatalogError::KeyReused { job, .. }) => (self.callers.job(job)?, true),
                    Err(error) => return Err(error.into()),
                }
            }
        };
        if &job.vm != vm {
            let (holder, asked) = (holder.to_string(), vm.clone());
            return Err(PortError::OtherVm { holder, vm: job.vm, asked });
        }
        Ok((job, named))
    }

    /// Found by reading alone: most calls are for a job that is known.
    fn known_job(&self, holder: &Holder) -> Result<Option<(Job, bool)>, PortError> {
        if let Some(id) = holder.id() {
            for (catalog, named) in [(&self.own, false), (&self.callers, true)] {
                match catalog.job(id) {
                    Ok(job) => return Ok(Some((job, named))),
                    Err(CatalogError::NoSuchJob(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(self.callers.job_of_key(holder.name())?.map(|job| (job, true)))
    }

    fn reserve(
        &self,
        job: &Job,
        disk: &DiskName,
        node: Option<&NodeName>,
    ) -> Result<Reserved<'_>, PortError> {
        let mut table = self.settled(|table| {
            let slot = table.of_disk(job.id, disk);
            slot.filter(|slot| !slot.is_settled()).map(|slot| slot.lease.port)
        })?;
        if let Some(slot) = table.of_disk(job.id, disk) {
            return Ok(Reserved::Before(slot.lease.clone()));
        }
        let Some(port) = table.lowest_free() else {
            table.found_none();
            let (first, last) = table.range().into_inner();
            return Err(PortError::AllTaken { first, last });
        };
        let lease = PortLease::new(port, job, disk, node);
        table.put(lease.clone(), Stage::Coming);
        Ok(Reserved::Now(Reservation { ports: self, lease, over: false }))
    }

    /// On disk first, then bound; nothing where somebody outside has the port.
    fn grant(&self, lease: &PortLease, named: bool) -> Result<Option<Hold>, PortError> {
        let catalog = self.catalog(named);
        let granted = catalog.lease_all(lease.job, lease.claims()?)?;
        let leases: Vec<_> = granted.iter().map(|lease| lease.id).collect();
        match Listener::tcp(lease.port) {
            Ok(listener) => Ok(Some(Hold { leases, listener, named, uses: 0 })),
            Err(error) => {
                catalog.release_each(leases, lease.job)?;
                match error {
                    ExportError::PortInUse { .. } => Ok(None),
                    other => Err(other.into()),
                }
            }
        }
    }

    /// The table, as soon as `unsettled` names no port whose coming or going is to be waited for.
    fn settled(
        &self,
        unsettled: impl Fn(&Table) -> Option<u16>,
    ) -> Result<MutexGuard<'_, Table>, PortError> {
        let until = Instant::now() + CHANGE_DEADLINE;
        let mut table = self.table();
        while let Some(port) = unsettled(&table) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(PortError::Stuck { port, waited_s: CHANGE_DEADLINE.as_secs() });
            }
            let woken = self.changed.wait_timeout(table, left);
            table = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(table)
    }

    /// Marks held ports as going, all of them or none.
    fn take_away(&self, table: &mut Table, ports: &[u16]) -> Result<Going<'_>, PortError> {
        let in_use = |slot: &&Slot| matches!(&slot.stage, Stage::Held(hold) if hold.uses > 0);
        let own = table.slots().filter(|slot| ports.contains(&slot.lease.port));
        let used = own.filter(in_use).map(|slot| slot.lease.port).next();
        if let Some(port) = used {
            return Err(PortError::ExportRuns(port));
        }
        let mut going = Going { ports: self, held: Vec::with_capacity(ports.len()) };
        for &port in ports {
            let slot = table.slot(port).ok_or(PortError::NotLeased(port))?;
            match std::mem::replace(&mut slot.stage, Stage::Going) {
                Stage::Held(hold) => going.held.push((slot.lease.clone(), hold)),
                // Whoever changes it keeps it; `settled` has waited for that.
                other => slot.stage = other,
            }
        }
        Ok(going)
    }

    /// On disk first: were that to fail, all is as it was.
    fn give_back(&self, mut going: Going<'_>) -> Result<Vec<PortLease>, PortError> {
        let Some((first, hold)) = going.held.first() else { return Ok(Vec::new()) };
        let (job, named) = (first.job, hold.named);
        let ids = going.held.iter().flat_map(|(_, hold)| hold.leases.iter().copied()).collect();
        self.catalog(named).release_each(ids, job)?;
        let held = std::mem::take(&mut going.held);
        let mut released = Vec::with_capacity(held.len());
        for (lease, hold) in held {
            // Closed before another job can be given the port.
            drop(hold.listener);
            released.push(lease);
        }
        let mut table = self.table();
        for lease in &released {
            table.take(lease.port);
        }
        drop(table);
        self.changed.notify_all();
        if let Some(tell) = self.released.0.get() {
            tell();
        }
        Ok(released)
    }

    fn catalog(&self, named: bool) -> &SqliteCatalog {
        if named { &self.callers } else { &self.own }
    }
}

enum Reserved<'a> {
    Before(PortLease),
    Now(Reservation<'a>),
}

/// A port that is coming. Dropped, whatever the reason, it is free again.
struct Reservation<'a> {
    ports: &'a Ports,
    lease: PortLease,
    /// From then on the port may be another call's.
    over: bool,
}

impl Reservation<'_> {
    fn keep(mut self, hold: Hold) -> PortLease {
        self.over = true;
        self.ports.table().put(self.lease.clone(), Stage::Held(hold));
        self.lease.clone()
    }

    fn outside(mut self) {
        self.over = true;
        let mut table = self.ports.table();
        table.take(self.lease.port);
        table.has_outsider(self.lease.port);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.ports.table().take(self.lease.port);
        }
        self.ports.changed.notify_all();
    }
}

/// Ports that are going. Dropped, those that have not gone are held as before.
struct Going<'a> {
    ports: &'a Ports,
    held: Vec<(PortLease, Hold)>,
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let mut table = self.ports.table();
        for (lease, hold) in self.held.drain(..) {
            table.put(lease, Stage::Held(hold));
        }
        drop(table);
        self.ports.changed.notify_all();
    }
}

/// A leased port that an export runs on.
#[derive(Debug)]
pub struct PortUse {
    lease: PortLease,
    listener: Option<Listener>,
    ports: Arc<Ports>,
}

impl PortUse {
    /// Whose it is, and what its export is called.
    #[must_use]
    pub fn lease(&self) -> &PortLease {
        &self.lease
    }

    /// Where the export is to listen.
    #[must_use]
    pub fn listener(&self) -> Listener {
        self.listener.clone().expect("only dropping takes it")
    }
}

impl Drop for PortUse {
    fn drop(&mut self) {
        self.listener = None;
        if let Some(Slot { stage: Stage::Held(hold), .. }) =
            self.ports.table().slot(self.lease.port)
        {
            hold.uses = hold.uses.saturating_sub(1);
        }
    }
}

impl Slot {
    fn is_settled(&self) -> bool {
        matches!(self.stage, Stage::Held(_))
    }
}
