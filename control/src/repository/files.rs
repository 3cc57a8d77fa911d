//! Files of layers, as far as one can tell without opening them.

use std::fs;

use super::Repository;
use crate::catalog::Layer;

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
}
