//! Bytes through a session.

use std::io::{Read, Write};
use std::time::Duration;

use blockferry_doubles::{Nbdkit, Server};

use super::authority::Authority;
use super::client::{Client, nbdkit, secure};
use super::{end_of, peer};
use crate::nbd::Command;

const DISK_BYTES: usize = 24 << 20;
const REQUEST_BYTES: usize = 1 << 20;

/// Content in which every 8 bytes differ.
fn content(length: usize) -> Vec<u8> {
    (0..length / 8)
        .flat_map(|at| (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes())
        .collect()
}

fn writes_and_reads_back(server: &Server, client: &mut Client) {
    let data = content(DISK_BYTES);
    for (at, part) in data.chunks(REQUEST_BYTES).enumerate() {
        client.write((at * REQUEST_BYTES) as u64, part).unwrap();
    }
    let mut back = vec![0; DISK_BYTES];
    for (at, part) in back.chunks_mut(REQUEST_BYTES).enumerate() {
        client.read((at * REQUEST_BYTES) as u64, part).unwrap();
    }
    assert!(back == data, "what was read is not what was written; {}", server.stderr());
}

#[test]
fn what_is_written_over_tcp_is_read_back() {
    let folder = Authority::new().server(&["127.0.0.1"]);
    let server = nbdkit(Nbdkit::memory(DISK_BYTES as u64), folder.path()).tcp().start().unwrap();
    let mut client = Client::open(&server, &secure(&server, Some(folder.path()), "")).unwrap();
    writes_and_reads_back(&server, &mut client);
    assert_eq!(client.upgrade.failure(), None);
}

#[test]
fn what_is_written_over_a_unix_socket_is_read_back() {
    let folder = Authority::new().server(&["localhost"]);
    let server = nbdkit(Nbdkit::memory(DISK_BYTES as u64), folder.path()).unix().start().unwrap();
    let mut client = Client::open(&server, &secure(&server, Some(folder.path()), "")).unwrap();
    writes_and_reads_back(&server, &mut client);
}

#[test]
fn many_requests_at_once_wait_for_a_slow_reader() {
    let folder = Authority::new().server(&["127.0.0.1"]);
    let server = nbdkit(Nbdkit::memory(DISK_BYTES as u64), folder.path()).tcp().start().unwrap();
    let mut client = Client::open(&server, &secure(&server, Some(folder.path()), "")).unwrap();
    let data = content(DISK_BYTES);
    let offsets = || (0..DISK_BYTES as u64).step_by(REQUEST_BYTES);
    for (offset, part) in offsets().zip(data.chunks(REQUEST_BYTES)) {
        client.send(Command::Write, offset, REQUEST_BYTES as u64).unwrap();
        client.stream.write_all(part).unwrap();
    }
    for _ in offsets() {
        client.acknowledged().unwrap();
    }
    for offset in offsets() {
        client.send(Command::Read, offset, REQUEST_BYTES as u64).unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    let mut part = vec![0; REQUEST_BYTES];
    for _ in offsets() {
        // Replies come in any order; the cookie of a request here is its offset.
        let offset = client.acknowledged().unwrap();
        client.stream.read_exact(&mut part).unwrap();
        let offset = usize::try_from(offset).unwrap();
        assert!(part == data[offset..offset + REQUEST_BYTES], "damaged at {offset}");
    }
}

#[test]
fn a_direction_that_is_blocked_does_not_hold_the_other_up() {
    const BYTES: usize = 8 << 20;
    let peer = peer::secured(|mut tls| {
        // Reads nothing before all is sent, which the client has to take in the meantime.
        tls.write_all(&content(BYTES)).unwrap();
        let mut all = vec![0; BYTES];
        tls.read_exact(&mut all).unwrap();
        all
    });
    let mut out = peer.near.try_clone().unwrap();
    let writer = std::thread::spawn(move || out.write_all(&content(BYTES)).unwrap());
    let mut near = peer.near;
    let mut all = vec![0; BYTES];
    std::thread::sleep(Duration::from_millis(100));
    near.read_exact(&mut all).unwrap();
    assert!(all == content(BYTES));
    writer.join().unwrap();
    assert!(peer.server.join().unwrap() == content(BYTES));
}

#[test]
fn what_is_written_before_the_handshake_ends_waits_for_it() {
    let peer = peer::raw(|mut stream| {
        std::thread::sleep(Duration::from_millis(50));
        let mut start = [0; 3];
        stream.read_exact(&mut start).unwrap();
        start
    });
    (&peer.near).write_all(b"NBDNBDNBD").unwrap();
    // A handshake record, and not what the near end wrote.
    assert_eq!(peer.server.join().unwrap()[..2], [22, 3]);
    drop(peer.near);
    end_of(&peer.upgrade);
}
