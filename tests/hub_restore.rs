//! Points that a hub has, restored here.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;

use blockferry::{Hub, HubPlace, by, code, signal, stderr, wait_until};
use blockferry_doubles::QemuNbd;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Bytes a second of a restore that is met at work; the disk has four times as many.
const SLOW: &str = "--rate-limit 8M";
const SLOW_DISK: usize = 32 << 20;

/// A restore that is at work: its file grows.
fn at_work(place: &HubPlace, point: &str, hub: &Hub) -> Child {
    let line = format!("restore {point} --to out {SLOW} {}", by(hub));
    let mut command = place.kept.command(&line);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let file = place.kept.path("out/root.raw.partial");
    wait_until("it writes", || fs::metadata(&file).is_ok_and(|file| file.len() > 0));
    child
}

fn slow_point(place: &HubPlace) -> String {
    place.kept.disk("root", SLOW_DISK, 3);
    place.kept.back_up(&["root"])
}

#[test]
fn all_points_of_a_chain_are_restored_as_they_were() {
    let place = HubPlace::new();
    let kept = &place.kept;
    kept.disk("root", 3_000_001, 1);
    kept.sparse("data", (300 << 20) + 17);
    let mut points = Vec::new();
    for (generation, offset) in [0, 70_000, 2_900_000].into_iter().enumerate() {
        kept.write("root", offset, format!("generation {generation}").as_bytes());
        kept.write("data", offset * 100, &[7; 70_000]);
        points.push(kept.back_up(&["root", "data"]));
        for disk in ["root", "data"] {
            fs::copy(kept.path(disk), kept.path(&format!("{disk}{generation}"))).unwrap();
        }
    }
    let hub = place.hub();
    for (generation, point) in points.iter().enumerate() {
        let line = format!("restore {point} --to out{generation} --json");
        let output = place.run(&line, &hub);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["point"], &report["vm"]), (&point.as_str().into(), &"db1".into()));
        for disk in ["root", "data"] {
            kept.assert_same(
                &format!("{disk}{generation}"),
                &format!("out{generation}/{disk}.raw"),
            );
        }
        // Its ports are free when the command ends.
        assert_eq!(place.leases(&hub), [] as [Value; 0]);
    }
    place.assert_idle(&hub);
    assert!(kept.names("temporary").is_empty());
}

#[test]
fn a_restore_by_a_hub_says_the_same_as_here() {
    let place = HubPlace::new();
    let kept = &place.kept;
    let [_, _, newest] = kept.chain();
    let hub = place.hub();
    let told = |to: &str, how: &str| {
        let line = format!("restore {newest} --to {to} --format qcow2 --json {how}");
        let (code, mut report) = kept.json(&line);
        for field in ["seconds", "cpu_seconds"] {
            report[field] = Value::Null;
        }
        report["disks"][0]["seconds"] = Value::Null;
        (code, report)
    };
    let (here, there) = (told("out", "--repository repository"), {
        fs::rename(kept.path("out"), kept.path("before")).unwrap_or_default();
        told("out", &by(&hub))
    });
    assert_eq!(here, there);
    assert_eq!(there.0, 0, "{}", there.1);
    let compared = Command::new("qemu-img")
        .args(["compare", "-F", "qcow2", "-f", "raw", "root", "out/root.qcow2"])
        .current_dir(kept.folder())
        .output()
        .unwrap();
    assert!(compared.status.success(), "{compared:?}");
    place.assert_idle(&hub);
}

#[test]
fn a_disk_goes_to_an_export_of_ours() {
    let place = HubPlace::new();
    let kept = &place.kept;
    kept.disk("root", 1 << 20, 1);
    kept.disk("data", 1 << 20, 2);
    let point = kept.back_up(&["root", "data"]);
    let hub = place.hub();
    fs::write(kept.path("target"), vec![0xff; 1 << 20]).unwrap();
    let target = QemuNbd::new(kept.path("target")).format("raw").tcp().start().unwrap();
    let both = place.run(&format!("restore {point} --to {}", target.uri()), &hub);
    assert_eq!(code(&both), 2, "{}", stderr(&both));
    assert!(stderr(&both).contains("takes one disk"), "{}", stderr(&both));
    let one = place.run(&format!("restore {point} --disk data --to {}", target.uri()), &hub);
    assert_eq!(code(&one), 0, "{}", stderr(&one));
    drop(target);
    kept.assert_same("data", "target");
    place.assert_idle(&hub);
}

#[test]
fn content_that_differs_gets_no_name_and_the_other_disks_do() {
    let place = HubPlace::new();
    let kept = &place.kept;
    kept.disk("root", 1 << 20, 1);
    kept.disk("data", 1 << 20, 2);
    let full = kept.back_up(&["root", "data"]);
    kept.write("root", 500_000, b"changed");
    let point = kept.back_up(&["root", "data"]);
    let hub = place.hub();
    kept.flip_a_bit_of(&kept.image(&full, "root"));
    let output = place.run(&format!("restore {point} --to out --json"), &hub);
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["disks"][1]["outcome"], "content_differs");
    assert_eq!(
        stderr(&output).trim_end(),
        "blockferry: disk root: the content differs from what was backed up, first at bytes 0 to \
         65536 (65536 bytes in all); verify tells which points that touches"
    );
    assert_eq!(kept.names("out"), ["data.raw"]);
    kept.assert_same("data", "out/data.raw");
    place.assert_idle(&hub);
}

#[test]
fn a_disk_that_nobody_vouches_for_is_not_restored() {
    let place = HubPlace::new();
    let kept = &place.kept;
    let [full, _, newest] = kept.chain();
    let hub = place.hub();
    fs::remove_file(kept.manifest(&full, "root")).unwrap();
    let output = place.run(&format!("restore {newest} --to out"), &hub);
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains(&format!("(point {full}) cannot be had")), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(kept.names("out").is_empty());
    place.assert_idle(&hub);
}

#[test]
fn what_is_there_is_left_as_it_is() {
    let place = HubPlace::new();
    let kept = &place.kept;
    let [_, _, newest] = kept.chain();
    let hub = place.hub();
    fs::create_dir(kept.path("out")).unwrap();
    fs::write(kept.path("out/root.raw"), "old").unwrap();
    let line = format!("restore {newest} --to out");
    let refused = place.run(&line, &hub);
    assert_eq!(code(&refused), 2, "{}", stderr(&refused));
    assert_eq!(fs::read(kept.path("out/root.raw")).unwrap(), b"old");
    assert_eq!(code(&place.run(&format!("{line} --force"), &hub)), 0);
    kept.assert_same("root", "out/root.raw");
    place.assert_idle(&hub);
}

#[test]
fn a_restore_goes_on_when_the_server_of_its_disk_dies() {
    let place = HubPlace::new();
    let point = slow_point(&place);
    let hub = place.hub();
    let child = at_work(&place, &point, &hub);
    let processes = hub.get(&place.token, "/nbd/processes");
    let pid = i32::try_from(processes["processes"][0]["pid"].as_i64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).contains("its export was started anew"), "{}", stderr(&output));
    place.kept.assert_same("root", "out/root.raw");
    place.assert_idle(&hub);
}

#[test]
fn an_interrupted_restore_leaves_nothing_here_and_nothing_in_the_hub() {
    let place = HubPlace::new();
    let point = slow_point(&place);
    let hub = place.hub();
    let child = at_work(&place, &point, &hub);
    signal(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 7, "{}", stderr(&output));
    assert_eq!(place.leases(&hub), [] as [Value; 0]);
    assert!(place.kept.names("out").is_empty());
    assert!(place.kept.names("temporary").is_empty());
    place.assert_idle(&hub);
}

#[test]
fn a_restore_whose_hub_is_killed_says_so_and_leaves_nothing() {
    let place = HubPlace::new();
    let point = slow_point(&place);
    let hub = place.hub();
    let child = at_work(&place, &point, &hub);
    hub.signal(Signal::KILL);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    assert!(place.kept.names("out").is_empty());
    drop(hub);
    place.assert_idle(&place.hub());
}

#[test]
fn ports_of_a_hub_that_are_not_here_are_told_with_what_to_do() {
    let place = HubPlace::new();
    let port = *place.ports.range().start();
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", hub.local_addr().unwrap());
    // A hub on another machine, of which only the API was forwarded.
    let answering = thread::spawn(move || {
        let mut client = hub.accept().unwrap().0;
        let mut request = [0; 4096];
        let _some_of_it = client.read(&mut request).unwrap();
        let served = json!({ "type": "served", "job": "01kat0h4m2f6q8r0s2", "vm": "db1",
            "point": "01kat0h4m2f6q8r0s2", "disks": [{ "disk": "root", "size": 65536,
            "layer": "01kat0h4m2f6q8r0s2", "port": port, "export_name": "x.root", "pid": 1 }] });
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent: served\n\
             data: {served}\n\n"
        );
        client.write_all(answer.as_bytes()).unwrap();
        // It goes on until the caller leaves.
        client.read(&mut request).unwrap_or(0)
    });
    let line = format!("restore 01kat0h4m2f6q8r0s2 --to out --hub {url} --token-file hub.token");
    let output = place.kept.run(&line);
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains(&format!("as with ssh -L {port}:127.0.0.1:{port}")), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(place.kept.names("out").is_empty());
    answering.join().unwrap();
}
