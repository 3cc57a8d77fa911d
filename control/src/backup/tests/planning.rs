use super::*;

const MIB: u64 = 1 << 20;

fn kinds(report: &BackupReport) -> Vec<(LayerKind, &str)> {
    report.disks.iter().map(|disk| (disk.plan.kind, disk.plan.reason.as_str())).collect()
}

#[test]
fn a_first_backup_is_full_and_has_no_parent() {
    let place = Place::new();
    let disk = place.disk("root", 4 * MIB);
    write(&disk, MIB, &[7; 1000]);
    let report = place.back_up(&request(&[("root", &disk)])).unwrap();
    assert_eq!(kinds(&report), [(LayerKind::Full, "it is the first backup of this disk here")]);
    assert_eq!(report.disks[0].plan.parent, None);
    assert_eq!(place.content(report.point.id, "root", 4 * MIB), fs::read(&disk).unwrap());
    place.assert_tidy();
}

#[test]
fn a_full_that_is_asked_for_stands_on_nothing_though_a_point_is_there() {
    let place = Place::new();
    let disk = place.disk("root", MIB);
    let mut request = request(&[("root", &disk)]);
    place.back_up(&request).unwrap();
    request.mode = BackupMode::Full;
    let report = place.back_up(&request).unwrap();
    assert_eq!(kinds(&report), [(LayerKind::Full, "a full was asked for")]);
    let held = place.repository.hold(report.point.id).unwrap();
    assert_eq!(held.layers[0].chain.len(), 1);
}

#[test]
fn a_delta_has_what_was_named_and_the_rest_is_that_of_its_parent() {
    let place = Place::new();
    let disk = place.disk("root", 8 * MIB);
    write(&disk, 0, &[1; 8 << 20]);
    let mut request = request(&[("root", &disk)]);
    let full = place.back_up(&request).unwrap();
    let before = fs::read(&disk).unwrap();
    write(&disk, 3 * MIB, &[2; 70_000]);
    request.disks[0].changes = areas(&[(3 * MIB, 70_000)]);
    let delta = place.back_up(&request).unwrap();
    assert_eq!(
        kinds(&delta),
        [(LayerKind::Delta, "its changes were given: 70000 bytes in 1 area")]
    );
    let parent = delta.disks[0].plan.parent.as_ref().unwrap();
    assert_eq!(parent.point, full.point.id);
    assert!(delta.disks[0].counts.read <= 128 << 10, "{:?}", delta.disks[0].counts);
    assert_eq!(place.content(delta.point.id, "root", 8 * MIB), fs::read(&disk).unwrap());
    assert_eq!(place.content(full.point.id, "root", 8 * MIB), before);
    place.assert_tidy();
}

#[test]
fn deltas_stand_on_the_newest_point_and_not_on_the_full() {
    let place = Place::new();
    let disk = place.disk("root", MIB);
    let mut request = request(&[("root", &disk)]);
    let mut newest = place.back_up(&request).unwrap().point.id;
    for round in 1..=3_u64 {
        write(&disk, round * 65_536, &[1; 65_536]);
        request.disks[0].changes = areas(&[(round * 65_536, 65_536)]);
        let report = place.back_up(&request).unwrap();
        assert_eq!(report.disks[0].plan.parent.as_ref().unwrap().point, newest);
        newest = report.point.id;
        assert_eq!(place.content(newest, "root", MIB), fs::read(&disk).unwrap());
    }
}

#[test]
fn an_incremental_that_is_impossible_is_an_error_and_never_a_full() {
    let place = Place::new();
    let disk = place.disk("root", MIB);
    let mut request = request(&[("root", &disk)]);
    request.mode = BackupMode::Incremental;
    let error = place.back_up(&request).unwrap_err();
    assert_eq!(
        error.to_string(),
        "disk root: no incremental backup is possible: it is the first backup of this disk here; \
         leave the mode to auto, or take full"
    );
    assert_eq!(place.repository.catalog().points(&PointFilter::default()).unwrap(), []);
    place.assert_tidy();
}

#[test]
fn a_disk_of_another_size_is_copied_in_full_and_the_reason_is_told() {
    let place = Place::new();
    let disk = place.disk("root", MIB);
    let mut request = request(&[("root", &disk)]);
    let first = place.back_up(&request).unwrap().point.id;
    File::options().write(true).open(&disk).unwrap().set_len(2 * MIB).unwrap();
    request.disks[0].changes = areas(&[(0, 512)]);
    let report = place.back_up(&request).unwrap();
    let reason = format!("the disk has 2097152 bytes, and had 1048576 in point {first}");
    assert_eq!(kinds(&report), [(LayerKind::Full, reason.as_str())]);
}

#[test]
fn a_parent_that_is_missing_or_corrupt_is_not_stood_on() {
    for damage in ["gone", "corrupt"] {
        let place = Place::new();
        let disk = place.disk("root", MIB);
        let mut request = request(&[("root", &disk)]);
        let first = place.back_up(&request).unwrap().point.id;
        let image = place.repository.hold(first).unwrap().layers[0].image.clone();
        match damage {
            "gone" => fs::remove_file(&image).unwrap(),
            _ => write(&image, 0, b"not qcow2"),
        }
        request.disks[0].changes = areas(&[(0, 512)]);
        let report = place.back_up(&request).unwrap();
        assert_eq!(report.disks[0].plan.kind, LayerKind::Full, "{damage}");
        assert!(report.disks[0].plan.reason.contains(first.as_str()), "{:?}", kinds(&report));
        request.mode = BackupMode::Incremental;
        // It stands on the new full.
        let report = place.back_up(&request).unwrap();
        assert_eq!(report.disks[0].plan.kind, LayerKind::Delta, "{damage}");
    }
}

#[test]
fn a_disk_without_the_bitmap_that_was_named_is_compared_and_the_reason_says_so() {
    let place = Place::new();
    let disk = place.disk("root", MIB);
    let mut request = request(&[("root", &disk)]);
    let first = place.back_up(&request).unwrap().point.id;
    write(&disk, 65_536, &[3; 65_536]);
    request.disks[0].changes = Changes::Bitmap("daily".into());
    request.mode = BackupMode::Incremental;
    let report = place.back_up(&request).unwrap();
    let reason = format!(
        "the source has no dirty bitmap daily, so all of it is compared with the digests of point \
         {first}"
    );
    assert_eq!(kinds(&report), [(LayerKind::Delta, reason.as_str())]);
    assert_eq!(report.disks[0].counts.sent, 65_536);
    assert!(place.content(report.point.id, "root", MIB) == fs::read(&disk).unwrap());
}

#[test]
fn a_disk_without_the_bitmap_and_without_digests_is_copied_in_full_for_both_reasons() {
    let place = Place::new();
    let disk = place.disk("root", MIB);
    let mut request = request(&[("root", &disk)]);
    let first = place.back_up(&request).unwrap().point.id;
    fs::remove_file(place.manifest(first)).unwrap();
    request.disks[0].changes = Changes::Bitmap("daily".into());
    let report = place.back_up(&request).unwrap();
    let plan = &report.disks[0].plan;
    let reasons = format!(
        "the source has no dirty bitmap daily, and point {first} cannot be compared with: the digests"
    );
    assert!(plan.reason.starts_with(&reasons), "{}", plan.reason);
    assert_eq!(plan.kind, LayerKind::Full);
}

#[test]
fn a_source_of_no_bytes_is_the_sources_fault_and_makes_nothing() {
    let place = Place::new();
    let (root, data) = (place.disk("root", MIB), place.disk("data", 0));
    let error = place.back_up(&request(&[("root", &root), ("data", &data)])).unwrap_err();
    assert!(error.to_string().starts_with("disk data: its source has a size of 0 bytes"));
    assert_eq!(error.failure(), crate::catalog::FailureKind::Source);
    assert_eq!(place.repository.catalog().points(&PointFilter::default()).unwrap(), []);
    place.assert_tidy();
}

#[test]
fn two_vms_with_disks_of_one_name_have_chains_of_their_own() {
    let place = Place::new();
    let (one, two) = (place.disk("one", MIB), place.disk("two", 2 * MIB));
    write(&one, 0, &[1; 512]);
    write(&two, 0, &[2; 512]);
    let mut first = request(&[("root", &one)]);
    let mut second = request(&[("root", &two)]);
    second.vm = "db2".parse().unwrap();
    for _ in 0..2 {
        for (request, disk) in [(&first, &one), (&second, &two)] {
            let report = place.back_up(request).unwrap();
            let size = fs::metadata(disk).unwrap().len();
            assert_eq!(place.content(report.point.id, "root", size), fs::read(disk).unwrap());
        }
        write(&one, 512, &[3; 512]);
        write(&two, 512, &[4; 512]);
        first.disks[0].changes = areas(&[(512, 512)]);
        second.disks[0].changes = areas(&[(512, 512)]);
    }
}

#[test]
fn no_disk_and_two_of_one_name_are_refused_before_anything_is_made() {
    let place = Place::new();
    let disk = place.disk("root", MIB);
    let error = place.back_up(&request(&[])).unwrap_err();
    assert_eq!(error.to_string(), "VM \"db1\" has no disk to back up; name one at least");
    let error = place.back_up(&request(&[("root", &disk), ("root", &disk)])).unwrap_err();
    assert!(error.to_string().starts_with("two disks of VM \"db1\" are called \"root\""));
    assert_eq!(place.repository.catalog().jobs(&Default::default()).unwrap(), []);
}

#[test]
fn what_did_not_change_is_not_sent_though_nobody_told_what_changed() {
    let place = Place::new();
    let disk = place.disk("root", 8 * MIB + 1000);
    let noise: Vec<u8> =
        (0..(8_u32 << 20) + 1000).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    write(&disk, 0, &noise);
    let request = request(&[("root", &disk)]);
    let first = place.back_up(&request).unwrap().point.id;
    let same = place.back_up(&request).unwrap();
    let reason = format!("all of it is compared with the digests of point {first}");
    assert_eq!(kinds(&same), [(LayerKind::Delta, reason.as_str())]);
    let counts = same.disks[0].counts;
    assert_eq!((counts.sent, counts.skipped), (0, 8 * MIB + 1000), "{counts:?}");
    write(&disk, 5 * MIB, b"x");
    let other = place.back_up(&request).unwrap();
    assert_eq!(other.disks[0].counts.sent, 65_536);
    assert!(other.disks[0].stored_bytes < MIB, "{}", other.disks[0].stored_bytes);
    let content = place.content(other.point.id, "root", 8 * MIB + 1000);
    assert!(content == fs::read(&disk).unwrap());
    place.assert_tidy();
}

#[test]
fn digests_that_cannot_be_read_make_a_full_and_no_guess() {
    let place = Place::new();
    let disk = place.disk("root", MIB);
    let request = request(&[("root", &disk)]);
    let first = place.back_up(&request).unwrap().point.id;
    let manifest = place.manifest(first);
    write(&manifest, 0, b"spoilt");
    let report = place.back_up(&request).unwrap();
    assert_eq!(report.disks[0].plan.kind, LayerKind::Full);
    let reason = &report.disks[0].plan.reason;
    assert!(reason.starts_with(&format!("point {first} cannot be compared with: ")), "{reason}");
}

#[test]
fn a_manifest_that_another_one_was_copied_over_is_not_compared_with() {
    let place = Place::new();
    let disk = place.disk("root", MIB);
    let mut request = request(&[("root", &disk)]);
    let first = place.back_up(&request).unwrap().point.id;
    write(&disk, 0, &[1; 65_536]);
    let second = place.back_up(&request).unwrap().point.id;
    // It is whole, of the same disk, and says that nothing has changed since the second point.
    fs::copy(place.manifest(second), place.manifest(first)).unwrap();
    request.mode = BackupMode::Incremental;
    let error = place.back_up(&request).unwrap_err().to_string();
    let file = place.manifest(first);
    let file = file.strip_prefix(place.repository.root()).unwrap().display().to_string();
    assert!(error.contains(&format!("{file} is not what was published")), "{error}");
    assert!(error.contains(&format!("that stand on it: {first}, {second} ")), "{error}");
    request.mode = BackupMode::Auto;
    let report = place.back_up(&request).unwrap();
    assert_eq!(report.disks[0].plan.kind, LayerKind::Full);
    assert!(place.content(report.point.id, "root", MIB) == fs::read(&disk).unwrap());
}

#[test]
fn layers_of_which_nobody_noted_the_manifest_are_compared_with_all_the_same() {
    let place = Place::new();
    let disk = place.disk("root", MIB);
    let request = request(&[("root", &disk)]);
    place.back_up(&request).unwrap();
    let catalog = rusqlite::Connection::open(place.repository.catalog().path()).unwrap();
    assert_eq!(catalog.execute("UPDATE layers SET manifest_id = NULL", []).unwrap(), 1);
    let report = place.back_up(&request).unwrap();
    assert_eq!(report.disks[0].plan.kind, LayerKind::Delta);
}

#[test]
fn a_damaged_layer_below_is_not_stood_on_and_named() {
    for damaged in [0, 1] {
        let place = Place::new();
        let disk = place.disk("root", 4 * MIB);
        write(&disk, 0, &[1; 4 << 20]);
        let mut request = request(&[("root", &disk)]);
        let mut points = Vec::new();
        for round in 0..3_u8 {
            write(&disk, u64::from(round) * 65_536, &[round; 65_536]);
            points.push(place.back_up(&request).unwrap().point.id);
        }
        let image = place.repository.hold(points[damaged]).unwrap().layers[0].image.clone();
        let file = File::options().write(true).open(&image).unwrap();
        if damaged == 0 {
            file.set_len(300_000).unwrap()
        } else {
            write(&image, 0, &[0; 104])
        }
        request.mode = BackupMode::Incremental;
        let error = place.back_up(&request).unwrap_err().to_string();
        assert!(error.contains("is possible: point") && error.contains("qcow2"), "{error}");
        assert!(error.contains(points[damaged].as_str()), "{error}");
        request.mode = BackupMode::Auto;
        let full = place.back_up(&request).unwrap();
        assert_eq!(full.disks[0].plan.kind, LayerKind::Full);
        assert!(place.content(full.point.id, "root", 4 * MIB) == fs::read(&disk).unwrap());
    }
}

#[test]
fn the_image_of_a_larger_disk_in_the_place_of_a_smaller_one_is_not_stood_on() {
    for lengths_are_known in [true, false] {
        let place = Place::new();
        let (root, data) = (place.disk("root", 3 * MIB), place.disk("data", MIB));
        let request = request(&[("root", &root), ("data", &data)]);
        let first = place.back_up(&request).unwrap().point.id;
        if !lengths_are_known {
            let catalog = rusqlite::Connection::open(place.repository.catalog().path()).unwrap();
            assert_eq!(catalog.execute("UPDATE layers SET file_bytes = NULL", []).unwrap(), 2);
        }
        let held = place.repository.hold(first).unwrap();
        let image = |disk: &str| {
            let held = held.layers.iter().find(|held| held.layer().disk_name.as_str() == disk);
            held.unwrap().image.clone()
        };
        fs::copy(image("root"), image("data")).unwrap();
        let report = place.back_up(&request).unwrap();
        let found: Vec<_> = report.disks.iter().map(|disk| &disk.plan).collect();
        let [root, data] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((root.kind, data.kind), (LayerKind::Delta, LayerKind::Full), "{data:?}");
        assert!(data.reason.contains(&format!("of point {first} ")), "{}", data.reason);
        if !lengths_are_known {
            let says = "is the image of 3145728 bytes, and its disk has 1048576";
            assert!(data.reason.contains(says), "{}", data.reason);
        }
    }
}

/// A program that notes in a file what it is asked for, and then is qemu-img.
fn noting_tool(place: &Place) -> (PathBuf, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let (program, notes) = (place.folder.path().join("tool"), place.folder.path().join("notes"));
    let script = format!("#!/bin/sh\necho \"$*\" >> {}\nexec qemu-img \"$@\"\n", notes.display());
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    (program, notes)
}

#[test]
fn the_layers_of_a_long_chain_are_not_all_checked_each_time() {
    let place = Place::new();
    let disk = place.disk("root", MIB);
    let mut request = request(&[("root", &disk)]);
    request.disks[0].changes = areas(&[(0, 512)]);
    let (program, notes) = noting_tool(&place);
    let mut settings = BackupSettings::for_disks(1);
    settings.image_tool.program = program.into();
    let asked = || {
        fs::write(&notes, "").unwrap();
        let watch: Arc<dyn Watch> = Arc::new(Noted::default());
        let calling_off = Cancellation::default();
        let made = back_up(&place.repository, &request, &settings, &watch, &calling_off).unwrap();
        let notes = fs::read_to_string(&notes).unwrap();
        let count = |action: &str| notes.lines().filter(|line| line.starts_with(action)).count();
        (made.disks[0].plan.kind, count("info"), count("check"))
    };
    assert_eq!(asked(), (LayerKind::Full, 0, 1));
    let oldest = place.repository.catalog().points(&PointFilter::default()).unwrap()[0].id;
    let oldest = place.repository.hold(oldest).unwrap().layers[0].image.clone();
    for _ in 0..6 {
        asked();
    }
    // The headers of all, the tables of the newest two, and those of the new one.
    assert_eq!(asked(), (LayerKind::Delta, 1, 3));
    // One that somebody has written is looked at again, and then known again.
    let first = [fs::read(&oldest).unwrap()[0]];
    write(&oldest, 0, &first);
    assert_eq!(asked(), (LayerKind::Delta, 1, 4));
    assert_eq!(asked(), (LayerKind::Delta, 1, 3));
    // And not stood on where it was damaged.
    let length = fs::metadata(&oldest).unwrap().len();
    write(&oldest, 65_536, &vec![0xff; usize::try_from(length - 65_536).unwrap()]);
    assert_eq!(asked().0, LayerKind::Full);
}
