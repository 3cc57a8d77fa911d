use std::time::{Duration, Instant};

use super::super::xml::XmlReader;
use super::*;

fn tree(inside: &str) -> Element {
    let text = format!(
        r#"<val xmlns="urn:vim25" xmlns:i="http://www.w3.org/2001/XMLSchema-instance">{inside}</val>"#
    );
    let end = Instant::now() + Duration::from_secs(60);
    let mut reader = XmlReader::new(text.as_bytes(), end);
    let root = reader.next_start().unwrap().unwrap();
    Element::read(root, &mut reader).unwrap()
}

fn device(key: i32, backing: &str, size: &str) -> String {
    format!(
        r#"<VirtualDevice i:type="VirtualDisk"><key>{key}</key><backing {backing}</backing>
        <controllerKey>1000</controllerKey>{size}</VirtualDevice>"#
    )
}

const SIZE: &str =
    "<capacityInKB>2097152</capacityInKB><capacityInBytes>2147483648</capacityInBytes>";

fn one(backing: &str) -> VmDisk {
    disks(&tree(&device(2000, backing, SIZE))).unwrap().remove(0)
}

#[test]
fn a_disk_is_read_as_vsphere_writes_it() {
    let disk =
        one(r#"i:type="VirtualDiskFlatVer2BackingInfo"><fileName>[ds] vm/vm-000002.vmdk</fileName>
        <diskMode>persistent</diskMode><uuid>6000C29f-1</uuid><changeId>52 2d 7b/2</changeId>
        <parent><fileName>[ds] vm/vm.vmdk</fileName><changeId>52 2d 7b/1</changeId></parent>
        <sharing>sharingNone</sharing>"#);
    assert_eq!(disk.file, "[ds] vm/vm-000002.vmdk");
    assert_eq!(disk.change.unwrap().as_str(), "52 2d 7b/2");
    assert_eq!(disk.capacity_bytes, 2_147_483_648);
    assert_eq!(disk.label, "disk 2000");
    assert!(!disk.is_shared);
}

#[test]
fn each_kind_of_backing_carries_its_change_id() {
    for (kind, backing) in [
        ("VirtualDiskFlatVer2BackingInfo", Backing::FlatVer2),
        ("VirtualDiskSparseVer2BackingInfo", Backing::SparseVer2),
        (
            "VirtualDiskRawDiskMappingVer1BackingInfo",
            Backing::RawDiskMappingVer1 { physical: true },
        ),
        ("VirtualDiskRawDiskVer2BackingInfo", Backing::RawDiskVer2),
        ("VirtualDiskNewBackingInfo", Backing::Other("VirtualDiskNewBackingInfo".into())),
    ] {
        let disk = one(&format!(
            r#"i:type="{kind}"><descriptorFileName>[ds] d</descriptorFileName><changeId>52/1</changeId>"#
        ));
        assert_eq!(disk.backing, backing);
        assert_eq!((disk.change.unwrap().as_str(), disk.file.as_str()), ("52/1", "[ds] d"));
    }
}

#[test]
fn a_size_that_is_said_in_kib_alone_is_taken() {
    let in_kib = device(1, r#"i:type="X">"#, "<capacityInKB>1536</capacityInKB>");
    assert_eq!(disks(&tree(&in_kib)).unwrap()[0].capacity_bytes, 1536 * 1024);
}

#[test]
fn disks_that_cannot_be_are_refused() {
    let twice = device(2000, r#"i:type="X">"#, SIZE).repeat(2);
    let sizes = [
        "",
        "<capacityInBytes>-1</capacityInBytes>",
        "<capacityInKB>18446744073709551615</capacityInKB>",
    ];
    assert!(disks(&tree(&twice)).is_err());
    for size in sizes {
        assert!(disks(&tree(&device(2000, r#"i:type="X">"#, size))).is_err(), "{size}");
    }
}

#[test]
fn other_devices_are_no_disks() {
    let cdrom = r#"<VirtualDevice i:type="VirtualCdrom"><key>3000</key></VirtualDevice>"#;
    assert_eq!(disks(&tree(cdrom)).unwrap(), []);
}

#[test]
fn a_tree_of_snapshots_is_told_from_below() {
    let node = |id: &str, above: &str| {
        format!(
            r#"<childSnapshotList><snapshot type="VirtualMachineSnapshot">{id}</snapshot>
            <name>{id} &amp; co </name>{above}</childSnapshotList>"#
        )
    };
    let above = format!("{}{}", node("s2", &node("s3", "")), node("s4", ""));
    let root = node("s1", &above).replacen("childSnapshotList", "rootSnapshotList", 1);
    let root =
        root.strip_suffix("</childSnapshotList>").unwrap().to_owned() + "</rootSnapshotList>";
    let found = snapshots(&tree(&root)).unwrap();
    let ids: Vec<(&str, usize)> = found.iter().map(|it| (it.id.as_str(), it.depth)).collect();
    assert_eq!(ids, [("s1", 0), ("s2", 1), ("s3", 2), ("s4", 1)]);
    assert_eq!(found[0].name, "s1 & co ");
}

fn tree_of(nodes: &[(&str, &str, bool, Option<&str>)]) -> Tree {
    let mut tree = Tree::on(&Moref::new("Folder", "group-d1"));
    for &(id, name, is_datacenter, above) in nodes {
        let node = Node { name: name.into(), is_datacenter, above: above.map(str::to_owned) };
        tree.nodes.insert(id.to_owned(), node);
    }
    tree
}

#[test]
fn paths_leave_out_what_nobody_named() {
    let tree = tree_of(&[
        ("group-d1", "Datacenters", false, None),
        ("f1", "Europe", false, Some("group-d1")),
        ("dc", "Berlin", true, Some("f1")),
        ("group-v", "vm", false, Some("dc")),
        ("f2", "prod", false, Some("group-v")),
        ("app", "shop", false, Some("f2")),
    ]);
    assert_eq!(tree.path("web", Some("f2")), "Europe/Berlin/prod/web");
    assert_eq!(tree.path("web", Some("group-v")), "Europe/Berlin/web");
    assert_eq!(tree.path("web", Some("app")), "Europe/Berlin/prod/shop/web");
    assert_eq!(tree.path("web", None), "web");
}

#[test]
fn a_tree_that_goes_in_a_circle_has_an_end() {
    let tree = tree_of(&[("a", "a", false, Some("b")), ("b", "b", false, Some("a"))]);
    assert!(tree.path("web", Some("a")).ends_with("/web"));
}
