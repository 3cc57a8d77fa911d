//! Files of layers, as far as one can tell without opening them.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;

use super::Repository;
use crate::catalog::{CheckedFile, Layer};

impl Repository {
    /// What is wrong with the length of a layer's image, in words: it never changes once the layer
    /// is published, so one that was cut, or another one in its place, is mostly known by it. A
    /// missing file has no length; that is another matter.
    pub(crate) fn wrong_length(&self, layer: &Layer) -> Option<String> {
        let has = fs::metadata(layer.facts.path.under(self.root())).ok()?.len();
        match layer.facts.file_bytes {
            Some(had) if has != had => {
                Some(format!("its file has {has} bytes, and had {had} when it was published"))
            }
            None if has == 0 => Some("its file is empty".into()),
            _ => None,
        }
    }

    /// The file of a layer's image, and whether it is the one whose tables were found right last.
    pub(crate) fn checked_before(&self, layer: &Layer) -> (Option<CheckedFile>, bool) {
        let there = fs::metadata(layer.facts.path.under(self.root()));
        let Ok(there) = there else { return (None, false) };
        let file = checked_file(&there);
        (file, file.is_some() && file == layer.facts.checked)
    }
}

/// What is noted of a file that was checked; nothing of one whose time is past the year 2262.
pub(crate) fn checked_file(data: &Metadata) -> Option<CheckedFile> {
    const NS_PER_S: i64 = 1_000_000_000;
    let modified_ns = data.mtime().checked_mul(NS_PER_S)?.checked_add(data.mtime_nsec())?;
    Some(CheckedFile { inode: data.ino(), modified_ns, bytes: data.len() })
}
