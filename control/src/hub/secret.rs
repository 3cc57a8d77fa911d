//! Random bytes, and the hashes that are kept in their place.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// The system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the system gave no random bytes: {0}")]
pub struct NoRandom(io::Error);

pub(super) fn random<const N: usize>() -> Result<[u8; N], NoRandom> {
    let mut bytes = [0; N];
    // So few come at once, or not at all (getrandom(2)).
    let had = getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|e| NoRandom(e.into()))?;
    if had < N {
        return Err(NoRandom(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hash as it stands in a file: hexadecimal. Two of them are compared in constant time.
pub(super) mod hash {
    use blake3::Hash;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(
        hash: &Hash,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hash.to_hex())
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Hash, D::Error> {
        // An owned text: one that is borrowed cannot be had from every reader.
        Hash::from_hex(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
