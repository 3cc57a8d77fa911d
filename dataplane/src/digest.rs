//! Digests of blocks, made while their bytes are in hand.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// Bytes that one digest of a manifest covers.
pub const DIGEST_BLOCK: usize = 64 * 1024;

/// Bytes of the longest digest.
pub const MAX_DIGEST_BYTES: usize = 32;

/// How a digest is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DigestAlgorithm {
    /// CRC-32C (Castagnoli), 4 bytes, big endian. Finds accidents; the cheapest.
    Crc32c,
    /// XXH3 with 128 bits, 16 bytes in canonical (big endian) order. Finds accidents, and equal
    /// blocks among very many.
    Xxh3,
    /// BLAKE3, 32 bytes. Holds against somebody who means to deceive.
    Blake3,
}

impl DigestAlgorithm {
    /// All algorithms, the cheapest first.
    pub const ALL: [Self; 3] = [Self::Crc32c, Self::Xxh3, Self::Blake3];

    /// The name in options and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crc32c => "crc32c",
            Self::Xxh3 => "xxh3",
            Self::Blake3 => "blake3",
        }
    }

    /// Bytes of a digest.
    #[must_use]
    pub const fn digest_bytes(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::Xxh3 => 16,
            Self::Blake3 => 32,
        }
    }

    /// Reads the value of `--digest`: a name, or `none`.
    ///
    /// # Errors
    /// [`UnknownDigest`] for every other text.
    pub fn parse_choice(text: &str) -> Result<Option<Self>, UnknownDigest> {
        if text == "none" { Ok(None) } else { text.parse().map(Some) }
    }

    /// The digest of `block`.
    #[must_use]
    pub fn digest_block(self, block: &[u8]) -> Digest {
        match self {
            Self::Crc32c => Digest::from_array(crc32c(block).to_be_bytes()),
            Self::Xxh3 => Digest::from_array(xxhash_rust::xxh3::xxh3_128(block).to_be_bytes()),
            Self::Blake3 => Digest::from_array(*blake3::hash(block).as_bytes()),
        }
    }

    /// The digest of [`DIGEST_BLOCK`] zeros; made once.
    #[must_use]
    pub fn zero_block_digest(self) -> Digest {
        static MADE: [OnceLock<Digest>; 3] = [const { OnceLock::new() }; 3];
        let slot = match self {
            Self::Crc32c => &MADE[0],
            Self::Xxh3 => &MADE[1],
            Self::Blake3 => &MADE[2],
        };
        *slot.get_or_init(|| self.digest_block(&ZEROS))
    }

    /// The digest of `length` zeros, of which there may be at most [`DIGEST_BLOCK`] (more are
    /// taken as that many).
    #[must_use]
    pub fn zero_digest(self, length: usize) -> Digest {
        match ZEROS.get(..length) {
            Some(zeros) if length < DIGEST_BLOCK => self.digest_block(zeros),
            _ => self.zero_block_digest(),
        }
    }
}

fn crc32c(block: &[u8]) -> u32 {
    let wide = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, block);
    u32::try_from(wide).expect("a CRC of 32 bits fits in 32 bits")
}

static ZEROS: [u8; DIGEST_BLOCK] = [0; DIGEST_BLOCK];

impl fmt::Display for DigestAlgorithm {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// A name that is not one of a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown digest \"{name}\"; choose one of none, crc32c, xxh3, blake3")]
pub struct UnknownDigest {
    /// What was given.
    pub name: String,
}

impl FromStr for DigestAlgorithm {
    type Err = UnknownDigest;

    fn from_str(name: &str) -> Result<Self, UnknownDigest> {
        let known = Self::ALL.into_iter().find(|algorithm| algorithm.name() == name);
        known.ok_or_else(|| UnknownDigest { name: name.to_owned() })
    }
}

/// A digest, without the name of its algorithm. Shown as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest {
    /// The bytes; behind the length they are 0.
    bytes: [u8; MAX_DIGEST_BYTES],
    length: u8,
}

impl Digest {
    /// The digest that consists of `bytes`; `None` for more than [`MAX_DIGEST_BYTES`].
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut held = [0; MAX_DIGEST_BYTES];
        held.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self { bytes: held, length: u8::try_from(bytes.len()).ok()? })
    }

    /// The bytes, as many as the algorithm makes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    fn from_array<const N: usize>(bytes: [u8; N]) -> Self {
        const { assert!(N <= MAX_DIGEST_BYTES) };
        Self::from_bytes(&bytes).expect("the length was checked when this was compiled")
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Digest({self})")
    }
}

#[cfg(test)]
mod tests;
