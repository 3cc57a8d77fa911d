//! Which ports are taken, by whom, and how far that is.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::lease::PortLease;
use crate::catalog::{DiskName, JobId, LeaseId};
use crate::export::Listener;

/// How many ports there are, and what became of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortMetrics {
    /// Ports of the range.
    pub total: usize,
    /// Leased ones of the range.
    pub in_use: usize,
    /// Leased ones that are not in the range: it was another one when they were leased.
    pub beyond: usize,
    /// Those that could be leased now.
    pub free: usize,
    /// The most that were leased at once, since the start of the hub.
    pub peak: usize,
    /// Calls that found no port free, since the start of the hub.
    pub waits: u64,
    /// Ports of the range that a process outside of the hub has.
    pub outside: Vec<u16>,
}

/// What a held port consists of.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) leases: Vec<LeaseId>,
    pub(super) listener: Listener,
    /// Whether they are in the catalog of named jobs.
    pub(super) named: bool,
    /// Exports that run on it.
    pub(super) uses: usize,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Being leased and bound.
    Coming,
    Held(Hold),
    /// Being given back.
    Going,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) lease: PortLease,
    pub(super) stage: Stage,
}

#[derive(Debug)]
pub(super) struct Table {
    range: RangeInclusive<u16>,
    slots: BTreeMap<u16, Slot>,
    outside: BTreeSet<u16>,
    peak: usize,
    waits: u64,
}

impl Table {
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        let (slots, outside) = (BTreeMap::new(), BTreeSet::new());
        Self { range, slots, outside, peak: 0, waits: 0 }
    }

    pub(super) fn slot(&mut self, port: u16) -> Option<&mut Slot> {
        self.slots.get_mut(&port)
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values()
    }

    pub(super) fn of_disk(&self, job: JobId, disk: &DiskName) -> Option<&Slot> {
        self.slots().find(|slot| slot.lease.job == job && &slot.lease.disk == disk)
    }

    pub(super) fn range(&self) -> RangeInclusive<u16> {
        self.range.clone()
    }

    /// The lowest port that nobody has; where only outsiders stand in the way, those are asked
    /// again.
    pub(super) fn lowest_free(&mut self) -> Option<u16> {
        let free = self.free().next();
        if free.is_some() || self.outside.is_empty() {
            return free;
        }
        self.look_outside();
        self.free().next()
    }

    fn free(&self) -> impl Iterator<Item = u16> {
        self.range
            .clone()
            .filter(|port| !self.slots.contains_key(port) && !self.outside.contains(port))
    }

    /// Forgets the outsiders that are gone: binding a port for a moment is all that it takes.
    fn look_outside(&mut self) {
        self.outside.retain(|&port| Listener::tcp(port).is_err());
    }

    pub(super) fn put(&mut self, lease: PortLease, stage: Stage) {
        self.outside.remove(&lease.port);
        self.slots.insert(lease.port, Slot { lease, stage });
        self.peak = self.peak.max(self.slots.len());
    }

    pub(super) fn take(&mut self, port: u16) -> Option<Slot> {
        self.slots.remove(&port)
    }

    pub(super) fn has_outsider(&mut self, port: u16) {
        self.outside.insert(port);
    }

    pub(super) fn found_none(&mut self) {
        self.waits += 1;
    }

    pub(super) fn metrics(&mut self) -> PortMetrics {
        self.look_outside();
        let in_use = self.slots.keys().filter(|port| self.range.contains(port)).count();
        PortMetrics {
            total: self.range.len(),
            in_use,
            beyond: self.slots.len() - in_use,
            free: self.free().count(),
            peak: self.peak,
            waits: self.waits,
            outside: self.outside.iter().copied().collect(),
        }
    }
}
