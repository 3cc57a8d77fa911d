use super::*;

const NO_NAMES: &[&str] = &[
    "",
    ".",
    "..",
    "../etc",
    "a/b",
    "/etc/passwd",
    "a\\b",
    "-rf",
    ".hidden",
    " a",
    "a ",
    "a\nb",
    "a\0b",
    "\u{7f}",
];

#[test]
fn no_name_of_a_vm_or_disk_can_be_a_way_out_of_a_folder() {
    for name in NO_NAMES {
        assert!(name.parse::<VmName>().is_err(), "{name:?}");
        assert!(name.parse::<DiskName>().is_err(), "{name:?}");
    }
}

#[test]
fn names_that_people_give_are_taken_as_they_are() {
    for name in ["db1", "SQL Server (prod)", "données", "a..b", "disk.0", "x%2fy", "名前"] {
        assert_eq!(name.parse::<VmName>().unwrap().as_str(), name);
        assert_eq!(name.parse::<DiskName>().unwrap().as_str(), name);
    }
}

#[test]
fn a_name_is_no_longer_than_a_file_can_be_called() {
    assert!("d".repeat(200).parse::<DiskName>().is_ok());
    let error = "d".repeat(201).parse::<DiskName>().unwrap_err().to_string();
    assert!(error.contains("200 bytes") && error.len() < 400, "{error}");
}

#[test]
fn a_path_in_the_repository_cannot_lead_out_of_it() {
    for path in NO_NAMES.iter().chain(&["a//b", "a/", "a/../b", "A/b", "a/.b", "disks/1/-x"]) {
        if *path != "a/b" {
            assert!(path.parse::<RelativePath>().is_err(), "{path:?}");
        }
    }
}

#[test]
fn paths_of_layers_are_made_of_ids_and_are_read_back() {
    let (point, layer) = (PointId::new(), LayerId::new());
    for path in [RelativePath::of_layer(point, layer), RelativePath::of_manifest(point, layer)] {
        assert_eq!(path.as_str().parse::<RelativePath>().unwrap(), path);
        let folder = RelativePath::of_point(point).under(Path::new("/repository"));
        assert!(path.under(Path::new("/repository")).starts_with(folder));
        assert!(path.as_str().contains(layer.as_str()));
    }
}

#[test]
fn ids_sort_in_the_order_in_which_they_were_made() {
    let ids: Vec<LayerId> = (0..10_000).map(|_| LayerId::new()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b));
    assert!(ids.is_sorted_by(|a, b| a.as_str() < b.as_str()));
}

#[test]
fn an_id_is_read_back_and_nothing_else_is() {
    let id = PointId::new();
    assert_eq!(id.to_string().parse::<PointId>().unwrap(), id);
    for text in [
        "",
        "../../etc/passwd/x",
        "01jd3k5m7n9p1r3t5",
        "01jd3k5m7n9p1r3t5vv",
        "01JD3K5M7N9P1R3T5V",
        "01jd3k5m7n9p1r3t5u",
    ] {
        assert!(text.parse::<PointId>().is_err(), "{text:?}");
    }
}

#[test]
fn a_claim_on_a_port_is_a_number_as_it_is_written() {
    assert_eq!(Claim::new(ClaimKind::Port, "10100").unwrap(), Claim::port(10_100));
    for key in ["", "010100", "+1", "65536", "-1", "x"] {
        assert!(Claim::new(ClaimKind::Port, key).is_err(), "{key:?}");
    }
}
