//! A hub that is killed in the middle of backups and of what is read, again and again.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use blockferry::{Hub, HubPlace, by, code, place, run, stderr, wait_until};
use blockferry_doubles::disk::Random;
use blockferry_doubles::{Nbdkit, PortBlock};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Times that the hub is killed; each is a round of a few seconds.
const ROUNDS: u64 = 4;
/// Within this time of the first job a hub is killed: it is about what two of them take.
const MOMENTS_MS: u64 = 1200;
/// Times that readers or their hub are killed.
const READING_ROUNDS: u64 = 10;
/// Within this time of their start: from before anything is open to when all of it is.
const READING_MOMENTS_MS: u64 = 250;

/// The files of all points, with their content.
fn points(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for point in fs::read_dir(folder.join("repository/points")).unwrap() {
        for file in fs::read_dir(point.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let content = fs::read(&path).unwrap();
            files.insert(path, content);
        }
    }
    files
}

#[test]
fn a_hub_that_is_killed_at_any_moment_loses_no_point_and_leaves_nothing() {
    let (folder, token) = place();
    let ports = PortBlock::take();
    let options = "--repository repository";
    let disk = Nbdkit::sparse_random(4 << 20, 1).filter("rate", &["rate=64M"]).tcp();
    let disk = disk.start().unwrap();
    let mut random = Random::new(20_261_124);
    let mut kept: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    for round in 0..ROUNDS {
        let hub = Hub::start_with(folder.path(), &ports, options);
        let jobs: Vec<String> = (0..4)
            .map(|vm| {
                let name = format!("vm{vm}");
                let body = json!({ "vm": name, "disks": [
                    { "name": "root", "source": disk.uri() },
                    { "name": "data", "source": disk.uri() },
                ]});
                let (status, job) = hub.ask(&token, "POST", "/backups", &body);
                assert_eq!(status, 202, "{job}");
                job["id"].as_str().unwrap().to_owned()
            })
            .collect();
        let mut moment = [0; 8];
        random.fill(&mut moment);
        let moment = u64::from_le_bytes(moment) % MOMENTS_MS;
        // The moment itself is what is tried, so there is nothing else to wait for.
        thread::sleep(Duration::from_millis(moment));
        hub.signal(Signal::KILL);
        drop(hub);

        let hub = Hub::start_with(folder.path(), &ports, options);
        let told = format!("round {round}, killed after {moment} ms");
        let mut done = 0;
        for job in jobs {
            let job = hub.get(&token, &format!("/backups/{job}"));
            match job["state"].as_str().unwrap() {
                "done" => {
                    assert!(job["point"].is_string(), "{told}: {job}");
                    done += 1;
                }
                "failed" => {
                    let reason = job["reason"].as_str().unwrap();
                    assert!(reason.starts_with("the hub ended while it was "), "{told}: {job}");
                }
                _ => panic!("{told}: {job}"),
            }
        }
        assert_eq!(hub.get(&token, "/nbd/ports")["ports"], json!([]), "{told}");
        assert_eq!(hub.get(&token, "/nbd/ports/metrics")["outside"], json!([]), "{told}");
        assert_eq!(hub.get(&token, "/nbd/processes")["processes"], json!([]), "{told}");
        let work = fs::read_dir(folder.path().join("repository/work")).unwrap();
        assert_eq!(work.count(), 0, "{told}");
        assert_eq!(ports.open(), None, "{told}");
        let now = points(folder.path());
        for (path, content) in &kept {
            assert!(now.get(path) == Some(content), "{told}: {} changed", path.display());
        }
        let listed = hub.get(&token, "/points?limit=1000");
        let whole = listed["points"].as_array().unwrap();
        assert!(whole.iter().all(|point| point["state"] == "whole"), "{told}: {listed}");
        let folders = fs::read_dir(folder.path().join("repository/points")).unwrap().count();
        assert_eq!(folders, whole.len(), "{told}");
        assert!(whole.len() >= done, "{told}");
        kept = now;
    }
    let verify = ["verify", "--all", "--repository", "repository", "--json"];
    let verified = run(folder.path(), &verify);
    assert_eq!(code(&verified), 0, "{}", stderr(&verified));
    let report: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(report["damage"], json!([]));
}

#[test]
fn readers_and_hubs_that_are_killed_at_any_moment_leave_nothing() {
    let place = HubPlace::new();
    let kept = &place.kept;
    kept.disk("root", 8 << 20, 1);
    kept.disk("data", 8 << 20, 2);
    kept.back_up(&["root", "data"]);
    kept.write("root", 70_000, b"changed");
    let point = kept.back_up(&["root", "data"]);
    let mut random = Random::new(20_261_126);
    let mut hub = place.hub();
    for round in 0..READING_ROUNDS {
        let lines = [
            format!("export {point}"),
            format!("export {point} --writable"),
            format!("verify {point}"),
            format!("restore {point} --to out{round} --rate-limit 16M"),
        ];
        let start = |line: &String| {
            let mut command = kept.command(&format!("{line} {}", by(&hub)));
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let mut readers: Vec<Child> = lines.iter().map(start).collect();
        let mut moment = [0; 8];
        random.fill(&mut moment);
        let moment = u64::from_le_bytes(moment) % READING_MOMENTS_MS;
        // The moment itself is what is tried, so there is nothing else to wait for.
        thread::sleep(Duration::from_millis(moment));
        let told = format!("round {round}, killed after {moment} ms");
        if round % 2 == 0 {
            hub.signal(Signal::KILL);
            drop(hub);
            for mut reader in readers {
                reader.wait().unwrap();
            }
            let out = kept.names(&format!("out{round}"));
            assert!(!out.iter().any(|name| name.ends_with(".partial")), "{told}: {out:?}");
            hub = place.hub();
            assert!(place.leases(&hub).is_empty(), "{told}");
        } else {
            for reader in &mut readers {
                // One that has ended before is fine.
                let _ = reader.kill();
                reader.wait().unwrap();
            }
        }
        // What a reader had just asked for when it was killed may be opened after the hub was idle.
        wait_until(&format!("{told}: a port is open"), || place.ports.open().is_none());
        place.assert_idle(&hub);
    }
    let verified = place.run(&format!("verify {point}"), &hub);
    assert_eq!(code(&verified), 0, "{}", stderr(&verified));
    let restored = place.run(&format!("restore {point} --to out"), &hub);
    assert_eq!(code(&restored), 0, "{}", stderr(&restored));
    for disk in ["root", "data"] {
        kept.assert_same(disk, &format!("out/{disk}.raw"));
    }
}
