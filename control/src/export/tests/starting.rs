//! When an export is ready, and why it is not.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn a_port_in_use_is_named() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let error = Listener::tcp(port).unwrap_err();
    assert!(matches!(error, ExportError::PortInUse { .. }), "{error}");
    assert!(error.to_string().contains(&format!("port {port} of 127.0.0.1")), "{error}");
}

#[test]
fn an_export_that_dies_at_start_is_noticed_while_its_address_is_held() {
    let mut bench = Bench::new();
    bench.script("echo 'qemu-nbd: no luck today' >&2; exit 3");
    let spec = bench.spec(&bench.image("a"), ExportAccess::Writable);
    let _held = spec.listener.clone();
    let asked = Instant::now();
    let error = Export::start(spec, &bench.settings).unwrap_err();
    assert!(matches!(error, ExportError::DiedAtStart { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("status 3") && text.contains("no luck today"), "{text}");
    assert!(asked.elapsed() < bench.settings.start_deadline / 2);
}

#[test]
fn a_missing_image_is_named() {
    let bench = Bench::new();
    let error = bench.start(&bench.path("nope"), ExportAccess::Writable).unwrap_err();
    assert!(matches!(error, ExportError::ImageMissing { .. }), "{error}");
}

#[test]
fn a_locked_image_is_told() {
    let bench = Bench::new();
    let image = bench.image("a");
    let first = bench.start(&image, ExportAccess::Writable).unwrap();
    let error = bench.start(&image, ExportAccess::Writable).unwrap_err();
    assert!(matches!(error, ExportError::Locked { .. }), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
    first.end().unwrap();
}

#[test]
fn a_missing_backing_file_is_told() {
    let bench = Bench::new();
    let base = bench.image("base");
    let delta = bench.path("delta");
    Image::create(&delta, 16 * MIB, Some(&base), ImageTool::default()).unwrap();
    fs::remove_file(&base).unwrap();
    let error = bench.start(&delta, ExportAccess::Writable).unwrap_err();
    assert!(matches!(error, ExportError::BackingMissing { .. }), "{error}");
}

#[test]
fn a_missing_qemu_nbd_says_what_to_install() {
    let mut bench = Bench::new();
    bench.settings.program = "no-such-qemu-nbd".into();
    let error = bench.start(&bench.image("a"), ExportAccess::Writable).unwrap_err().to_string();
    assert!(error.contains("no-such-qemu-nbd") && error.contains("qemu-utils"), "{error}");
}

#[test]
fn an_export_is_not_called_ready_before_its_image_is_opened() {
    let mut bench = Bench::new();
    let image = bench.image("a");
    let gate = bench.path("gate");
    let made = Command::new("mkfifo").arg(&gate).status().unwrap();
    assert!(made.success());
    bench.script(&format!("read go <'{}'; exec qemu-nbd \"$@\"", gate.display()));
    let spec = bench.spec(&image, ExportAccess::Writable);
    let settings = bench.settings.clone();
    let (sender, ready) = mpsc::channel();
    let starting = thread::spawn(move || {
        let export = Export::start(spec, &settings).unwrap();
        sender.send(()).unwrap();
        export
    });
    // Opening it for writing waits until the script has come to reading it.
    let mut open = fs::OpenOptions::new().write(true).open(&gate).unwrap();
    assert_eq!(
        ready.recv_timeout(Duration::from_millis(200)),
        Err(mpsc::RecvTimeoutError::Timeout)
    );
    std::io::Write::write_all(&mut open, b"go\n").unwrap();
    ready.recv_timeout(PATIENCE).unwrap();
    starting.join().unwrap().end().unwrap();
}

#[test]
fn an_export_that_does_not_greet_in_time_is_ended_and_the_wait_is_named() {
    let mut bench = Bench::new();
    bench.script("echo asleep >&2; echo $$ > \"${0%/*}/pid\"; exec sleep 600");
    bench.settings.start_deadline = Duration::from_millis(500);
    let error = bench.start(&bench.image("a"), ExportAccess::Writable).unwrap_err();
    assert!(matches!(error, ExportError::NotReady { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("greeting") && text.contains("asleep"), "{text}");
    let pid = fs::read_to_string(bench.path("pid")).unwrap().trim().parse().unwrap();
    assert!(is_gone(pid));
}
