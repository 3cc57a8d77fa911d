//! The layout of a manifest: header, entries, trailer, as bytes.

use super::Entry;
use crate::digest::{DIGEST_BLOCK, Digest, DigestAlgorithm, MAX_DIGEST_BYTES};
use crate::plan::{Area, AreaSet};

/// Bytes of the header; entries begin behind it.
pub(super) const HEADER_BYTES: usize = 4096;
const HEADER_BYTES_U64: u64 = 4096;
/// Bytes of one run of the trailer: first block and number of blocks.
pub(super) const RUN_BYTES: u64 = 16;
/// Bytes of the longest entry: a tag and a digest.
pub(super) const MAX_STRIDE: usize = 1 + MAX_DIGEST_BYTES;
/// The version that is written and read here.
pub(super) const VERSION: u32 = 1;

/// What a complete manifest begins with.
pub(super) const MAGIC: [u8; 16] = *b"blockferry-digst";
const TAG_ABSENT: u8 = 0;
const TAG_DATA: u8 = 1;
const TAG_ZERO: u8 = 2;
const CHECKSUM_BYTES: usize = 32;
const CHECKSUM_AT: usize = HEADER_BYTES - CHECKSUM_BYTES;
const DIGEST_BLOCK_U64: u64 = 64 * 1024;
const _: () = assert!(DIGEST_BLOCK == 64 * 1024);

/// Where things are in a manifest of one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) algorithm: DigestAlgorithm,
    pub(super) disk_size: u64,
}

impl Layout {
    /// `None` where the offsets of the file would not fit.
    pub(super) fn new(algorithm: DigestAlgorithm, disk_size: u64) -> Option<Self> {
        let layout = Self { algorithm, disk_size };
        let entries = layout.blocks().checked_mul(layout.stride())?;
        // Offsets of a file are signed; leave room for the longest trailer.
        (entries < 1 << 62).then_some(layout)
    }

    pub(super) fn blocks(self) -> u64 {
        self.disk_size.div_ceil(DIGEST_BLOCK_U64)
    }

    /// Bytes of an entry.
    pub(super) fn stride(self) -> u64 {
        match self.algorithm {
            DigestAlgorithm::Crc32c => 1 + 4,
            DigestAlgorithm::Xxh3 => 1 + 16,
            DigestAlgorithm::Blake3 => 1 + 32,
        }
    }

    pub(super) fn entry_at(self, index: u64) -> u64 {
        HEADER_BYTES_U64 + index * self.stride()
    }

    pub(super) fn trailer_at(self) -> u64 {
        self.entry_at(self.blocks())
    }

    /// Bytes of the disk in a block: all but the last are full.
    pub(super) fn block_bytes(self, index: u64) -> usize {
        let left = self.disk_size.saturating_sub(index.saturating_mul(DIGEST_BLOCK_U64));
        usize::try_from(left.min(DIGEST_BLOCK_U64)).unwrap_or(DIGEST_BLOCK)
    }

    pub(super) fn put_entry(self, entry: Entry, out: &mut Vec<u8>) {
        let (tag, digest) = match &entry {
            Entry::Absent => (TAG_ABSENT, &[][..]),
            Entry::Zero => (TAG_ZERO, &[][..]),
            Entry::Data(digest) => (TAG_DATA, digest.as_bytes()),
        };
        out.push(tag);
        out.extend_from_slice(digest);
        let padding = self.algorithm.digest_bytes() - digest.len();
        out.extend(std::iter::repeat_n(0, padding));
    }

    /// The entry that `bytes`, which are as long as an entry, hold; otherwise the unknown tag.
    pub(super) fn read_entry(bytes: &[u8]) -> Result<Entry, u8> {
        match bytes.split_first() {
            Some((&TAG_ABSENT, _)) => Ok(Entry::Absent),
            Some((&TAG_ZERO, _)) => Ok(Entry::Zero),
            Some((&TAG_DATA, digest)) => {
                Digest::from_bytes(digest).map(Entry::Data).ok_or(TAG_DATA)
            }
            Some((&tag, _)) => Err(tag),
            None => Err(TAG_ABSENT),
        }
    }
}

/// Whether the bytes of an entry say nothing of their block: most of them in a delta.
pub(super) fn is_absent(entry: &[u8]) -> bool {
    matches!(entry.first(), None | Some(&TAG_ABSENT))
}

/// The header, and through its checksums the trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) layout: Layout,
    pub(super) runs: u64,
    pub(super) trailer_checksum: [u8; CHECKSUM_BYTES],
}

/// Why bytes are no header.
#[derive(Debug)]
pub(super) enum HeaderProblem {
    Magic,
    Version(u32),
    Damaged(String),
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&algorithm_number(self.layout.algorithm).to_le_bytes());
        bytes.extend_from_slice(&DIGEST_BLOCK_U64.to_le_bytes());
        bytes.extend_from_slice(&self.layout.stride().to_le_bytes());
        bytes.extend_from_slice(&self.layout.disk_size.to_le_bytes());
        bytes.extend_from_slice(&self.runs.to_le_bytes());
        bytes.extend_from_slice(&self.trailer_checksum);
        bytes.resize(CHECKSUM_AT, 0);
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderProblem> {
        let damaged = |problem: &str| HeaderProblem::Damaged(problem.to_owned());
        let mut fields = Fields { rest: bytes };
        if fields.take::<16>() != MAGIC {
            return Err(HeaderProblem::Magic);
        }
        let version = u32::from_le_bytes(fields.take());
        if version != VERSION {
            return Err(HeaderProblem::Version(version));
        }
        let (content, checksum) = bytes.split_at(CHECKSUM_AT);
        if blake3::hash(content).as_bytes().as_slice() != checksum {
            return Err(damaged("the checksum of its header is wrong"));
        }
        let number = u32::from_le_bytes(fields.take());
        let block_bytes = u64::from_le_bytes(fields.take());
        let stride = u64::from_le_bytes(fields.take());
        let disk_size = u64::from_le_bytes(fields.take());
        let runs = u64::from_le_bytes(fields.take());
        let trailer_checksum = fields.take();
        let algorithm = DigestAlgorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm_number(*algorithm) == number)
            .ok_or_else(|| damaged("its digest algorithm is unknown"))?;
        let layout = Layout::new(algorithm, disk_size)
            .filter(|layout| layout.stride() == stride && block_bytes == DIGEST_BLOCK_U64)
            .ok_or_else(|| damaged("the sizes in its header contradict each other"))?;
        Ok(Self { layout, runs, trailer_checksum })
    }
}

/// Takes fields of fixed length from the front of a header.
struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) =
            self.rest.split_first_chunk::<N>().expect("all fields together are less than a header");
        self.rest = rest;
        *field
    }
}

const fn algorithm_number(algorithm: DigestAlgorithm) -> u32 {
    match algorithm {
        DigestAlgorithm::Crc32c => 1,
        DigestAlgorithm::Xxh3 => 2,
        DigestAlgorithm::Blake3 => 3,
    }
}

/// The trailer for runs of zero blocks.
pub(super) fn encode_runs(runs: &AreaSet) -> Vec<u8> {
    let mut bytes = Vec::new();
    for run in runs {
        bytes.extend_from_slice(&run.start.to_le_bytes());
        bytes.extend_from_slice(&run.length.to_le_bytes());
    }
    bytes
}

/// The runs of a trailer; `None` unless they are in order and within `blocks`.
pub(super) fn decode_runs(bytes: &[u8], blocks: u64) -> Option<AreaSet> {
    let (numbers, _) = bytes.as_chunks::<8>();
    let (pairs, _) = numbers.as_chunks::<2>();
    let runs = pairs
        .iter()
        .map(|[start, length]| Area::new(u64::from_le_bytes(*start), u64::from_le_bytes(*length)));
    let set = AreaSet::from_unsorted(runs, blocks).ok()?;
    (set.len() == pairs.len() && encode_runs(&set) == bytes).then_some(set)
}

/// The checksum of a trailer.
pub(super) fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    *blake3::hash(bytes).as_bytes()
}
