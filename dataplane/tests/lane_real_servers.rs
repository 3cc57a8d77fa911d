//! Real servers that are stopped, killed, started again, full, or taken.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::thread;
use std::time::{Duration, Instant};

use blockferry_dataplane::{LaneSettings, Side};
use blockferry_doubles::disk::compare;
use blockferry_doubles::{Nbdkit, Proxy, QemuNbd, Server, TestDisk};
use lanes::{
    DEADLINE, HANG, KIB, MIB, SLACK, Way, copied, disk, every_way, fails, folder, hasty, patient,
    qcow2,
};

/// A line to a server that is slow enough for something to happen in the middle.
fn line(server: &Server) -> Proxy {
    Proxy::to(server.address()).bytes_per_second(16 * MIB).start().unwrap()
}

fn source(disk: &TestDisk) -> Server {
    // 1.32.5 aborts when a client hangs up with requests in flight, unless it has one thread.
    Nbdkit::file(&disk.path).threads(1).tcp().start().unwrap()
}

#[test]
fn a_target_that_is_killed_and_started_again_gets_everything() {
    let dir = folder();
    let (disk, _) = disk(&dir, 6 * MIB, 41);
    every_way(|way| {
        let source = source(&disk);
        let (image, mut target) = qcow2(&dir, &format!("{way:?}.qcow2"), disk.size);
        let line = line(&target);
        thread::scope(|scope| {
            let target = &mut target;
            scope.spawn(|| {
                assert!(line.wait_for_bytes(MIB, 0, HANG));
                target.restart().unwrap();
            });
            let settings = LaneSettings {
                deadline: DEADLINE * 8,
                backoff: Duration::from_millis(50),
                ..hasty(way)
            };
            let report = copied(way, &source.uri(), &line.uri(""), settings);
            assert!(report.reconnects > 0);
        });
        target.child.term_and_wait(HANG).unwrap();
        compare(&disk.path, &image, "qcow2").unwrap();
    });
}

#[test]
fn a_source_that_is_killed_and_started_again_is_read_on() {
    let dir = folder();
    let (disk, _) = disk(&dir, 6 * MIB, 42);
    every_way(|way| {
        let mut source = source(&disk);
        let line = line(&source);
        let copy = TestDisk::sized(dir.path(), disk.size).unwrap();
        let target = Nbdkit::file(&copy.path).start().unwrap();
        thread::scope(|scope| {
            let source = &mut source;
            scope.spawn(|| {
                assert!(line.wait_for_bytes(0, MIB, HANG));
                source.restart().unwrap();
            });
            let settings = LaneSettings {
                deadline: DEADLINE * 8,
                backoff: Duration::from_millis(50),
                ..hasty(way)
            };
            copied(way, &line.uri(""), &target.uri(), settings);
        });
        compare(&disk.path, &copy.path, "raw").unwrap();
    });
}

fn ended_by(way: Way, side: Side, act: fn(&mut Server)) {
    let dir = folder();
    let (disk, _) = disk(&dir, 6 * MIB, 43);
    let mut source = source(&disk);
    let (_, mut target) = qcow2(&dir, "target.qcow2", disk.size);
    let server = if side == Side::Source { &source } else { &target };
    let line = line(server);
    let (from, to) = match side {
        Side::Source => (line.uri(""), target.uri()),
        Side::Target => (source.uri(), line.uri("")),
    };
    thread::scope(|scope| {
        let (source, target, line) = (&mut source, &mut target, &line);
        scope.spawn(move || {
            match side {
                Side::Source => assert!(line.wait_for_bytes(0, MIB, HANG)),
                Side::Target => assert!(line.wait_for_bytes(MIB, 0, HANG)),
            }
            act(if side == Side::Source { source } else { target });
        });
        let words = fails(way, side, &from, &to, hasty(way), DEADLINE * 2 + SLACK);
        assert!(
            words.contains("waiting for")
                || words.contains("awaited")
                || words.contains("cannot connect"),
            "{words}"
        );
    });
}

#[test]
fn a_server_that_is_killed_for_good_fails_the_lane_within_the_deadline() {
    every_way(|way| {
        for side in [Side::Source, Side::Target] {
            ended_by(way, side, |server| {
                server.child.kill().unwrap();
            });
        }
    });
}

#[test]
fn a_server_that_is_stopped_for_good_fails_the_lane_within_the_deadline() {
    every_way(|way| {
        for side in [Side::Source, Side::Target] {
            ended_by(way, side, |server| server.child.stop().unwrap());
        }
    });
}

#[test]
fn a_server_that_is_stopped_for_a_while_only_delays_the_lane() {
    let dir = folder();
    let (disk, _) = disk(&dir, 6 * MIB, 44);
    every_way(|way| {
        let source = source(&disk);
        let (image, mut target) = qcow2(&dir, &format!("{way:?}.qcow2"), disk.size);
        let line = line(&target);
        thread::scope(|scope| {
            let child = &target.child;
            let line = &line;
            scope.spawn(move || {
                assert!(line.wait_for_bytes(MIB, 0, HANG));
                child.stop().unwrap();
                thread::sleep(Duration::from_millis(300));
                child.cont().unwrap();
            });
            copied(
                way,
                &source.uri(),
                &line.uri(""),
                LaneSettings { deadline: DEADLINE * 4, ..hasty(way) },
            );
        });
        target.child.term_and_wait(HANG).unwrap();
        compare(&disk.path, &image, "qcow2").unwrap();
    });
}

#[test]
fn a_second_client_that_is_never_greeted_is_told_within_the_deadline() {
    let dir = folder();
    let (disk, _) = disk(&dir, MIB, 45);
    every_way(|way| {
        let source = source(&disk);
        let target = QemuNbd::new(&disk.path).format("raw").start().unwrap();
        // Somebody else has the only slot.
        let first = target.address().connect().unwrap();
        target_greets(&first);
        let words =
            fails(way, Side::Target, &source.uri(), &target.uri(), hasty(way), DEADLINE + SLACK);
        assert!(words.contains("greeting") && words.contains("--shared"), "{words}");
        drop(first);
    });
}

/// Reads the greeting, so that the slot is certainly taken.
fn target_greets(mut stream: &blockferry_doubles::socket::Stream) {
    use std::io::Read;
    let mut greeting = [0; 18];
    match &mut stream {
        blockferry_doubles::socket::Stream::Unix(unix) => {
            (&*unix).read_exact(&mut greeting).unwrap()
        }
        blockferry_doubles::socket::Stream::Tcp(tcp) => (&*tcp).read_exact(&mut greeting).unwrap(),
    }
}

#[test]
fn extra_connections_that_cannot_be_had_are_given_up_with_a_note() {
    use blockferry_dataplane::Lane;
    use blockferry_doubles::{Fault, Hostile, Occasion, Trigger};
    let content = lanes::dense(2 << 20, 46);
    every_way(|way| {
        let source = Hostile::builder().content(&content).start().unwrap();
        // One slot, and writes so slow that the others run into their deadline.
        let target = Hostile::builder()
            .size(2 * MIB)
            .at_once(1)
            .fault_on(Occasion::Write, Fault::SlowReply(Duration::from_millis(20)), Trigger::Always)
            .start()
            .unwrap();
        let settings =
            LaneSettings { connections: 3, deadline: DEADLINE, requests: 2, ..hasty(way) };
        let lane =
            Lane::new(lanes::nbd(&source.uri()), lanes::nbd(&target.uri())).with_settings(settings);
        let (report, events) = lanes::run(way, lane);
        assert!(report.outcome.is_ok(), "{:?}", report.outcome);
        assert_eq!(report.connections, 1);
        assert_eq!(events.count("gives no connection"), 2, "{:?}", events.all());
        lanes::assert_same(&content, &target.content());
    });
}

#[test]
fn a_slow_server_at_a_tenth_of_its_rate_is_no_dead_one() {
    let dir = folder();
    let (disk, _) = disk(&dir, MIB, 47);
    every_way(|way| {
        // 8 Mbit/s, in bursts.
        let source =
            Nbdkit::file(&disk.path).filter("rate", &["rate=8M"]).threads(1).tcp().start().unwrap();
        let copy = TestDisk::sized(dir.path(), disk.size).unwrap();
        let target = Nbdkit::file(&copy.path).start().unwrap();
        copied(
            way,
            &source.uri(),
            &target.uri(),
            LaneSettings { deadline: DEADLINE * 2, ..hasty(way) },
        );
        compare(&disk.path, &copy.path, "raw").unwrap();
    });
}

#[test]
fn delays_shorter_than_the_deadline_are_waited_out() {
    let dir = folder();
    let (disk, _) = disk(&dir, 512 * KIB, 48);
    every_way(|way| {
        let source =
            Nbdkit::file(&disk.path).filter("delay", &["delay-read=100ms"]).start().unwrap();
        let copy = TestDisk::sized(dir.path(), disk.size).unwrap();
        let target =
            Nbdkit::file(&copy.path).filter("delay", &["delay-write=100ms"]).start().unwrap();
        let began = Instant::now();
        copied(way, &source.uri(), &target.uri(), patient(way));
        assert!(began.elapsed() > Duration::from_millis(200));
        compare(&disk.path, &copy.path, "raw").unwrap();
    });
}

#[test]
fn real_write_errors_name_the_target() {
    let dir = folder();
    let (disk, _) = disk(&dir, 2 * MIB, 49);
    every_way(|way| {
        let source = source(&disk);
        let target = Nbdkit::memory(disk.size)
            .filter("error", &["error-pwrite=ENOSPC", "error-pwrite-rate=100%"])
            .start()
            .unwrap();
        let words =
            fails(way, Side::Target, &source.uri(), &target.uri(), hasty(way), DEADLINE + SLACK);
        assert!(words.contains("WRITE of") && words.contains("space"), "{words}");
    });
}

#[test]
fn a_server_that_leaves_by_itself_fails_the_lane() {
    let dir = folder();
    let (disk, _) = disk(&dir, 4 * MIB, 50);
    every_way(|way| {
        let trigger = dir.path().join(format!("end-{way:?}"));
        let created = format!("exit-when-file-created={}", trigger.display());
        let source = Nbdkit::file(&disk.path)
            .filter("exitwhen", &[&created, "exit-when-poll=1"])
            .threads(1)
            .tcp()
            .start()
            .unwrap();
        let line = line(&source);
        let copy = TestDisk::sized(dir.path(), disk.size).unwrap();
        let target = Nbdkit::file(&copy.path).start().unwrap();
        std::fs::write(&trigger, "").unwrap();
        // It may end before, in the middle of, or after the copy: never a hang, never a wrong byte.
        let report = lanes::copy(way, &line.uri(""), &target.uri(), hasty(way));
        match report.outcome {
            Ok(()) => compare(&disk.path, &copy.path, "raw").unwrap(),
            Err(fault) => assert_eq!(fault.side(), Some(Side::Source), "{fault}"),
        }
    });
}
