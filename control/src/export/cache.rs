//! Whether an export goes past the cache of the file system.
//!
//! O_DIRECT with io_uring takes less CPU and gets more through, where the file system and the
//! kernel can do it. Whether they can is found by starting an export so: if that fails, and it
//! starts with the cache, then that was the cause, and its words are kept for all images of that
//! file system.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::child::{Launch, held};

/// How an export reads and writes its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// Past the cache of the file system, by io_uring.
    Direct,
    /// Through the cache, by threads.
    Writeback,
}

impl CacheMode {
    pub(super) fn apply(self, launch: &mut Launch) {
        launch.args(match self {
            Self::Direct => ["--cache=none", "--aio=io_uring"],
            Self::Writeback => ["--cache=writeback", "--aio=threads"],
        });
    }
}

/// Which mode is wanted: by default direct where it can be had. Clones share what they learn.
#[derive(Clone, Debug, Default)]
pub struct CacheChoice {
    only: Option<CacheMode>,
    /// Why not direct, by file system.
    refusals: Arc<Mutex<HashMap<u64, String>>>,
}

impl CacheChoice {
    /// This mode, or no export.
    #[must_use]
    pub fn only(mode: CacheMode) -> Self {
        Self { only: Some(mode), ..Self::default() }
    }

    /// Why the file system of `image` is not gone past, if that was tried and found impossible.
    #[must_use]
    pub fn refusal(&self, image: &Path) -> Option<String> {
        held(&self.refusals).get(&file_system(image)?).cloned()
    }

    /// The mode to try, and the one to try when that fails.
    pub(super) fn candidates(&self, image: &Path) -> (CacheMode, Option<CacheMode>) {
        match self.only {
            Some(mode) => (mode, None),
            None if self.refusal(image).is_some() => (CacheMode::Writeback, None),
            None => (CacheMode::Direct, Some(CacheMode::Writeback)),
        }
    }

    pub(super) fn remember(&self, image: &Path, why: String) {
        if let Some(file_system) = file_system(image) {
            held(&self.refusals).insert(file_system, why);
        }
    }
}

fn file_system(image: &Path) -> Option<u64> {
    image.metadata().ok().map(|metadata| metadata.dev())
}
