//! How sessions end, and that they always do.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use blockferry_doubles::Nbdkit;

use super::authority::Authority;
use super::client::{Client, nbdkit, secure};
use super::{end_of, peer};
use crate::nbd::Command;
use crate::tls::session::LINGER;

/// Longer than a session may live on that has something to hand over, with what a loaded machine
/// adds.
const PROMPT: Duration = LINGER.saturating_mul(2);
/// What a loaded machine adds to a session that has nothing to hand over.
const AT_ONCE: Duration = Duration::from_secs(2);

#[test]
fn a_server_that_takes_leave_ends_the_near_end_without_failure() {
    let peer = peer::secured(|mut tls| {
        tls.write_all(b"the last words").unwrap();
        tls.conn.send_close_notify();
        tls.flush().unwrap();
    });
    let mut all = Vec::new();
    (&peer.near).read_to_end(&mut all).unwrap();
    assert_eq!(all, b"the last words");
    assert_eq!(peer.upgrade.failure(), None);
    end_of(&peer.upgrade);
    peer.server.join().unwrap();
}

#[test]
fn a_stream_cut_off_is_a_failure_after_all_that_came_is_delivered() {
    let peer = peer::secured(|mut tls| {
        tls.write_all(b"and then").unwrap();
        tls.sock.shutdown(std::net::Shutdown::Both).unwrap();
    });
    let mut all = Vec::new();
    (&peer.near).read_to_end(&mut all).unwrap();
    assert_eq!(all, b"and then");
    let reason = peer.upgrade.failure().unwrap();
    assert!(reason.contains("without ending the TLS session"), "{reason}");
    peer.server.join().unwrap();
}

#[test]
fn a_forged_record_is_a_failure() {
    let peer = peer::secured(|mut tls| {
        let mut forged = vec![23, 3, 3, 0, 64];
        forged.extend([0x5A; 64]);
        tls.sock.write_all(&forged).unwrap();
        let mut alert = Vec::new();
        tls.sock.read_to_end(&mut alert).unwrap();
    });
    assert_eq!((&peer.near).read(&mut [0; 8]).unwrap(), 0);
    let reason = peer.upgrade.failure().unwrap();
    assert!(reason.contains("damaged or forged"), "{reason}");
    peer.server.join().unwrap();
}

#[test]
fn a_server_without_tls_is_a_failure() {
    let peer = peer::raw(|mut stream| {
        stream.write_all(b"NBDMAGICIHAVEOPT and so on, all in the clear").unwrap();
        let mut rest = Vec::new();
        let _reset = stream.read_to_end(&mut rest);
    });
    assert_eq!((&peer.near).read(&mut [0; 8]).unwrap(), 0);
    let reason = peer.upgrade.failure().unwrap();
    assert!(reason.contains("does not speak proper TLS"), "{reason}");
    peer.server.join().unwrap();
}

#[test]
fn a_server_that_hangs_up_in_the_handshake_is_a_failure() {
    let peer = peer::raw(drop);
    assert_eq!((&peer.near).read(&mut [0; 8]).unwrap(), 0);
    let reason = peer.upgrade.failure().unwrap();
    assert!(reason.contains("during the TLS handshake"), "{reason}");
    peer.server.join().unwrap();
}

#[test]
fn what_was_written_before_the_end_reaches_the_server() {
    let peer = peer::secured(|mut tls| {
        let mut all = Vec::new();
        // An error here would be a stream that ended without close_notify.
        tls.read_to_end(&mut all).unwrap();
        all
    });
    let data = vec![7; 1 << 20];
    (&peer.near).write_all(&data).unwrap();
    drop(peer.near);
    assert!(peer.server.join().unwrap() == data);
    end_of(&peer.upgrade);
    assert_eq!(peer.upgrade.failure(), None);
}

/// Seen with the tickets that follow a handshake: they met a closed socket, and the reset that
/// answered them took what the server had yet to read.
#[test]
fn a_server_that_speaks_after_the_near_end_went_still_gets_what_was_written() {
    let peer = peer::secured(|mut tls| {
        let (mut all, mut some) = (Vec::new(), [0; 4096]);
        loop {
            tls.write_all(b"!")?;
            match tls.read(&mut some)? {
                0 => return Ok::<_, std::io::Error>(all),
                count => all.extend_from_slice(&some[..count]),
            }
        }
    });
    // More than the server's socket takes at a time.
    let data = vec![7; 1 << 20];
    (&peer.near).write_all(&data).unwrap();
    drop(peer.near);
    assert!(peer.server.join().unwrap().unwrap() == data);
    end_of(&peer.upgrade);
    assert_eq!(peer.upgrade.failure(), None);
}

#[test]
fn a_handshake_that_stalls_ends_with_the_near_end() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let peer = peer::raw(move |_stream| released.recv());
    (&peer.near).write_all(b"waiting already").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(peer.upgrade.runs());
    peer.near.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(end_of(&peer.upgrade) < AT_ONCE);
    drop(release);
    let _hung_up = peer.server.join().unwrap();
}

#[test]
fn a_server_killed_in_the_middle_is_a_failure() {
    let folder = Authority::new().server(&["127.0.0.1"]);
    let mut server = nbdkit(Nbdkit::memory(64 << 20), folder.path()).tcp().start().unwrap();
    let mut client = Client::open(&server, &secure(&server, Some(folder.path()), "")).unwrap();
    for at in 0..32 {
        client.send(Command::Read, at << 20, 1 << 20).unwrap();
    }
    client.acknowledged().unwrap();
    server.child.kill().unwrap();
    let mut rest = Vec::new();
    // An end of file or a reset, but an end.
    let _ended = client.stream.read_to_end(&mut rest);
    let reason = client.upgrade.failure().unwrap();
    assert!(reason.contains("without ending the TLS session"), "{reason}");
    end_of(&client.upgrade);
}

#[test]
fn a_stopped_server_does_not_keep_a_session_whose_near_end_is_shut_down() {
    let folder = Authority::new().server(&["127.0.0.1"]);
    let server = nbdkit(Nbdkit::memory(256 << 20), folder.path()).tcp().start().unwrap();
    let mut client = Client::open(&server, &secure(&server, Some(folder.path()), "")).unwrap();
    server.child.stop().unwrap();
    let mut out = client.stream.try_clone().unwrap();
    // More than all buffers on the way can hold, so that the session is blocked in the middle.
    client.send(Command::Write, 0, 32 << 20).unwrap();
    let writer = std::thread::spawn(move || out.write_all(&vec![1; 32 << 20]));
    std::thread::sleep(Duration::from_millis(300));
    assert!(client.upgrade.runs() && !writer.is_finished());
    client.near.shutdown();
    assert!(end_of(&client.upgrade) < PROMPT);
    writer.join().unwrap().unwrap_err();
    assert_eq!(client.upgrade.failure(), None);
    server.child.cont().unwrap();
}

#[test]
fn a_near_end_that_is_dropped_ends_the_session_at_once() {
    let folder = Authority::new().server(&["127.0.0.1"]);
    let server = nbdkit(Nbdkit::memory(1 << 20), folder.path()).tcp().start().unwrap();
    let Client { upgrade, near, stream, .. } =
        Client::open(&server, &secure(&server, Some(folder.path()), "")).unwrap();
    drop((near, stream));
    assert!(end_of(&upgrade) < AT_ONCE);
    assert_eq!(upgrade.failure(), None);
}

#[test]
fn settling_waits_for_our_leave_and_not_for_a_stuck_server() {
    let peer = peer::secured(|mut tls| {
        tls.write_all(b"!").unwrap();
        let mut all = Vec::new();
        tls.read_to_end(&mut all).map(|_| all)
    });
    // A near end that goes during the handshake has nothing to settle.
    (&peer.near).read_exact(&mut [0]).unwrap();
    (&peer.near).write_all(b"disconnect").unwrap();
    drop(peer.near);
    peer.upgrade.settle();
    assert!(!peer.upgrade.runs());
    assert_eq!(peer.server.join().unwrap().unwrap(), b"disconnect");

    let (release, released) = std::sync::mpsc::channel::<()>();
    let peer = peer::secured(move |_tls| released.recv());
    let start = Instant::now();
    peer.upgrade.settle();
    assert!(start.elapsed() < PROMPT && peer.upgrade.runs());
    drop((release, peer.near));
    end_of(&peer.upgrade);
}
