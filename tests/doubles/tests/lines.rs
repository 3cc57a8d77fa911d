//! The proxy, with NBD and with plain bytes through it.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use blockferry_doubles::disk::compare_raw;
use blockferry_doubles::process::run_ok;
use blockferry_doubles::proxy::Line;
use blockferry_doubles::socket::{Listener, Stream};
use blockferry_doubles::{Address, Child, Hostile, Nbdkit, Proxy, TestDisk};

const DEADLINE: Duration = Duration::from_secs(60);

fn nbdcopy(from: &str, to: &str) -> Command {
    let mut command = Command::new("nbdcopy");
    command.args([from, to]);
    command
}

/// A client and the server's end of its connection, through a line.
fn ends(line: impl Fn(Line) -> Line) -> (Proxy, Stream, Stream) {
    let listener: Listener = Address::ANY_PORT.listen().unwrap();
    let proxy = line(Proxy::to(&listener.address().unwrap())).start().unwrap();
    let client = proxy.address().connect().unwrap();
    let server = listener.accept().unwrap();
    (proxy, client, server)
}

fn read_within(stream: &Stream, time: Duration) -> io::Result<u8> {
    let Stream::Tcp(tcp) = stream else { unreachable!("all are TCP here") };
    tcp.set_read_timeout(Some(time))?;
    let mut byte = [0];
    (&*tcp).read_exact(&mut byte)?;
    Ok(byte[0])
}

#[test]
fn nbdcopy_round_trip_through_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let disk = TestDisk::random(dir.path(), (4 << 20) + 99, 0.6, 8).unwrap();
    let server = Hostile::builder().size(disk.size).tcp().start().unwrap();
    for line in [Proxy::to(server.address()), Proxy::to(server.address()).unix()] {
        let proxy = line.delay(Duration::from_millis(3)).start().unwrap();
        run_ok(nbdcopy(disk.path.to_str().unwrap(), &proxy.uri("")), DEADLINE).unwrap();
        assert!(server.content() == disk.content().unwrap());
        let back = TestDisk::sized(dir.path(), disk.size).unwrap();
        run_ok(nbdcopy(&proxy.uri(""), back.path.to_str().unwrap()), DEADLINE).unwrap();
        compare_raw(&disk.path, &back.path).unwrap();
        assert!(proxy.up_bytes() > 0 && proxy.down_bytes() > 0 && proxy.accepted() > 0);
    }
}

#[test]
fn the_delay_is_that_of_the_line_and_not_of_each_chunk() {
    let (_proxy, mut client, mut server) =
        ends(|line| line.delay_up(Duration::from_millis(80)).delay_down(Duration::from_millis(20)));
    let start = Instant::now();
    client.write_all(&[1]).unwrap();
    read_within(&server, DEADLINE).unwrap();
    let up = start.elapsed();
    server.write_all(&[2]).unwrap();
    read_within(&client, DEADLINE).unwrap();
    let both = start.elapsed();
    assert!(
        up >= Duration::from_millis(80) && both >= Duration::from_millis(100),
        "{up:?} {both:?}"
    );

    // A thousand chunks, one after the other, are all on their way at once.
    let start = Instant::now();
    let reader = thread::spawn(move || {
        let mut bytes = vec![0; 1000];
        server.read_exact(&mut bytes).unwrap();
    });
    for _ in 0..1000 {
        client.write_all(&[3]).unwrap();
    }
    reader.join().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_narrow_line_takes_its_time() {
    let (_proxy, mut client, mut server) = ends(|line| line.bytes_per_second(4 << 20));
    let start = Instant::now();
    let writer = thread::spawn(move || {
        client.write_all(&vec![7; 1 << 20]).unwrap();
        client.shutdown(Shutdown::Write);
        client
    });
    let mut bytes = Vec::new();
    server.read_to_end(&mut bytes).unwrap();
    let took = start.elapsed();
    assert_eq!(bytes.len(), 1 << 20);
    assert!(took >= Duration::from_millis(249), "{took:?}");
    // An end in one direction leaves the other open.
    let client = writer.join().unwrap();
    server.write_all(&[9]).unwrap();
    assert_eq!(read_within(&client, DEADLINE).unwrap(), 9);
}

#[test]
fn a_cut_resets_both_ends_and_new_connections_work() {
    let (proxy, client, server) = ends(|line| line);
    proxy.cut();
    for end in [&client, &server] {
        let error = read_within(end, DEADLINE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    assert_eq!(proxy.connections(), 0);

    let nbdkit = Nbdkit::pattern(1 << 20).tcp().start().unwrap();
    let proxy = Proxy::to(nbdkit.address()).start().unwrap();
    run_ok(nbdcopy(&proxy.uri(""), "null:"), DEADLINE).unwrap();
    proxy.cut();
    run_ok(nbdcopy(&proxy.uri(""), "null:"), DEADLINE).unwrap();
}

#[test]
fn a_frozen_line_moves_nothing_and_loses_nothing() {
    let (proxy, mut client, server) = ends(|line| line);
    client.write_all(&[1]).unwrap();
    assert_eq!(read_within(&server, DEADLINE).unwrap(), 1);
    proxy.freeze();
    client.write_all(&[2]).unwrap();
    read_within(&server, Duration::from_millis(100)).unwrap_err();
    proxy.thaw();
    assert_eq!(read_within(&server, DEADLINE).unwrap(), 2);
}

#[test]
fn a_copy_hangs_while_frozen_and_fails_when_cut() {
    let nbdkit = Nbdkit::pattern(256 << 20).tcp().start().unwrap();
    let proxy = Proxy::to(nbdkit.address()).bytes_per_second(8 << 20).start().unwrap();
    let mut copy = Child::spawn(nbdcopy(&proxy.uri(""), "null:")).unwrap();
    assert!(proxy.wait_for_bytes(0, 1 << 20, DEADLINE));
    proxy.freeze();
    let before = proxy.down_bytes();
    copy.wait(Duration::from_millis(100)).unwrap_err();
    // At most the chunk that was under way when it froze.
    assert!(proxy.down_bytes() - before <= 4 * (64 << 10));
    proxy.cut();
    assert!(!copy.wait(DEADLINE).unwrap().success());
}

#[test]
fn a_refusing_line_takes_nobody_new_and_keeps_the_rest() {
    let (proxy, mut client, server) = ends(|line| line);
    proxy.refuse(true);
    if let Ok(new) = proxy.address().connect() {
        read_within(&new, DEADLINE).unwrap_err();
    }
    client.write_all(&[5]).unwrap();
    assert_eq!(read_within(&server, DEADLINE).unwrap(), 5);
}

#[test]
fn the_end_of_a_side_reaches_the_other() {
    let (_proxy, client, server) = ends(|line| line.delay(Duration::from_millis(1)));
    drop(client);
    let error = read_within(&server, DEADLINE).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);

    let listener = Address::ANY_PORT.listen().unwrap();
    let nobody = listener.address().unwrap();
    drop(listener);
    let proxy = Proxy::to(&nobody).start().unwrap();
    if let Ok(client) = proxy.address().connect() {
        read_within(&client, DEADLINE).unwrap_err();
    }
}
