//! Which layer of a chain it is that differs, and that it does, kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use blockferry_dataplane::plan::{Area, AreaSet};

use crate::backup::Watch;
use crate::catalog::{LayerId, Points};
use crate::image::{Image, ImageError, ImageTool};
use crate::repository::{HeldLayer, Repository};

/// Ranges that qemu-img is asked about; a run of it for each. Of more, the digests alone tell.
const MAX_ASKED: usize = 256;

/// Sorts differences by the layer that has the block. The digests tell the lowest layer that can
/// have it; one above it that has the same content once more is known by its image alone.
///
/// # Errors
/// [`ImageError`] where nobody can be asked, so that a layer may be held to blame that is right.
pub(super) fn by_layer(
    held: &HeldLayer,
    found: BTreeMap<usize, AreaSet>,
    tool: &ImageTool,
) -> Result<BTreeMap<usize, AreaSet>, ImageError> {
    let image = Image::at(&held.image, tool.clone());
    let mut asked = 0;
    let mut sorted: BTreeMap<usize, AreaSet> = BTreeMap::new();
    for (lowest, ranges) in found {
        for range in ranges.iter() {
            let ask = lowest > 0 && asked < MAX_ASKED;
            asked += usize::from(ask);
            let mapped = image.as_ref().ok().filter(|_| ask);
            let mapped = match mapped.map(|image| image.map(range.start, range.length)) {
                Some(Err(error)) if !error.is_of_image() => return Err(error),
                // Tables that lead nowhere are damage that is told by others.
                mapped => mapped.and_then(Result::ok),
            };
            let mut rest = AreaSet::new();
            rest.insert(range);
            for part in mapped.into_iter().flatten().filter(|part| part.depth < lowest) {
                let area = Area::between(
                    part.start.max(range.start),
                    part.start.saturating_add(part.length).min(range.end()),
                );
                sorted.entry(part.depth).or_default().insert(area);
                rest.remove(area);
            }
            if !rest.is_empty() {
                let all = sorted.entry(lowest).or_default();
                *all = all.union(&rest);
            }
        }
    }
    Ok(sorted)
}

/// Keeps what was found of layers, for those who list points and those who would stand on one: what is
/// wrong with them, and which are right again.
pub(super) fn keep(
    repository: &Repository,
    damaged: &[(LayerId, String)],
    right: &[LayerId],
    watch: &Arc<dyn Watch>,
) {
    if let Err(error) = repository.catalog().note_verified(damaged, right) {
        watch.note(&format!("what was found cannot be kept in the repository: {error}"));
    }
}
