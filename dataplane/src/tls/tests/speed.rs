//! What a session carries and costs. Not a test: run it by name, on an idle machine, in release.

use std::io::Write;
use std::time::{Duration, Instant};

use blockferry_doubles::Nbdkit;

use super::authority::Authority;
use super::client::{Client, nbdkit, secure};
use crate::nbd::Command;

const TOTAL_BYTES: u64 = 4 << 30;
const REQUEST_BYTES: u32 = 1 << 20;
const DEPTH: u64 = 16;

#[test]
#[ignore = "a measurement"]
fn bulk() {
    let folder = Authority::new().server(&["127.0.0.1"]);
    for _round in 0..3 {
        for command in [Command::Read, Command::Write] {
            measure(folder.path(), command);
        }
    }
}

fn measure(folder: &std::path::Path, command: Command) {
    let server = nbdkit(Nbdkit::memory(64 << 20), folder).tcp().start().unwrap();
    let mut client = Client::open(&server, &secure(&server, Some(folder), "")).unwrap();
    let data = vec![0x5A; usize::try_from(REQUEST_BYTES).unwrap()];
    let mut buffer = data.clone();
    for at in 0..64 {
        client.write(at << 20, &data).unwrap();
    }
    let (begin, cpu) = (Instant::now(), session_cpu());
    let count = TOTAL_BYTES / u64::from(REQUEST_BYTES);
    for at in 0..count + DEPTH {
        if at < count {
            client.send(command, (at % 64) << 20, REQUEST_BYTES.into()).unwrap();
            if command == Command::Write {
                client.stream.write_all(&data).unwrap();
            }
        }
        if at >= DEPTH {
            client.acknowledged().unwrap();
            if command == Command::Read {
                std::io::Read::read_exact(&mut client.stream, &mut buffer).unwrap();
            }
        }
    }
    let (wall, cpu) = (begin.elapsed(), session_cpu() - cpu);
    let gib = TOTAL_BYTES as f64 / (1u64 << 30) as f64;
    eprintln!(
        "{command:?}: {:.0} MiB/s, session thread {:.2} CPU s/GiB",
        gib * 1024.0 / wall.as_secs_f64(),
        cpu.as_secs_f64() / gib
    );
}

/// CPU time that the one session of this process has used.
fn session_cpu() -> Duration {
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        if std::fs::read_to_string(task.join("comm")).unwrap().trim() == "blockferry-tls" {
            let spent = std::fs::read_to_string(task.join("schedstat")).unwrap();
            return Duration::from_nanos(spent.split(' ').next().unwrap().parse().unwrap());
        }
    }
    panic!("no session runs");
}
