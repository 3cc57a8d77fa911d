//! What changed of a disk, page by page.
//!
//! A page tells of a part of the disk, from where it was asked for up to where it says. The pages
//! have to cover the disk without a gap, and the areas of a page have to be in order and within it:
//! whatever is not like that is an error, and no data. What a server leaves out would be missing in
//! a restore point.

use std::io::Read;
use std::time::Instant;

use blockferry_dataplane::plan::{Area, AreaSet};

use super::error::VsphereError;
use super::session::Session;
use super::xml::{Body, Moref, Space, XmlError, XmlReader};
use crate::catalog::ChangeId;
use crate::snapshots::{SnapshotId, VmDisk, VmId};

const CALL: &str = "QueryChangedDiskAreas";

/// The areas that were told of, and where the next page begins.
#[derive(Debug)]
pub(super) struct Areas {
    set: AreaSet,
    capacity: u64,
    next: u64,
    most: usize,
}

/// Why pages cannot be the truth.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Nonsense {
    #[error("asked from byte {asked} on, it answers from byte {told} on")]
    Elsewhere { asked: u64, told: u64 },
    #[error("it stands still at byte {0}")]
    NoProgress(u64),
    #[error("it tells of bytes up to {end}, and the disk has {capacity}")]
    BeyondDisk { end: u64, capacity: u64 },
    #[error(
        "an area of {length} bytes at byte {start} is not within the part that the page is about"
    )]
    OutsidePage { start: u64, length: u64 },
    #[error("the area at byte {start} is not behind the one before it, which ends at {before}")]
    OutOfOrder { start: u64, before: u64 },
    #[error("the area at byte {0} is empty")]
    Empty(u64),
}

impl Areas {
    pub(super) fn of(capacity: u64, most: usize) -> Self {
        Self { set: AreaSet::new(), capacity, next: 0, most: most.max(1) }
    }

    /// Where the next page begins; none if the disk is covered.
    pub(super) fn next(&self) -> Option<u64> {
        (self.next < self.capacity).then_some(self.next)
    }

    /// Takes a page: the part that it is about, and its areas.
    pub(super) fn take(&mut self, page: Area, areas: &[Area]) -> Result<(), Nonsense> {
        if page.start != self.next {
            return Err(Nonsense::Elsewhere { asked: self.next, told: page.start });
        }
        if page.length == 0 {
            return Err(Nonsense::NoProgress(page.start));
        }
        let end = page.start.checked_add(page.length);
        let end = end
            .filter(|end| *end <= self.capacity)
            .ok_or(Nonsense::BeyondDisk { end: page.end(), capacity: self.capacity })?;
        let mut before = page.start;
        for &Area { start, length } in areas {
            if length == 0 {
                return Err(Nonsense::Empty(start));
            }
            let behind = start.checked_add(length).filter(|behind| *behind <= end);
            let behind = behind.filter(|_| start >= page.start);
            let behind = behind.ok_or(Nonsense::OutsidePage { start, length })?;
            if start < before {
                return Err(Nonsense::OutOfOrder { start, before });
            }
            self.set.insert(Area::new(start, length));
            before = behind;
        }
        self.next = end;
        // Twice as many, so that merging is worth its while.
        if self.set.len() > self.most.saturating_mul(2) {
            self.set = std::mem::take(&mut self.set).coalesced_to(self.most);
        }
        Ok(())
    }

    pub(super) fn finish(self) -> AreaSet {
        self.set.coalesced_to(self.most)
    }
}

/// What changed of a snapshot's disk since then.
pub(super) fn changed(
    session: &Session,
    vm: &VmId,
    snapshot: &SnapshotId,
    disk: &VmDisk,
    since: &ChangeId,
    most: usize,
) -> Result<AreaSet, VsphereError> {
    let deadlines = session.server().deadlines;
    let end = Instant::now() + deadlines.changes;
    let mut areas = Areas::of(disk.capacity_bytes, most);
    while let Some(start) = areas.next() {
        let late = || VsphereError::AreasLate {
            server: session.wire().server().to_owned(),
            disk: disk.label.clone(),
            deadline_s: deadlines.changes.as_secs(),
            told: start,
            capacity: disk.capacity_bytes,
        };
        let body = Body::call(CALL, &Moref::new("VirtualMachine", vm.as_str()))
            .moref("snapshot", &Moref::new("VirtualMachineSnapshot", snapshot.as_str()))
            .value("deviceKey", &disk.key.to_string())
            .value("startOffset", &start.to_string())
            .value("changeId", since.as_str());
        let left = || match end.saturating_duration_since(Instant::now()) {
            left if left.is_zero() => Err(late()),
            left => Ok(left.min(deadlines.areas)),
        };
        let asked = session.looked(|| session.call(&body, left()?)?.stream(page));
        let (part, changes) = asked.map_err(|error| match error {
            VsphereError::Late { .. } if Instant::now() >= end => late(),
            error => error,
        })?;
        areas.take(part, &changes).map_err(|nonsense| VsphereError::Areas {
            server: session.wire().server().to_owned(),
            disk: disk.label.clone(),
            problem: nonsense.to_string(),
        })?;
    }
    Ok(areas.finish())
}

/// Reads a page: `DiskChangeInfo`.
pub(super) fn page<R: Read>(reader: &mut XmlReader<R>) -> Result<(Area, Vec<Area>), XmlError> {
    let mut found = None;
    while let Some(start) = reader.next_start()? {
        if start.is(Space::Vim, "returnval") && found.is_none() {
            found = Some(info(reader)?);
        } else {
            return Err(XmlError::Unexpected(format!("there is a {:.40} in it", &*start.local)));
        }
    }
    found.ok_or_else(|| XmlError::Unexpected("it says nothing".into()))
}

fn info<R: Read>(reader: &mut XmlReader<R>) -> Result<(Area, Vec<Area>), XmlError> {
    let (mut from, mut length) = (None, None);
    let mut areas = Vec::new();
    while let Some(start) = reader.next_start()? {
        match (start.space, &*start.local) {
            (Space::Vim, "startOffset") => once(&mut from, "startOffset", reader)?,
            (Space::Vim, "length") => once(&mut length, "length", reader)?,
            (Space::Vim, "changedArea") => areas.push(area(reader)?),
            _ => reader.skip()?,
        }
    }
    Ok((Area::new(needed(from, "startOffset")?, needed(length, "length")?), areas))
}

fn area<R: Read>(reader: &mut XmlReader<R>) -> Result<Area, XmlError> {
    let (mut from, mut length) = (None, None);
    while let Some(start) = reader.next_start()? {
        match (start.space, &*start.local) {
            (Space::Vim, "start") => once(&mut from, "start", reader)?,
            (Space::Vim, "length") => once(&mut length, "length", reader)?,
            _ => reader.skip()?,
        }
    }
    Ok(Area::new(needed(from, "start")?, needed(length, "length")?))
}

fn once<R: Read>(
    slot: &mut Option<u64>,
    name: &str,
    reader: &mut XmlReader<R>,
) -> Result<(), XmlError> {
    let text = reader.text()?;
    let number = text.trim().parse();
    let number = number.map_err(|_| {
        XmlError::Unexpected(format!("{name} is {text:.40}, which is no count of bytes"))
    })?;
    match slot.replace(number) {
        None => Ok(()),
        Some(_) => Err(XmlError::Unexpected(format!("{name} is said twice"))),
    }
}

fn needed(value: Option<u64>, name: &str) -> Result<u64, XmlError> {
    value.ok_or_else(|| XmlError::Unexpected(format!("{name} is missing")))
}

#[cfg(test)]
mod tests;
