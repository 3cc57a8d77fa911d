//! Peers that do not log in.

use std::net::TcpStream;

use super::forwarding::{dial, echoes};
use super::*;

pub(super) fn impatient() -> EndpointSettings {
    EndpointSettings {
        login_deadline: Duration::from_millis(500),
        strangers: 4,
        ..EndpointSettings::default()
    }
}

/// Whether the endpoint hangs up, whatever it says before.
pub(super) fn is_hung_up_on(socket: &mut TcpStream) -> bool {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 4096];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn who_says_nothing_or_garbage_or_goes_on_for_ever_is_hung_up_on_and_disturbs_nobody() {
    let rig = Rig::with(impatient());
    let port = echo(&rig.list);
    let tunnel = rig.tunnel();
    let mut good = dial(&tunnel, port);
    assert!(echoes(&mut good, b"before"));
    let garbage: Vec<u8> =
        (0..1 << 16).map(|i: u32| i.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let longest = vec![b'A'; 1 << 20];
    let half = b"SSH-2.0-half\r\n\xff\xff\xff\xff".to_vec();
    for said in
        [&b""[..], &garbage, &longest, &half, b"SSH-2.0-quiet\r\n", b"GET / HTTP/1.1\r\n\r\n"]
    {
        let mut socket = TcpStream::connect(rig.endpoint.address()).unwrap();
        // It may be hung up on before all is said.
        let _cut = socket.write_all(said);
        assert!(is_hung_up_on(&mut socket), "{:?}", &said[..said.len().min(16)]);
    }
    assert!(echoes(&mut good, b"after"));
}

#[test]
fn an_endpoint_that_is_dropped_says_goodbye() {
    let rig = Rig::new();
    let port = echo(&rig.list);
    let tunnel = rig.tunnel();
    let mut stream = dial(&tunnel, port);
    assert!(echoes(&mut stream, b"here"));
    drop(rig.endpoint);
    assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0);
}
