//! QueryChangedDiskAreas.

use std::path::PathBuf;
use std::sync::Arc;

use super::call::Call;
use super::content::{CHANGE_BYTES, Tracking, areas_in_use};
use super::fault::Fault;
use super::shared::Shared;
use super::trouble::{Page, Trouble};
use super::value::Value;
use super::world::World;

/// A disk of a snapshot, as far as its changes concern.
struct Asked {
    file: String,
    capacity: u64,
    path: PathBuf,
    tracking: Option<Arc<Tracking>>,
}

/// One page of an answer.
struct Areas {
    start: u64,
    length: u64,
    changed: Vec<(u64, u64)>,
}

pub(crate) fn query(call: &Call<'_>) -> Result<Value, Fault> {
    let snapshot = call.reference("snapshot")?;
    let key: i32 = call.text("deviceKey").trim().parse().expect("the schema was checked");
    let start = call.text("startOffset").trim().parse::<u64>();
    let start = start.map_err(|_| Fault::invalid_argument("startOffset"))?;
    let asked = {
        let world = call.shared.world();
        // Without a snapshot the current disk is meant; nothing here may be asked that way.
        let snapshot = snapshot.ok_or_else(|| Fault::invalid_argument("snapshot"))?;
        asked(&world, &call.this.id, &snapshot.id, key)?
    };
    if start >= asked.capacity {
        return Err(Fault::invalid_argument("startOffset"));
    }
    let areas = match call.text("changeId") {
        "*" => in_use(call.shared, &asked, start)?,
        change_id => since(call.shared, &asked, change_id, start)?,
    };
    let page = call.shared.trouble(|trouble| matches!(trouble, Trouble::Areas(_)));
    let areas = match page {
        Some(Trouble::Areas(page)) => spoiled(call, &asked, areas, page)?,
        _ => areas,
    };
    Ok(areas.value())
}

fn asked(world: &World, machine: &str, snapshot: &str, key: i32) -> Result<Asked, Fault> {
    let (owner, _, snapshot) = world.snapshot(snapshot)?;
    if owner != machine {
        return Err(Fault::invalid_argument("snapshot"));
    }
    let disk = snapshot.disks.get(&key);
    let disk = disk.ok_or_else(|| Fault::invalid_argument("deviceKey"))?;
    // A disk that the snapshot does not reach has no map.
    let copy = snapshot.copies.get(&key).ok_or_else(|| Fault::file(disk.file()))?;
    Ok(Asked {
        file: disk.file().to_owned(),
        capacity: disk.capacity,
        path: copy.path.clone(),
        tracking: copy.tracking.clone(),
    })
}

/// What has changed after a change id of this disk.
fn since(shared: &Shared, asked: &Asked, change_id: &str, start: u64) -> Result<Areas, Fault> {
    let malformed = || Fault::invalid_argument("changeId");
    let (uuid, number) = change_id.rsplit_once('/').ok_or_else(malformed)?;
    let number: u64 = number.parse().map_err(|_| malformed())?;
    // Nothing was tracked then, or it is the change id of another disk or another time.
    let missing = || Fault::file(&asked.file);
    let tracking = asked.tracking.as_ref().ok_or_else(missing)?;
    if tracking.uuid != uuid {
        return Err(missing());
    }
    if number == 0 || number > tracking.number {
        return Err(malformed());
    }
    let count = shared.options.page_areas;
    // One more tells whether the page is the last.
    let areas = tracking.areas(number, start, asked.capacity, count + 1);
    Ok(Areas::page(start, asked.capacity, areas, count))
}

fn in_use(shared: &Shared, asked: &Asked, start: u64) -> Result<Areas, Fault> {
    if asked.tracking.is_none() {
        return Err(Fault::file(&asked.file));
    }
    if shared.trouble(|trouble| matches!(trouble, Trouble::AllInUse)).is_some() {
        let changed = vec![(start, asked.capacity - start)];
        return Ok(Areas { start, length: asked.capacity - start, changed });
    }
    let count = shared.options.page_areas;
    let areas = areas_in_use(&asked.path, start, count + 1);
    let areas = areas.map_err(|error| Fault::new("SystemError", error.to_string()))?;
    Ok(Areas::page(start, asked.capacity, areas, count))
}

fn spoiled(call: &Call<'_>, asked: &Asked, mut areas: Areas, page: Page) -> Result<Areas, Fault> {
    match page {
        Page::Stalls => (areas.length, areas.changed) = (0, Vec::new()),
        Page::Repeats => {
            return match call.text("changeId") {
                "*" => in_use(call.shared, asked, 0),
                change_id => since(call.shared, asked, change_id, 0),
            };
        }
        Page::Overlaps => {
            let before = areas.start.saturating_sub(CHANGE_BYTES);
            areas.changed.insert(0, (before, 2 * CHANGE_BYTES));
        }
        Page::Exceeds => {
            areas.changed.push((asked.capacity, CHANGE_BYTES));
            areas.length = asked.capacity - areas.start + CHANGE_BYTES;
        }
        Page::EndsEarly => {
            areas.changed.truncate(1);
            let end = areas.changed.first().map(|(start, length)| start + length);
            areas.length = end.map_or(areas.length, |end| end - areas.start);
        }
        Page::Unordered => areas.changed.reverse(),
    }
    Ok(areas)
}

impl Areas {
    /// The first `count` of these areas; what is behind the last of them is left for the next
    /// page, if there is more.
    fn page(start: u64, capacity: u64, mut changed: Vec<(u64, u64)>, count: usize) -> Self {
        let end = if changed.len() > count {
            changed.truncate(count);
            changed.last().map_or(capacity, |(start, length)| start + length)
        } else {
            capacity
        };
        Self { start, length: end - start, changed }
    }

    fn value(&self) -> Value {
        let extent = |(start, length): &(u64, u64)| {
            let fields = vec![("start", Value::long(*start)), ("length", Value::long(*length))];
            Value::Object("DiskChangeExtent", fields)
        };
        let changed = self.changed.iter().map(extent).collect();
        Value::Object(
            "DiskChangeInfo",
            vec![
                ("startOffset", Value::long(self.start)),
                ("length", Value::long(self.length)),
                ("changedArea", Value::Array("DiskChangeExtent", changed)),
            ],
        )
    }
}
