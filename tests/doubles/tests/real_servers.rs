//! The real servers, seen by libnbd's and qemu's clients.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

use std::io;
use std::process::Command;
use std::time::Duration;

use blockferry_doubles::disk::{compare, qemu_img_create};
use blockferry_doubles::process::{run, run_ok};
use blockferry_doubles::{Nbdkit, QemuNbd, Server, TestDisk};

const DEADLINE: Duration = Duration::from_secs(60);

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

fn size_of(server: &Server) -> u64 {
    let output = run_ok(command("nbdinfo", &["--size", &server.uri()]), DEADLINE).unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

#[test]
fn nbdkit_plugins_answer_on_both_transports() {
    let size = 1 << 20;
    for nbdkit in [
        Nbdkit::memory(size),
        Nbdkit::pattern(size).tcp(),
        Nbdkit::null(size).threads(1),
        Nbdkit::sparse_random(size, 7).tcp(),
        Nbdkit::data("@1048575 0").read_only(),
    ] {
        assert_eq!(size_of(&nbdkit.start().unwrap()), size);
    }
}

#[test]
fn nbdkit_filters_get_their_parameters() {
    let server = Nbdkit::pattern(1 << 20)
        .filter("error", &["error-pread=EIO", "error-pread-rate=100%"])
        .start()
        .unwrap();
    let output = run(command("nbdcopy", &[&server.uri(), "null:"]), DEADLINE).unwrap();
    assert!(!output.status.success());
}

#[test]
fn a_file_goes_through_nbdkit_and_qemu_nbd_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let disk = TestDisk::random(dir.path(), 8 << 20, 0.5, 1).unwrap();
    let image = dir.path().join("target.qcow2");
    qemu_img_create(&image, "qcow2", disk.size, None).unwrap();
    let source = Nbdkit::file(&disk.path).read_only().tcp().start().unwrap();
    let mut target = QemuNbd::new(&image)
        .format("qcow2")
        .shared(4)
        .export("disk one/ü")
        .env("MALLOC_TOP_PAD_", "1048576")
        .tcp()
        .start()
        .unwrap();
    run_ok(command("nbdcopy", &["--flush", &source.uri(), &target.uri()]), DEADLINE).unwrap();
    target.child.term_and_wait(DEADLINE).unwrap();
    compare(&disk.path, &image, "qcow2").unwrap();
}

#[test]
fn qemu_nbd_offers_a_bitmap() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.qcow2");
    qemu_img_create(&image, "qcow2", 1 << 20, None).unwrap();
    let path = image.to_str().unwrap();
    run_ok(command("qemu-img", &["bitmap", "--add", path, "changed"]), DEADLINE).unwrap();
    let server =
        QemuNbd::new(&image).format("qcow2").read_only().bitmap("changed").start().unwrap();
    let list = run_ok(command("nbdinfo", &["--json", &server.uri()]), DEADLINE).unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(list.contains("qemu:dirty-bitmap:changed"), "{list}");
}

#[test]
fn a_killed_server_refuses_and_comes_back_at_its_address() {
    for tcp in [false, true] {
        let nbdkit = Nbdkit::memory(1 << 20);
        let mut server = if tcp { nbdkit.tcp() } else { nbdkit }.start().unwrap();
        server.wait_ready(DEADLINE).unwrap();
        let uri = server.uri();
        server.child.kill().unwrap();
        let refused = server.address().connect().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        server.restart().unwrap();
        assert_eq!(uri, server.uri());
        assert_eq!(size_of(&server), 1 << 20);
    }
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let server = QemuNbd::new("/nonexistent/image").start().unwrap();
    let error = server.wait_ready(DEADLINE).unwrap_err().to_string();
    assert!(!error.is_empty());
    let mut server = server;
    server.child.wait(DEADLINE).unwrap();
    assert!(server.stderr().contains("nonexistent"), "{}", server.stderr());
}
