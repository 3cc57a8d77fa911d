use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::stream::Buffered;

const ROUNDS: u32 = 60;
/// What the kernel puts an acknowledgement off by, where nobody asks for it.
const PUT_OFF: Duration = Duration::from_millis(40);

#[tokio::test]
async fn a_peer_with_nagles_algorithm_is_not_waited_for() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let peer = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut asked = [0; 1];
        for _ in 0..ROUNDS {
            socket.read_exact(&mut asked).unwrap();
            // The second one is kept back until the first one is acknowledged.
            socket.write_all(b"first").unwrap();
            socket.write_all(b"second").unwrap();
        }
    });

    let mut socket = Buffered::from(TcpStream::connect(address).await.unwrap());
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        socket.write_all(b"?").await.unwrap();
        let mut answer = [0; 11];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"firstsecond");
    }
    let took = begun.elapsed();

    peer.join().unwrap();
    assert!(took < PUT_OFF * ROUNDS / 4, "{ROUNDS} answers took {took:?}");
}
