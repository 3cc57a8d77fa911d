//! What a resume journal notes of the manifest that goes with it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

/// Which manifest holds the digests of what a journal calls safe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ManifestMark {
    /// One in the making: its id, and how often it had been made durable by then.
    Partial {
        /// 32 hexadecimal digits.
        id: String,
        /// The number of that checkpoint, from 1.
        checkpoint: u64,
    },
    /// A complete one: what tells its file from any other.
    Complete {
        /// 32 hexadecimal digits.
        file: String,
    },
}

impl ManifestMark {
    /// The mark of a complete file: a file that was written anew or changed has another.
    pub(super) fn of_complete(file: &Metadata) -> Self {
        let mut hasher = blake3::Hasher::new();
        for number in [file.dev(), file.ino(), file.len()] {
            hasher.update(&number.to_le_bytes());
        }
        for number in [file.mtime(), file.mtime_nsec()] {
            hasher.update(&number.to_le_bytes());
        }
        let mut digits = hasher.finalize().to_hex();
        digits.truncate(32);
        Self::Complete { file: digits.to_string() }
    }
}
