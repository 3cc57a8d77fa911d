//! The hostile server, while it behaves, seen by libnbd's and qemu's clients.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::Duration;

use blockferry_doubles::disk::{Random, compare_raw, convert_to_raw};
use blockferry_doubles::hostile::{self, Replies, wire};
use blockferry_doubles::process::{run, run_ok};
use blockferry_doubles::{Fault, Hostile, HostileServer, Occasion, TestDisk, Trigger};

const DEADLINE: Duration = Duration::from_secs(60);
/// No multiple of 4096, nor of 512.
const SIZE: u64 = (6 << 20) + 1234;

fn nbdcopy(args: &[&str]) -> bool {
    let mut command = Command::new("nbdcopy");
    command.args(args);
    run(command, DEADLINE).unwrap().status.success()
}

fn disk(dir: &tempfile::TempDir) -> TestDisk {
    TestDisk::random(dir.path(), SIZE, 0.6, 5).unwrap()
}

/// Copies a disk in and out again with nbdcopy, and compares both ways.
fn round_trip(builder: Hostile) -> HostileServer {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir);
    let server = builder.size(SIZE).start().unwrap();
    let path = disk.path.to_str().unwrap();
    assert!(nbdcopy(&["--flush", path, &server.uri()]));
    assert!(server.content() == disk.content().unwrap());
    let back = TestDisk::sized(dir.path(), SIZE).unwrap();
    assert!(nbdcopy(&[&server.uri(), back.path.to_str().unwrap()]));
    compare_raw(&disk.path, &back.path).unwrap();
    assert!(server.flushes() > 0);
    assert_eq!(server.violations(), Vec::<String>::new());
    server
}

#[test]
fn nbdcopy_round_trip_with_simple_replies() {
    round_trip(Hostile::builder().replies(Replies::Simple));
}

#[test]
fn nbdcopy_round_trip_with_structured_replies() {
    let server = round_trip(Hostile::builder().tcp().export("the disk"));
    assert!(server.count(hostile::Command::BlockStatus) > 0);
    let mut all = server.written();
    all.extend(server.zeroed());
    assert_eq!(hostile::merged(all), [(0, SIZE)]);
}

#[test]
fn nbdcopy_round_trip_with_extended_headers_offered() {
    round_trip(Hostile::builder().replies(Replies::Extended));
}

#[test]
fn nbdcopy_round_trip_with_interleaved_pieces() {
    for seed in 0..5 {
        round_trip(Hostile::builder().interleaved(seed));
    }
}

#[test]
fn nbdcopy_round_trip_without_the_optional_commands() {
    let plain = || Hostile::builder().no_multi_conn().no_write_zeroes();
    let server = round_trip(plain());
    assert_eq!(server.written(), [(0, SIZE)]);
    round_trip(Hostile::builder().unsupported(&[wire::opt::GO, wire::opt::INFO]));
}

#[test]
fn nbdcopy_round_trip_through_the_legal_faults() {
    for fault in [
        Fault::MixedChunks,
        Fault::DoneApart,
        Fault::OneExtent,
        Fault::LongLastExtent,
        Fault::HoleWithoutZero,
        Fault::ManyExtents(500),
        Fault::SlowGreeting(Duration::from_millis(1)),
        Fault::SlowReply(Duration::from_millis(1)),
    ] {
        let server = round_trip(Hostile::builder().fault(fault.clone(), Trigger::Always));
        assert!(server.fired().contains(&fault), "{fault:?}");
    }
}

/// qemu's client asks for extended headers where they are offered.
#[test]
fn qemu_img_converts_in_every_mode() {
    let dir = tempfile::tempdir().unwrap();
    let size = 6 << 20;
    let disk = TestDisk::random(dir.path(), size, 0.6, 5).unwrap();
    for replies in [Replies::Simple, Replies::Structured, Replies::Extended] {
        for interleaved in [false, true] {
            let builder = Hostile::builder().size(size).replies(replies);
            let builder = if interleaved { builder.interleaved(9) } else { builder };
            let server = builder.start().unwrap();
            let mut command = Command::new("qemu-img");
            command.args(["convert", "-n", "-W", "-f", "raw", "-O", "raw"]);
            command.arg(&disk.path).arg(server.uri());
            run_ok(command, DEADLINE).unwrap();
            assert!(server.content() == disk.content().unwrap(), "{replies:?}");
            let back = dir.path().join(format!("{replies:?}-{interleaved}.raw"));
            convert_to_raw(server.uri().as_ref(), "raw", &back).unwrap();
            compare_raw(&disk.path, &back).unwrap();
            // That it leaves out the flag of a write shows that it has agreed on them.
            let (extended, others): (Vec<String>, _) =
                server.violations().into_iter().partition(|v| v.contains("no PAYLOAD_LEN"));
            assert_eq!(others, Vec::<String>::new());
            assert_eq!(extended.is_empty(), replies != Replies::Extended);
        }
    }
}

#[test]
fn nbdinfo_sees_what_is_advertised() {
    let server = Hostile::builder().size(1 << 41).block_size(4096, 65536, 1 << 20).start().unwrap();
    let mut command = Command::new("nbdinfo");
    command.args(["--json", &server.uri()]);
    let output = run_ok(command, DEADLINE).unwrap();
    let json = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "\"export-size\": 2199023255552",
        "\"base:allocation\"",
        "\"can_multi_conn\": true",
        "\"block_size_minimum\": 4096",
        "\"block_size_maximum\": 1048576",
    ] {
        assert!(json.contains(expected), "no {expected} in {json}");
    }
}

#[test]
fn a_read_only_export_is_not_written() {
    let server = Hostile::builder().read_only().start().unwrap();
    assert!(!nbdcopy(&["/dev/zero", &server.uri()]));
    let dir = tempfile::tempdir().unwrap();
    let disk = TestDisk::sized(dir.path(), 1 << 20).unwrap();
    assert!(!nbdcopy(&[disk.path.to_str().unwrap(), &server.uri()]));
    assert_eq!(server.written(), []);
}

/// nbdcopy copies from a server on which one read goes wrong, and must notice.
#[test]
fn libnbd_notices_what_is_against_the_protocol() {
    let mut content = vec![0; 4 << 20];
    Random::new(1).fill(&mut content);
    for fault in [
        Fault::CloseBeforeGreeting,
        Fault::WrongGreetingMagic,
        Fault::WrongOptionMagic,
        Fault::OversizeOptionLength,
        Fault::CloseAtOption,
        Fault::OversizeExportSize,
        Fault::TlsRequired,
        Fault::WrongReplyMagic,
        Fault::Error(wire::errno::EIO),
        Fault::Error(wire::errno::ESHUTDOWN),
        Fault::Error(4242),
        Fault::HugeErrorMessage,
        Fault::ErrorMessageOverrun,
        Fault::UnknownChunk(0x7abc),
        Fault::UnknownChunk(0x8abc),
        Fault::CloseBeforeReply,
        Fault::ResetBeforeReply,
        Fault::CloseMidHeader,
        Fault::CloseMidPayload,
        Fault::Crash,
        Fault::HugeChunkLength,
        Fault::DataOutOfRange,
        Fault::DataThenError,
        Fault::ErrorThenData,
        Fault::SimpleReplyToRead,
    ] {
        for builder in [Hostile::builder(), Hostile::builder().tcp()] {
            let builder = builder.content(&content);
            let server = builder
                .fault(fault.clone(), Trigger::Always)
                .fault_on(Occasion::Read, fault.clone(), Trigger::Nth(2))
                .start()
                .unwrap();
            assert!(!nbdcopy(&["--no-extents", &server.uri(), "null:"]), "{fault:?}");
            assert!(server.fired().contains(&fault), "{fault:?}");
        }
    }
}

/// The same of qemu's client, which asks for extended headers.
#[test]
fn qemu_notices_what_is_against_the_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.raw");
    let mut content = vec![0; 4 << 20];
    Random::new(1).fill(&mut content);
    for fault in [
        Fault::WrongReplyMagic,
        Fault::WrongCookie(0xa5a5),
        Fault::UnissuedReply,
        Fault::Error(wire::errno::EIO),
        Fault::ErrorMessageOverrun,
        Fault::UnknownChunk(0x7abc),
        Fault::CloseMidHeader,
        Fault::CloseMidPayload,
        Fault::HugeChunkLength,
        Fault::DataOutOfRange,
        Fault::DataThenError,
        Fault::ErrorThenData,
        Fault::SimpleReplyToRead,
    ] {
        for replies in [Replies::Structured, Replies::Extended] {
            let server = Hostile::builder()
                .content(&content)
                .replies(replies)
                .fault_on(Occasion::Read, fault.clone(), Trigger::Always)
                .start()
                .unwrap();
            let copied = convert_to_raw(server.uri().as_ref(), "raw", &copy);
            assert!(copied.is_err(), "{fault:?} {replies:?}");
            assert!(server.fired().contains(&fault), "{fault:?}");
        }
    }
}

#[test]
fn tls_can_be_refused() {
    let server =
        Hostile::builder().tcp().fault(Fault::TlsRefused, Trigger::Always).start().unwrap();
    assert!(!nbdcopy(&[&server.uri().replace("nbd://", "nbds://"), "null:"]));
    assert_eq!(server.fired(), [Fault::TlsRefused]);
}

#[test]
fn a_write_can_be_broken_off_in_its_payload() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir);
    let server = Hostile::builder()
        .size(SIZE)
        .fault(Fault::CloseInRequest, Trigger::Nth(2))
        .start()
        .unwrap();
    assert!(!nbdcopy(&[disk.path.to_str().unwrap(), &server.uri()]));
    assert_eq!(server.fired(), [Fault::CloseInRequest]);
}

#[test]
fn a_crash_loses_what_was_not_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir);
    let path = disk.path.to_str().unwrap().to_owned();
    let server = Hostile::builder()
        .size(SIZE)
        .lose_unflushed()
        .fault_on(Occasion::Flush, Fault::CloseBeforeReply, Trigger::Nth(2))
        .start()
        .unwrap();
    assert!(nbdcopy(&[&path, &server.uri()]));
    server.crash();
    assert!(server.content().iter().all(|&byte| byte == 0));
    assert!(nbdcopy(&["--flush", "--connections=1", &path, &server.uri()]));
    server.crash();
    assert!(server.content() == disk.content().unwrap());
}

#[test]
fn one_client_at_once_means_silence_for_the_second() {
    let server = Hostile::builder().at_once(1).start().unwrap();
    let mut first = server.address().connect().unwrap();
    let mut greeting = [0; 18];
    std::io::Read::read_exact(&mut first, &mut greeting).unwrap();
    let mut info = Command::new("nbdinfo");
    info.args(["--size", &server.uri()]);
    let mut second = blockferry_doubles::Child::spawn(info).unwrap();
    second.wait(Duration::from_millis(200)).unwrap_err();
    drop(first);
    assert!(second.wait(DEADLINE).unwrap().success());
}

#[test]
fn faults_that_stall_end_with_the_server() {
    for fault in [
        Fault::NoGreeting,
        Fault::StallAtOption,
        Fault::EndlessOptionReplies,
        Fault::NoReply,
        Fault::HalfOpen,
        Fault::StallMidPayload,
    ] {
        let server = Hostile::builder().fault(fault.clone(), Trigger::Always).start().unwrap();
        let mut copy = Command::new("nbdcopy");
        copy.args([&server.uri(), "null:"]);
        let mut copy = blockferry_doubles::Child::spawn(copy).unwrap();
        copy.wait(Duration::from_millis(150)).unwrap_err();
        assert!(!server.fired().is_empty(), "{fault:?}");
        drop(server);
        assert!(!copy.wait(DEADLINE).unwrap().success(), "{fault:?}");
    }
}

#[test]
fn the_size_changes_on_reconnect() {
    let server = Hostile::builder().size(4096).size_on_reconnect(8192).start().unwrap();
    let size = || {
        let mut info = Command::new("nbdinfo");
        info.args(["--size", &server.uri()]);
        String::from_utf8(run_ok(info, DEADLINE).unwrap().stdout).unwrap()
    };
    assert_eq!((size().trim(), size().trim()), ("4096", "8192"));
}

#[test]
fn a_log_can_be_waited_for() {
    let server = Hostile::builder().start().unwrap();
    assert!(!server.wait_for_log(Duration::from_millis(10), |log| !log.is_empty()));
    let mut copy = Command::new("nbdcopy");
    copy.args([&server.uri(), "null:"]);
    let _copy = blockferry_doubles::Child::spawn(copy).unwrap();
    assert!(server.wait_for_log(DEADLINE, |log| {
        log.iter().any(|request| request.command == hostile::Command::Disc)
    }));
}
