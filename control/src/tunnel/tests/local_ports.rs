//! Ports that lead through a real sshd.

use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use blockferry_doubles::disk::compare_raw;
use blockferry_doubles::process::{Child, run_ok};
use blockferry_doubles::{PortBlock, Sshd, TestDisk};

use super::super::{LocalPortSettings, Tunnel, TunnelSettings};

const DEADLINE: Duration = Duration::from_secs(20);
/// The far end's loopback: it is the same machine here, so the same port has to be elsewhere.
const FAR: &str = "127.0.0.2";

#[test]
fn nbdcopy_goes_through_a_port_and_again_after_the_sessions_were_killed() {
    let block = PortBlock::take();
    let port = *block.range().start();
    let folder = tempfile::tempdir().unwrap();
    let disk = TestDisk::random(folder.path(), 24 << 20, 0.7, 7).unwrap();
    let image = TestDisk::sized(folder.path(), 24 << 20).unwrap();
    let mut export = Command::new("qemu-nbd");
    export.args(["--persistent", "--shared=0", "--format=raw", "--bind", FAR]);
    export.arg(format!("--port={port}")).arg(&image.path);
    let mut export = Child::spawn(export).unwrap();
    let started = Instant::now();
    while TcpStream::connect((FAR, port)).is_err() {
        assert!(export.is_running() && started.elapsed() < DEADLINE, "{}", export.stderr());
        thread::sleep(Duration::from_millis(5));
    }
    let options = format!("restrict,port-forwarding,permitopen=\"{FAR}:{port}\"");
    let sshd = Sshd::new().key_options(&options).start().unwrap();
    let settings = TunnelSettings::new(
        sshd.uri().parse().unwrap(),
        sshd.user().to_owned(),
        sshd.identity().to_owned(),
        sshd.known_hosts().unwrap(),
    );
    let tunnel = Tunnel::open(settings, |_| {}).unwrap();
    let ports =
        LocalPortSettings { ports: port..=port, host: FAR.into(), ..LocalPortSettings::default() };
    let _ports = tunnel.listen(ports).unwrap();
    let uri = format!("nbd://127.0.0.1:{port}");
    for seed in [8, 9] {
        disk.overwrite(0..4 << 20, seed).unwrap();
        let mut copy = Command::new("nbdcopy");
        copy.args(["--flush", "--connections=4"]).arg(&disk.path).arg(&uri);
        run_ok(copy, DEADLINE).unwrap();
        compare_raw(&disk.path, &image.path).unwrap();
        // Whoever connects is spread over the connections of the tunnel.
        let held: Vec<TcpStream> =
            (0..3).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
        let started = Instant::now();
        while sshd.sessions() < 2 {
            assert!(started.elapsed() < DEADLINE);
            thread::sleep(Duration::from_millis(5));
        }
        assert!(sshd.kill_sessions() > 1);
        drop(held);
    }
}
