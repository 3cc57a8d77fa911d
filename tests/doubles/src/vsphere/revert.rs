//! A VM goes back to a snapshot.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;

use super::call::Call;
use super::content::{Content, DiskContent, Tracking};
use super::fault::Fault;
use super::shared::{Shared, lock};
use super::snapshots::delta_name;
use super::task;
use super::value::Value;
use super::world::Snapshot;

/// What change ids are after a snapshot was reverted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revert {
    /// Of a new line, as after a reset.
    #[default]
    NewLine,
    /// Of the same line, and the counter is that of the snapshot once more.
    CounterFalls,
}

pub(crate) fn to_snapshot(call: &Call<'_>) -> Result<Value, Fault> {
    let snapshot = call.this.id.clone();
    let machine = call.shared.world().snapshot(&snapshot)?.0.to_owned();
    let of = machine.clone();
    task::start(call.shared, "RevertToSnapshot_Task", &machine, move |shared| {
        go_back(shared, &of, &snapshot)
    })
}

pub(crate) fn to_current(call: &Call<'_>) -> Result<Value, Fault> {
    let machine = call.this.id.clone();
    let current = call.shared.world().machine(&machine)?.current.clone();
    let none = || Fault::new("NotFound", "The object or item referred to could not be found.");
    let snapshot = current.ok_or_else(none)?;
    task::start(call.shared, "RevertToCurrentSnapshot_Task", &call.this.id, move |shared| {
        go_back(shared, &machine, &snapshot)
    })
}

pub(crate) fn go_back(shared: &Arc<Shared>, machine: &str, snapshot: &str) -> Result<Value, Fault> {
    let (then, content, kept, uuids) = {
        let mut world = shared.world();
        let (_, it, then) = world.snapshot(snapshot)?;
        let (then, content) = (then.clone(), Arc::clone(&it.content));
        // What snapshots do not reach stays as it is.
        let kept = it.disks.values().filter(|disk| !disk.is_in_snapshots());
        let kept: Vec<i32> = kept.map(|disk| disk.key).collect();
        let uuids: Vec<String> = then.copies.keys().map(|_| world.draw.change_uuid()).collect();
        (then, content, kept, uuids)
    };
    let mut content = lock(&content);
    let restored = restore(&mut content, &then, &kept, shared.options.revert, &uuids);
    restored.map_err(|error| Fault::new("SystemError", error.to_string()))?;
    let ids: BTreeMap<i32, Option<String>> = content
        .disks
        .iter()
        .map(|(key, disk)| (*key, disk.tracking.as_ref().map(Tracking::next_change_id)))
        .collect();
    drop(content);
    shared.change(|world| {
        let machine = world.machine_mut(machine)?;
        machine.deltas += 1;
        machine.disks.retain(|key, _| kept.contains(key));
        for (key, disk) in &then.disks {
            if then.copies.contains_key(key) {
                let mut disk = disk.clone();
                disk.chain.push(delta_name(&disk.chain[0], machine.deltas));
                disk.change_id = ids.get(key).cloned().flatten();
                machine.disks.insert(*key, disk);
            }
        }
        machine.current = Some(then.id.clone());
        // Without its memory it cannot go on where it was.
        machine.powered_on = false;
        machine.version += 1;
        Ok(Value::Unset)
    })
}

fn restore(
    content: &mut Content,
    then: &Snapshot,
    kept: &[i32],
    revert: Revert,
    uuids: &[String],
) -> io::Result<()> {
    let since: Vec<i32> = content.disks.keys().copied().collect();
    for key in since {
        if !then.copies.contains_key(&key) && !kept.contains(&key) {
            let disk = content.disks.remove(&key).expect("it was listed");
            fs::remove_file(disk.path)?;
        }
    }
    for ((key, copy), uuid) in then.copies.iter().zip(uuids) {
        let ordered = &then.disks[key];
        if !content.disks.contains_key(key) {
            let disk = DiskContent::create(ordered.path.clone(), ordered.capacity)?;
            content.disks.insert(*key, disk);
        }
        let disk = content.disks.get_mut(key).expect("it is there now");
        disk.copy_from(&copy.path, ordered.capacity)?;
        disk.tracking = match (revert, &copy.tracking) {
            (_, None) => None,
            (Revert::NewLine, Some(_)) => Some(Tracking::new(uuid.clone())),
            (Revert::CounterFalls, Some(tracking)) => Some(tracking.as_ref().clone()),
        };
    }
    Ok(())
}
