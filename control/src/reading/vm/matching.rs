//! Which disk of a VM is which disk of a point: by UUID, or by device where one of them has none.

use super::KeptDisk;
use crate::catalog::DiskUuid;
use crate::reading::error::ReadError;
use crate::snapshots::{Backing, DeviceKey, Vm, VmDisk};

/// The disk of the VM for each disk of the point.
///
/// # Errors
/// [`ReadError::NoMatch`] with the first that has none, or none for itself.
pub(super) fn matched<'a>(disks: &[KeptDisk], vm: &'a Vm) -> Result<Vec<&'a VmDisk>, ReadError> {
    let mut found: Vec<&VmDisk> = Vec::with_capacity(disks.len());
    for disk in disks {
        let refused = |why: String| ReadError::NoMatch {
            disk: disk.name.clone(),
            vm: vm.path.clone(),
            why,
            has: listed(vm),
        };
        let one = one(disk, vm).and_then(|one| fitting(disk, one)).map_err(refused)?;
        if let Some(other) = found.iter().position(|it| it.key == one.key) {
            let why = format!("{} is that of disk {} already", one.label, disks[other].name);
            return Err(refused(why));
        }
        found.push(one);
    }
    Ok(found)
}

fn one<'a>(disk: &KeptDisk, vm: &'a Vm) -> Result<&'a VmDisk, String> {
    let same = |it: &&VmDisk| match (&disk.uuid, &it.uuid) {
        (Some(one), Some(other)) => is_same(one, other),
        _ => false,
    };
    let by_uuid: Vec<&VmDisk> = vm.disks.iter().filter(same).collect();
    match (by_uuid.as_slice(), &disk.uuid) {
        ([one], _) => return Ok(one),
        ([_, ..], Some(uuid)) => return Err(format!("several have its UUID {uuid}")),
        _ => {}
    }
    let key = key_of(disk);
    let by_key = vm.disks.iter().find(|it| Some(it.key) == key);
    match (by_key, &disk.uuid) {
        (Some(it), None) => Ok(it),
        (Some(it), Some(_)) if it.uuid.is_none() => Ok(it),
        (_, Some(uuid)) => Err(format!("none has its UUID {uuid}")),
        (None, None) => Err("it has no UUID, and no device is called so".into()),
    }
}

/// Whether what is there can take the disk.
fn fitting<'a>(disk: &KeptDisk, it: &'a VmDisk) -> Result<&'a VmDisk, String> {
    let (has, wants) = (it.capacity_bytes, disk.size_bytes);
    if has != wants {
        return Err(format!(
            "{} has {has} bytes, and it has {wants}; give it that size, or restore to a new VM",
            it.label
        ));
    }
    if it.is_shared || it.backing == (Backing::RawDiskMappingVer1 { physical: true }) {
        return Err(format!("{} is one that others can write too", it.label));
    }
    Ok(it)
}

/// The device that a disk of a backup is called after.
pub(super) fn key_of(disk: &KeptDisk) -> Option<DeviceKey> {
    disk.name.as_str().strip_prefix("disk-")?.parse().ok().map(DeviceKey)
}

/// The case of UUIDs differs between the places they are read from.
fn is_same(one: &DiskUuid, other: &DiskUuid) -> bool {
    one.as_str().eq_ignore_ascii_case(other.as_str())
}

fn listed(vm: &Vm) -> String {
    let disks = vm.disks.iter().map(|disk| {
        let uuid = disk.uuid.as_ref().map_or("no UUID", DiskUuid::as_str);
        format!("{} (disk-{}, {} bytes, {uuid})", disk.label, disk.key, disk.capacity_bytes)
    });
    let disks: Vec<String> = disks.collect();
    if disks.is_empty() { "no disk".into() } else { disks.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshots::{Connection, PowerState, VmId};

    fn disk(key: i32, uuid: Option<&str>, size: u64) -> VmDisk {
        VmDisk {
            key: DeviceKey(key),
            label: format!("Hard disk {}", key - 1999),
            file: format!("[ds] web/{key}.vmdk"),
            uuid: uuid.map(|uuid| uuid.parse().unwrap()),
            mode: "persistent".into(),
            is_shared: false,
            backing: Backing::FlatVer2,
            capacity_bytes: size,
            change: None,
        }
    }

    fn vm(disks: Vec<VmDisk>) -> Vm {
        Vm {
            id: VmId::new("vm-1"),
            name: "web".into(),
            path: "dc/web".into(),
            uuid: None,
            instance_uuid: None,
            host: None,
            datastores: Vec::new(),
            power: PowerState::Off,
            connection: Connection::Connected,
            denied: None,
            is_template: false,
            hardware_version: None,
            guest: None,
            tracks_changes: false,
            needs_consolidation: false,
            notes: String::new(),
            disks,
            snapshots: Vec::new(),
        }
    }

    fn kept(name: &str, uuid: Option<&str>, size_bytes: u64) -> KeptDisk {
        let uuid = uuid.map(|uuid| uuid.parse().unwrap());
        KeptDisk { name: name.parse().unwrap(), uuid, size_bytes }
    }

    /// The devices that disks of a point find, or why not.
    fn keys(disks: &[KeptDisk], vm: &Vm) -> Result<Vec<i32>, String> {
        let found = matched(disks, vm).map_err(|error| error.to_string())?;
        Ok(found.iter().map(|disk| disk.key.0).collect())
    }

    #[test]
    fn a_disk_is_found_by_its_uuid_whatever_device_it_is_now() {
        let vm = vm(vec![disk(2000, Some("aa-1"), 512), disk(2001, Some("AA-2"), 1024)]);
        let disks = [kept("disk-2000", Some("aa-2"), 1024), kept("disk-2001", Some("aa-1"), 512)];
        assert_eq!(keys(&disks, &vm), Ok(vec![2001, 2000]));
    }

    #[test]
    fn a_device_counts_only_where_a_uuid_is_unknown() {
        let vm = vm(vec![disk(2000, Some("aa-1"), 512), disk(2001, None, 512)]);
        assert_eq!(keys(&[kept("disk-2000", None, 512)], &vm), Ok(vec![2000]));
        assert_eq!(keys(&[kept("disk-2001", Some("aa-9"), 512)], &vm), Ok(vec![2001]));
        let error = keys(&[kept("disk-2000", Some("aa-9"), 512)], &vm).unwrap_err();
        assert!(
            error.contains(
                "none has its UUID aa-9; the VM has Hard disk 1 (disk-2000, 512 bytes, aa-1), "
            ),
            "{error}"
        );
        let error = keys(&[kept("root", None, 512)], &vm).unwrap_err();
        assert!(error.contains("no device is called so"), "{error}");
    }

    #[test]
    fn what_fits_not_at_all_or_twice_is_refused() {
        let two = vm(vec![disk(2000, Some("aa-1"), 512), disk(2001, Some("aa-1"), 512)]);
        let error = keys(&[kept("disk-2000", Some("aa-1"), 512)], &two).unwrap_err();
        assert!(error.contains("several have its UUID aa-1"), "{error}");
        let one = vm(vec![disk(2000, None, 512)]);
        let error = keys(&[kept("disk-2000", None, 1024)], &one).unwrap_err();
        assert!(error.contains("Hard disk 1 has 512 bytes, and it has 1024"), "{error}");
        let twice = [kept("disk-2000", None, 512), kept("disk-02000", None, 512)];
        let error = keys(&twice, &one).unwrap_err();
        assert!(error.contains("is that of disk disk-2000 already"), "{error}");
        let mut shared = vm(vec![disk(2000, None, 512)]);
        shared.disks[0].is_shared = true;
        let error = keys(&[kept("disk-2000", None, 512)], &shared).unwrap_err();
        assert!(error.contains("others can write"), "{error}");
        assert!(keys(&[kept("x", None, 1)], &vm(Vec::new())).unwrap_err().contains("no disk"));
    }
}
