//! VMs are switched on and off, and go.

use std::fs;
use std::sync::Arc;

use super::call::Call;
use super::fault::Fault;
use super::shared::{Shared, lock};
use super::snapshots::stun;
use super::task;
use super::value::{Kind, Reference, Value};

pub(crate) fn on(call: &Call<'_>) -> Result<Value, Fault> {
    switch(call, "PowerOnVM_Task", true)
}

pub(crate) fn off(call: &Call<'_>) -> Result<Value, Fault> {
    switch(call, "PowerOffVM_Task", false)
}

fn switch(call: &Call<'_>, method: &'static str, on: bool) -> Result<Value, Fault> {
    let id = call.this.id.clone();
    task::start(call.shared, method, &call.this.id, move |shared| {
        shared.change(|world| {
            let host = world.machine(&id)?.host.clone();
            if on && world.hosts.get(&host).is_some_and(|host| host.maintenance) {
                let message = "The operation is not allowed in the current state of the host.";
                return Err(Fault::new("InvalidState", message));
            }
            let machine = world.machine_mut(&id)?;
            if machine.powered_on == on {
                let state = if on { "poweredOn" } else { "poweredOff" };
                return Err(Fault::invalid_power_state(state, state));
            }
            machine.powered_on = on;
            Ok(())
        })?;
        if on {
            stun(shared, &id)?;
        }
        Ok(Value::Unset)
    })
}

pub(crate) fn destroy(call: &Call<'_>) -> Result<Value, Fault> {
    if call.this.kind != Kind::VirtualMachine {
        return Err(Fault::new("NotSupported", "The operation is not supported on the object."));
    }
    if call.shared.world().machine(&call.this.id)?.powered_on {
        return Err(Fault::invalid_power_state("poweredOff", "poweredOn"));
    }
    let id = call.this.id.clone();
    task::start(call.shared, "Destroy_Task", &call.this.id, move |shared| remove(shared, &id))
}

fn remove(shared: &Arc<Shared>, id: &str) -> Result<Value, Fault> {
    let machine = shared.change(|world| {
        let missing = || Fault::not_found(&Reference::new(Kind::VirtualMachine, id));
        let machine = world.machines.remove(id).ok_or_else(missing)?;
        world.snapshots.retain(|_, owner| owner != id);
        if let Some(folder) = world.folders.get_mut(&machine.folder) {
            folder.children.retain(|child| child.id != id);
        }
        Ok(machine)
    })?;
    let copies = machine.snapshots.iter().flat_map(|snapshot| snapshot.copies.values());
    let mut files: Vec<_> = copies.map(|copy| copy.path.clone()).collect();
    let content = std::mem::take(&mut lock(&machine.content).disks);
    files.extend(content.into_values().map(|disk| disk.path));
    for file in files {
        fs::remove_file(file).map_err(|error| Fault::new("SystemError", error.to_string()))?;
    }
    Ok(Value::Unset)
}
