//! What the lines of a journal come to.

use std::collections::VecDeque;

use super::lines::{Entry, Witness};
use super::{MAX_SAFE_AREAS, MAX_WITNESSES};
use crate::manifest::ManifestMark;
use crate::plan::AreaSet;

/// Areas that are collected before they are merged into the large set, which is cheap in one go
/// and dear one by one.
const RECENT_AREAS: usize = 16_384;

/// What is held by the lines that were read so far.
#[derive(Default)]
pub(super) struct Held {
    pub(super) safe: AreaSet,
    /// The part of it that the last manifest has the digests of.
    pub(super) digested: AreaSet,
    pub(super) manifest: Option<ManifestMark>,
    pub(super) witnesses: VecDeque<Witness>,
    pub(super) seal: Option<Witness>,
    recent: AreaSet,
    /// The recent areas have their digests in the last manifest.
    recent_digested: bool,
}

impl Held {
    /// Takes what the next line says.
    pub(super) fn take(&mut self, entry: Entry) {
        let digested = entry.manifest.is_some();
        if digested != self.recent_digested || self.recent.len() > RECENT_AREAS {
            self.merge();
            self.recent_digested = digested;
        }
        if let Some(mark) = entry.manifest {
            if self.manifest.as_ref().is_none_or(|before| !continues(before, &mark)) {
                self.merge();
                self.digested = AreaSet::new();
            }
            self.manifest = Some(mark);
        }
        entry.safe.into_iter().for_each(|area| self.recent.insert(area));
        self.witnesses.extend(entry.witness);
        if self.witnesses.len() > MAX_WITNESSES {
            self.witnesses.pop_front();
        }
        if entry.seal.is_some() || entry.unsealed {
            self.seal = entry.seal;
        }
    }

    /// Merges what was collected.
    pub(super) fn merge(&mut self) {
        let recent = std::mem::take(&mut self.recent);
        if recent.is_empty() {
            return;
        }
        let merged = |set: &AreaSet| set.union(&recent).longest(MAX_SAFE_AREAS);
        self.safe = merged(&self.safe);
        if self.recent_digested {
            self.digested = merged(&self.digested);
        }
    }
}

/// Whether a manifest holds all that the one before it held.
fn continues(before: &ManifestMark, mark: &ManifestMark) -> bool {
    match (before, mark) {
        (ManifestMark::Partial { id: before, .. }, ManifestMark::Partial { id, .. }) => {
            before == id
        }
        (_, ManifestMark::Complete { .. }) => true,
        (ManifestMark::Complete { .. }, ManifestMark::Partial { .. }) => false,
    }
}
