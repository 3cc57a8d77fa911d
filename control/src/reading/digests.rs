//! What a chain should hold, by the manifests of its layers.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use blockferry_dataplane::digest::{DIGEST_BLOCK, DigestAlgorithm};
use blockferry_dataplane::manifest::{Entry, Manifest, ManifestError};
use blockferry_dataplane::plan::{Area, AreaSet};

use super::error::ReadError;
use crate::repository::{HeldLayer, Repository, RepositoryError};

/// Ranges that are kept of one layer at most; of more, the smallest gaps between them are taken
/// for damage too.
const MAX_RANGES: usize = 65_536;
/// Bytes of a block. A constant: see `DIGEST_BLOCK`.
const BLOCK_BYTES: u64 = DIGEST_BLOCK as u64;

/// The manifests of a chain, open, the newest first.
#[derive(Debug)]
pub(crate) struct ChainDigests {
    layers: Vec<Manifest>,
}

impl ChainDigests {
    /// Opens the manifests of all layers of a chain, and sees that they go together.
    ///
    /// # Errors
    /// [`RepositoryError::NoDigests`] with the first layer whose digests are of no use.
    pub(crate) fn open(held: &HeldLayer, repository: &Repository) -> Result<Self, RepositoryError> {
        let mut layers: Vec<Manifest> = Vec::with_capacity(held.chain.len());
        let size = held.layer().facts.size_bytes;
        for layer in &held.chain {
            let manifest = repository.manifest(layer)?;
            if manifest.disk_size() != size {
                let why =
                    format!("they are of a disk of {} bytes, not {size}", manifest.disk_size());
                return Err(repository.no_digests(layer, why));
            }
            if let Some(newest) = layers.first()
                && newest.algorithm() != manifest.algorithm()
            {
                let (has, above) = (manifest.algorithm(), newest.algorithm());
                let why = format!("they are {has}, and those of the newest layer {above}");
                return Err(repository.no_digests(layer, why));
            }
            layers.push(manifest);
        }
        Ok(Self { layers })
    }

    /// What a whole chain should hold, where somebody has put that together.
    pub(crate) fn of(whole: Manifest) -> Self {
        Self { layers: vec![whole] }
    }

    /// A file with what the chain should hold as a whole: the manifest of the only layer, or else
    /// one that is made in `folder`, where it has no name any more.
    pub(crate) fn as_one(&self, folder: &Path) -> Result<File, ReadError> {
        if let [only] = self.layers.as_slice() {
            let path = only.path();
            return File::open(path).map_err(|error| ReadError::system(path, "opening it", error));
        }
        let failed = |error| ReadError::system(folder, "making a folder in it", error);
        // It goes at the end of this, and the file that is open stays.
        let notes = tempfile::Builder::new().prefix("digests-").tempdir_in(folder);
        let notes = notes.map_err(failed)?;
        let path = notes.path().join("whole.manifest");
        Manifest::overlay(&self.layers, &path)?;
        File::open(&path).map_err(|error| ReadError::system(&path, "opening it", error))
    }

    /// How the digests are made.
    pub(crate) fn algorithm(&self) -> Option<DigestAlgorithm> {
        Some(self.layers.first()?.algorithm())
    }

    /// Where `read`, the manifest of what was read through the chain, differs: by the place in the
    /// chain of the lowest layer that can have the block. Of each block the first layer counts that
    /// has a digest, and a delta has digests also of blocks that it leaves to the layers below.
    pub(crate) fn differences(
        &self,
        read: &Manifest,
    ) -> Result<BTreeMap<usize, AreaSet>, ManifestError> {
        let size = read.disk_size();
        let mut found: BTreeMap<usize, AreaSet> = BTreeMap::new();
        let mut layers: Vec<_> = self.layers.iter().map(Manifest::entries).collect();
        let mut entries = vec![Entry::Absent; layers.len()];
        for (index, read) in (0..).zip(read.entries()) {
            let read = read?;
            for (entry, layer) in entries.iter_mut().zip(&mut layers) {
                *entry = layer.next().transpose()?.unwrap_or(Entry::Absent);
            }
            let area = block(index, size);
            let first = entries.iter().position(|entry| *entry != Entry::Absent);
            let expected = first.map_or(Entry::Absent, |first| entries[first]);
            if self.same(expected, read, area.length) {
                continue;
            }
            let ranges = found.entry(self.lowest(&entries, expected, area.length)).or_default();
            ranges.insert(area);
            if ranges.len() > MAX_RANGES {
                *ranges = std::mem::take(ranges).coalesced_to(MAX_RANGES / 2);
            }
        }
        Ok(found)
    }

    /// The lowest layer through which the block still is what the uppermost says. One that no
    /// layer has a digest of is held against the lowest of all.
    fn lowest(&self, entries: &[Entry], expected: Entry, length: u64) -> usize {
        let mut lowest = entries.len().saturating_sub(1);
        if expected == Entry::Absent {
            return lowest;
        }
        for (layer, entry) in entries.iter().enumerate().filter(|(_, e)| **e != Entry::Absent) {
            if !self.same(expected, *entry, length) {
                break;
            }
            lowest = layer;
        }
        lowest
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

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use blockferry_dataplane::manifest::ManifestWriter;

    use super::*;

    const ALGORITHM: DigestAlgorithm = DigestAlgorithm::Blake3;
    /// Four blocks, of which the last is short.
    const SIZE: u64 = 3 * BLOCK_BYTES + 1000;

    /// A manifest by a letter a block: `.` absent, `0` zeros, any other: data of that byte.
    fn manifest(folder: &Path, blocks: &str) -> Manifest {
        let path: PathBuf = folder.join(format!("{}-{blocks}", blocks.len()));
        let mut writer = ManifestWriter::create(&path, ALGORITHM, SIZE).unwrap();
        for (index, letter) in (0..).zip(blocks.bytes()) {
            let length = usize::try_from(block(index, SIZE).length).unwrap();
            match letter {
                b'.' => {}
                b'0' => writer.record_zero(index..index + 1).unwrap(),
                b'z' => writer.record(index, &ALGORITHM.zero_digest(length)).unwrap(),
                byte => {
                    let digest = ALGORITHM.digest_block(&vec![byte; length]);
                    writer.record(index, &digest).unwrap();
                }
            }
        }
        writer.finish().unwrap();
        Manifest::open(&path).unwrap()
    }

    /// What differs, as the layer and the blocks.
    fn differences(layers: &[&str], read: &str) -> Vec<(usize, Vec<Area>)> {
        let folder = tempfile::tempdir().unwrap();
        let layers = layers.iter().map(|blocks| manifest(folder.path(), blocks));
        let chain = ChainDigests { layers: layers.collect() };
        let found = chain.differences(&manifest(folder.path(), read)).unwrap();
        found.into_iter().map(|(layer, ranges)| (layer, ranges.iter().collect())).collect()
    }

    #[test]
    fn the_uppermost_layer_counts_that_has_a_block() {
        assert_eq!(differences(&["a.0.", "bcde"], "ac0e"), []);
        assert_eq!(differences(&["....", "..x.", "bcde"], "bcxe"), []);
        let whole_of = |index| block(index, SIZE);
        assert_eq!(differences(&["a.0.", "bcde"], "bc0e"), [(0, vec![whole_of(0)])]);
        let last_two = Area::between(2 * BLOCK_BYTES, SIZE);
        assert_eq!(
            differences(&["a...", "bcde"], "xcxx"),
            [(0, vec![whole_of(0)]), (1, vec![last_two])]
        );
    }

    #[test]
    fn zeros_are_zeros_whether_they_were_noticed_or_not() {
        assert_eq!(differences(&["0z0z"], "z0z0"), []);
        assert_eq!(differences(&["000a"], "0000").len(), 1);
    }

    #[test]
    fn a_block_that_a_delta_only_has_the_digest_of_is_held_against_the_layer_below() {
        // The delta was compared with its base: it knows all digests, and has the first block.
        assert_eq!(differences(&["xbcd", "abcd"], "xqcd"), [(1, vec![block(1, SIZE)])]);
        assert_eq!(differences(&["xbcd", "abcd"], "qbcd"), [(0, vec![block(0, SIZE)])]);
        assert_eq!(differences(&["xbcd", ".b..", "abcd"], "xqcd"), [(2, vec![block(1, SIZE)])]);
        // In between it was another content once.
        assert_eq!(differences(&["xbcd", ".y..", "abcd"], "xqcd"), [(0, vec![block(1, SIZE)])]);
    }

    #[test]
    fn a_block_that_nobody_vouches_for_differs() {
        assert_eq!(differences(&["a...", ".b.d"], "ab0d"), [(1, vec![block(2, SIZE)])]);
    }

    #[test]
    fn two_disks_are_compared_to_the_last_byte() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (manifest(folder.path(), "ab0d"), manifest(folder.path(), "abzx"));
        let ranges = unequal(&one, &other).unwrap();
        assert_eq!(ranges.as_slice(), [block(3, SIZE)]);
        assert_eq!(ranges.total(), 1000);
    }
}
