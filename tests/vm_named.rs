//! VMs by their names: the one that is meant is found, and two of one name are never mixed.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use blockferry::{VmPlace, code, stderr};
use blockferry_doubles::vsphere::{NewDisk, NewMachine, Vsphere};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// Two VMs called `web` in different folders, with one BIOS UUID, and others.
fn place() -> VmPlace {
    let web = || NewMachine::new("web").disk(MIB).tracked().uuid(COPIED);
    VmPlace::with(
        Vsphere::builder()
            .machine(web().folder("shop"))
            .machine(web().folder("archive/old"))
            .machine(NewMachine::new("database").disk(2 * MIB).disk(MIB).tracked())
            .machine(NewMachine::new("webmail").disk(MIB).hardware(4))
            .machine(NewMachine::new("empty")),
    )
}

const COPIED: &str = "564d1f2e-0000-4000-8000-00000000beef";

#[test]
fn vms_lists_all_with_what_would_stop_or_limit_their_backups() {
    let place = place();
    let (code, told) = place.ask_json("vms");
    assert_eq!(code, 0);
    let vms = told["vms"].as_array().unwrap();
    let paths: Vec<&str> = vms.iter().map(|vm| vm["path"].as_str().unwrap()).collect();
    let all = ["dc/archive/old/web", "dc/database", "dc/empty", "dc/shop/web", "dc/webmail"];
    assert_eq!(paths, all);
    let database = &vms[1];
    assert_eq!(database["id"], place.machine("database").id());
    assert_eq!((&database["cbt"], &database["power"]), (&json!(true), &json!("on")));
    assert_eq!(database["findings"], json!([]));
    let disk = &database["disks"][0];
    assert_eq!((&disk["key"], &disk["size"]), (&json!(2000), &json!(2 * MIB)));
    assert_eq!(disk["uuid"], place.machine("database").disk_uuid(2000).unwrap());
    assert_eq!(disk["file"], "[datastore1] database/database.vmdk");
    assert_eq!(disk["left_out"], Value::Null);
    assert_eq!(vms[2]["findings"][0]["severity"], "stops");
    assert_eq!(vms[4]["findings"][0]["severity"], "warns");

    let output = place.ask("vms");
    assert_eq!(blockferry::code(&output), 0, "{}", stderr(&output));
    let listed = String::from_utf8(output.stdout).unwrap();
    let row = |path: &str| listed.lines().find(|line| line.contains(path)).unwrap().to_owned();
    assert!(row("dc/database").contains("3.00 MiB") && row("dc/database").contains("none"));
    assert!(row("dc/empty").contains("of which stop it"), "{listed}");
    assert!(listed.contains("5 VMs"), "{listed}");
}

/// The most that a process has had in memory, in bytes.
fn peak_of(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_thousand_vms_are_listed_in_time_and_in_little_memory() {
    // The server's own time is left out.
    const IN: Duration = Duration::from_secs(2);
    const MEMORY: u64 = 40 * MIB;
    let builder = (0..1000).fold(Vsphere::builder(), |builder, index| {
        builder
            .machine(NewMachine::new(&format!("vm{index:04}")).folder("many").disk(MIB).disk(MIB))
    });
    let place = VmPlace::with(builder);
    let mut command = place.kept.command(&format!("vms --json {}", place.server()));
    let began = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut told = vec![0; 1];
    // It has all that it will ever have when it begins to print, and waits there, for a pipe holds
    // less than it has to say.
    stdout.read_exact(&mut told).unwrap();
    let (took, peak) = (began.elapsed(), peak_of(child.id()));
    let own = place.vsphere.own_time(began, began + took);
    stdout.read_to_end(&mut told).unwrap();
    assert!(child.wait().unwrap().success());
    let told: Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(told["vms"].as_array().unwrap().len(), 1000);
    println!("{took:?}, of which {own:?} the server's; at most {} KiB", peak >> 10);
    assert!(took.saturating_sub(own) <= IN, "{took:?} less {own:?}");
    assert!(peak <= MEMORY, "{peak}");
}

#[test]
fn check_tells_what_it_finds_and_changes_nothing() {
    let place = place();
    let vddk = place.vddk();
    let (code, told) = place.ask_json(&format!("check database {vddk}"));
    assert_eq!((code, &told["findings"]), (0, &json!([])));
    let output = place.ask(&format!("check webmail {vddk}"));
    assert_eq!(blockferry::code(&output), 0, "{}", stderr(&output));
    let words = String::from_utf8(output.stdout).unwrap();
    assert!(words.contains("warns: its hardware has version 4"), "{words}");

    let output = place.ask(&format!("check empty {vddk}"));
    assert_eq!(blockferry::code(&output), 4, "{}", stderr(&output));
    let stops = "VM dc/empty cannot be backed up: it has no disk that a snapshot would hold";
    assert!(stderr(&output).contains(stops), "{}", stderr(&output));
    let words = String::from_utf8(output.stdout).unwrap();
    assert!(words.contains("stops: it has no disk that a snapshot would hold"), "{words}");
    for method in ["CreateSnapshot_Task", "CreateSnapshotEx_Task", "ReconfigVM_Task"] {
        assert_eq!(place.vsphere.count(method), 0, "{method}");
    }
    assert!(!place.kept.path("repository").exists());
}

#[test]
fn check_fails_where_disks_could_not_be_served() {
    let place = place();
    let without = [
        ("--nbdkit /there/is/none", "cannot run /there/is/none: no such command"),
        ("--vddk-plugin /there/is/none.so", "nbdkit cannot load its plugin /there/is/none.so"),
    ];
    for (option, says) in without {
        let output = place.ask(&format!("check database {option} --vddk-runtime run"));
        assert_eq!(code(&output), 2, "{}", stderr(&output));
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
        // What was found of the VM is told all the same.
        assert!(String::from_utf8(output.stdout).unwrap().contains("dc/database"));
    }
}

#[test]
fn a_name_of_several_vms_is_wrong_usage_and_the_candidates_are_told() {
    let place = place();
    let ids: Vec<String> = place
        .vsphere
        .machines()
        .iter()
        .filter(|machine| machine.disks().unwrap().len() == 1)
        .map(|machine| machine.id().to_owned())
        .collect();
    for sought in ["web", "name=web", COPIED, &COPIED.to_uppercase()] {
        let (code, report) = place.try_back_up(sought, "");
        assert_eq!(code, 2, "{report}");
        let error = report["error"].as_str().unwrap();
        assert!(error.contains(&format!("dc/shop/web ({})", ids[0])), "{error}");
        assert!(error.contains(&format!("dc/archive/old/web ({})", ids[1])), "{error}");
        assert!(!error.contains("webmail"), "{error}");
    }
    assert_eq!(place.vsphere.count("CreateSnapshot_Task"), 0);
    assert!(!place.kept.path("repository").exists());
}

#[test]
fn a_name_of_no_vm_is_wrong_usage_and_names_that_are_near_are_told() {
    let place = place();
    for (sought, near) in [("databse", "dc/database"), ("dc/shop/wb", "dc/shop/web")] {
        let (code, report) = place.try_back_up(sought, "");
        assert_eq!(code, 2, "{report}");
        let error = report["error"].as_str().unwrap();
        assert!(error.contains(&format!("has no VM \"{sought}\" (did you mean ")), "{error}");
        assert!(error.contains(near), "{error}");
        let output = place.ask(&format!("check {sought} {}", place.vddk()));
        assert_eq!(blockferry::code(&output), 2, "{}", stderr(&output));
    }
    let (code, report) = place.try_back_up("mainframe", "");
    assert_eq!(code, 2);
    assert!(!report["error"].as_str().unwrap().contains("did you mean"), "{report}");
}

#[test]
fn a_vm_is_found_by_path_uuid_and_moref() {
    let place = place();
    let database = place.machine("database");
    let (_, told) = place.ask_json("vms");
    let vm = &told["vms"][1];
    let words = ["uuid", "instance_uuid"].map(|uuid| vm[uuid].as_str().unwrap().to_owned());
    let path = "dc/database".to_owned();
    let moref = format!("moref={}", database.id());
    let [bios, instance] = words;
    for sought in [path, moref, database.id().to_owned(), bios, format!("uuid={instance}")] {
        let backed = place.back_up_machine(&database, &sought, "");
        // Whatever it was found by, it is called after its name, and goes on with its chain.
        assert_eq!(backed.report["vm"], "database");
    }
    let points = place.points();
    assert_eq!(points.len(), 5);
    assert_eq!(points[4]["mode"], "incremental");
    assert_eq!(points[4]["vm_uuid"], vm["instance_uuid"]);
}

#[test]
fn another_vm_of_the_same_name_is_refused_until_it_has_a_name_of_its_own() {
    let place = place();
    let machines = place.vsphere.machines();
    let [shop, archive] = &machines[..2] else { unreachable!("there are five") };
    shop.write(2000, 0, b"shop").unwrap();
    archive.write(2000, 0, b"archive").unwrap();
    let first = place.back_up_machine(shop, "dc/shop/web", "");
    let (code, report) = place.try_back_up("dc/archive/old/web", "");
    assert_eq!(code, 2, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("another VM that is called \"web\"") && error.contains("--as"));
    assert_eq!(archive.snapshots().unwrap(), []);
    place.assert_nothing_left();

    let other = place.back_up_machine(archive, "dc/archive/old/web", "--as web-archive");
    assert_eq!(other.report["vm"], "web-archive");
    assert_eq!(other.reason("disk-2000"), "it is the first backup of this disk here");
    for (machine, vm, extra) in
        [(shop, "dc/shop/web", ""), (archive, "dc/archive/old/web", "--as web-archive")]
    {
        machine.write(2000, 70_000, vm.as_bytes()).unwrap();
        let backed = place.back_up_machine(machine, vm, extra);
        assert_eq!(backed.mode("disk-2000"), "incremental");
        place.assert_equal(&backed);
    }
    place.assert_equal(&first);
    place.assert_equal(&other);
}

#[test]
fn a_clone_with_the_same_disk_uuid_has_a_chain_of_its_own() {
    let uuid = "6000C29a-aaaa-bbbb-cccc-ddddeeeeffff";
    let machine =
        |name: &str| NewMachine::new(name).with_disk(NewDisk::new(MIB).uuid(uuid)).tracked();
    let builder = Vsphere::builder().machine(machine("web")).machine(machine("clone"));
    let place = VmPlace::with(builder);
    for round in 0..3_u64 {
        for name in ["web", "clone"] {
            let it = place.machine(name);
            it.write(2000, round * 100_000, format!("{name} {round}").as_bytes()).unwrap();
            let backed = place.back_up(name, "");
            let mode = if round == 0 { "full" } else { "incremental" };
            assert_eq!(backed.mode("disk-2000"), mode, "{}", backed.report);
            place.assert_equal(&backed);
        }
    }
}

#[test]
fn two_disks_of_one_uuid_in_one_vm_are_two_disks() {
    let uuid = "6000C29a-aaaa-bbbb-cccc-ddddeeeeffff";
    let disk = || NewDisk::new(MIB).uuid(uuid);
    let machine = NewMachine::new("web").with_disk(disk()).with_disk(disk()).disk(MIB).tracked();
    let place = VmPlace::new(machine);
    let web = place.machine("web");
    for round in 0..3_u64 {
        for key in [2000, 2001, 2002] {
            let words = format!("disk {key}, round {round}");
            web.write(key, round * 100_000, words.as_bytes()).unwrap();
        }
        let backed = place.back_up("web", "");
        place.assert_equal(&backed);
        for (name, label) in [("disk-2000", "Hard disk 1"), ("disk-2001", "Hard disk 2")] {
            assert_eq!(backed.mode(name), "full", "{}", backed.report);
            let says = format!("{label} has the UUID of another disk of this VM: each backup ");
            let notes = place.notes(&backed);
            assert!(notes.iter().any(|(_, said)| said.starts_with(&says)), "{notes:?}");
        }
        let mode = if round == 0 { "full" } else { "incremental" };
        assert_eq!(backed.mode("disk-2002"), mode);
    }
    // The copy goes, and the other one is itself again.
    web.remove_disk(2001).unwrap();
    for mode in ["full", "incremental"] {
        let backed = place.back_up("web", "");
        assert_eq!(backed.mode("disk-2000"), mode, "{}", backed.report);
        place.assert_equal(&backed);
    }
    place.assert_nothing_left();
}
