//! Which layer of a chain it is that differs.

use std::collections::BTreeMap;

use blockferry_dataplane::plan::{Area, AreaSet};

use crate::image::{Image, ImageTool};
use crate::repository::HeldLayer;

/// Ranges that qemu-img is asked about; a run of it for each. Of more, the digests alone tell.
const MAX_ASKED: usize = 256;

/// Sorts differences by the layer that has the block. The digests tell the lowest layer that can
/// have it; one above it that has the same content once more is known by its image alone.
pub(super) fn by_layer(
    held: &HeldLayer,
    found: BTreeMap<usize, AreaSet>,
    tool: &ImageTool,
) -> BTreeMap<usize, AreaSet> {
    let image = Image::at(&held.image, tool.clone());
    let mut asked = 0;
    let mut sorted: BTreeMap<usize, AreaSet> = BTreeMap::new();
    for (lowest, ranges) in found {
        for range in ranges.iter() {
            let ask = lowest > 0 && asked < MAX_ASKED;
            asked += usize::from(ask);
            let mapped = image.as_ref().ok().filter(|_| ask);
            // Tables that lead nowhere are damage that is told by others.
            let mapped = mapped.and_then(|image| image.map(range.start, range.length).ok());
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
    sorted
}
