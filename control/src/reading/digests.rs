//! What a chain should hold, by the manifests of its layers.

use std::collections::BTreeMap;
use std::path::Path;

use blockferry_dataplane::digest::{DIGEST_BLOCK, DigestAlgorithm};
use blockferry_dataplane::manifest::{Entry, Manifest, ManifestError};
use blockferry_dataplane::plan::{Area, AreaSet};

use crate::catalog::{Layer, LayerId};
use crate::repository::HeldLayer;

/// Ranges that are kept of one layer at most; of more, the smallest gaps between them are taken
/// for damage too.
const MAX_RANGES: usize = 65_536;
/// Bytes of a block. A constant: see `DIGEST_BLOCK`.
const BLOCK_BYTES: u64 = DIGEST_BLOCK as u64;

/// The manifests of a chain, open, the newest first.
#[derive(Debug)]
pub(super) struct ChainDigests {
    layers: Vec<(LayerId, Manifest)>,
}

/// The digests of one layer, and why they cannot be had.
#[derive(Debug)]
pub(super) struct NoDigests<'a> {
    pub(super) layer: &'a Layer,
    pub(super) why: String,
}

/// Ranges of a disk whose content is not what a layer of its chain was given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The layer.
    pub layer: LayerId,
    /// The ranges, in bytes, of whole blocks of 64 KiB or to the end of the disk.
    pub ranges: AreaSet,
}

impl ChainDigests {
    /// Opens the manifests of all layers of a chain, and sees that they go together.
    pub(super) fn open<'a>(held: &'a HeldLayer, root: &Path) -> Result<Self, NoDigests<'a>> {
        let mut layers: Vec<(LayerId, Manifest)> = Vec::with_capacity(held.chain.len());
        let size = held.layer().facts.size_bytes;
        for layer in &held.chain {
            let none = |why: String| NoDigests { layer, why };
            let facts = &layer.facts;
            let path = facts.manifest.as_ref().map(|manifest| manifest.path.under(root));
            let path = path.ok_or_else(|| none("none were kept".into()))?;
            let manifest = Manifest::open(&path).map_err(|error| none(error.to_string()))?;
            if manifest.disk_size() != size {
                let other = manifest.disk_size();
                return Err(none(format!("they are of a disk of {other} bytes, not {size}")));
            }
            if let Some((_, newest)) = layers.first()
                && newest.algorithm() != manifest.algorithm()
            {
                return Err(none(format!(
                    "they are {}, and those of the newest layer {}",
                    manifest.algorithm(),
                    newest.algorithm()
                )));
            }
            layers.push((facts.id, manifest));
        }
        Ok(Self { layers })
    }

    /// How the digests are made.
    pub(super) fn algorithm(&self) -> Option<DigestAlgorithm> {
        Some(self.layers.first()?.1.algorithm())
    }

    /// Where `read`, the manifest of what was read through the chain, differs. Of each block the
    /// first layer counts that has it; one that no layer has is held against the lowest.
    pub(super) fn differences(&self, read: &Manifest) -> Result<Vec<Difference>, ManifestError> {
        let size = read.disk_size();
        let mut found: BTreeMap<LayerId, AreaSet> = BTreeMap::new();
        let mut layers: Vec<_> =
            self.layers.iter().map(|(id, manifest)| (*id, manifest.entries())).collect();
        for (index, read) in (0..).zip(read.entries()) {
            let read = read?;
            let mut expected = (Entry::Absent, None);
            for (id, entries) in &mut layers {
                let entry = entries.next().transpose()?.unwrap_or(Entry::Absent);
                if expected.0 == Entry::Absent {
                    expected = (entry, Some(*id));
                }
            }
            let area = block(index, size);
            let (expected, Some(layer)) = expected else { continue };
            if !self.same(expected, read, area.length) {
                let ranges = found.entry(layer).or_default();
                ranges.insert(area);
                if ranges.len() > MAX_RANGES {
                    *ranges = std::mem::take(ranges).coalesced_to(MAX_RANGES / 2);
                }
            }
        }
        Ok(found.into_iter().map(|(layer, ranges)| Difference { layer, ranges }).collect())
    }

    fn same(&self, expected: Entry, read: Entry, length: u64) -> bool {
        let zeros = |digest| {
            let length = usize::try_from(length).unwrap_or(DIGEST_BLOCK);
            self.algorithm().is_some_and(|algorithm| algorithm.zero_digest(length) == digest)
        };
        match (expected, read) {
            (Entry::Zero, Entry::Zero) => true,
            (Entry::Data(one), Entry::Data(other)) => one == other,
            // Whether zeros were noticed says nothing about the content.
            (Entry::Zero, Entry::Data(digest)) | (Entry::Data(digest), Entry::Zero) => {
                zeros(digest)
            }
            (Entry::Absent, _) | (_, Entry::Absent) => false,
        }
    }
}

/// Where two manifests of whole disks of one size differ.
pub(super) fn unequal(one: &Manifest, other: &Manifest) -> Result<AreaSet, ManifestError> {
    use blockferry_dataplane::manifest::Verdict;
    let size = one.disk_size();
    let mut ranges = AreaSet::new();
    for compared in one.compare(other)? {
        let (blocks, verdict) = compared?;
        if verdict != Verdict::Same {
            let end = (blocks.end * BLOCK_BYTES).min(size);
            ranges.insert(Area::between(blocks.start * BLOCK_BYTES, end));
            if ranges.len() > MAX_RANGES {
                ranges = ranges.coalesced_to(MAX_RANGES / 2);
            }
        }
    }
    Ok(ranges)
}

fn block(index: u64, size: u64) -> Area {
    Area::between(index * BLOCK_BYTES, ((index + 1) * BLOCK_BYTES).min(size))
}
