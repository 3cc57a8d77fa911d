use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use blockferry_dataplane::Dial;
use blockferry_doubles::{SshServer, Sshd};

use super::super::{FarEnd, Tunnel, TunnelSettings};

const DEADLINE: Duration = Duration::from_secs(20);

/// A tunnel to an sshd, and a listener at its far end.
struct Place {
    sshd: SshServer,
    listener: TcpListener,
    tunnel: Tunnel,
    events: Arc<Mutex<Vec<String>>>,
}

impl Place {
    fn new(connections: usize) -> Self {
        let sshd = Sshd::new().start().unwrap();
        let settings = TunnelSettings::new(
            sshd.uri().parse().unwrap(),
            sshd.user().to_owned(),
            sshd.identity().to_owned(),
            sshd.known_hosts().unwrap(),
        );
        let events = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&events);
        let settings = TunnelSettings { connections, ..settings }.with_deadline(DEADLINE);
        let tunnel = Tunnel::open(settings, move |event| {
            heard.lock().unwrap().push(event.to_string());
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { sshd, listener, tunnel: tunnel.unwrap(), events }
    }

    /// Both ends of a channel.
    fn channel(&self) -> (UnixStream, TcpStream) {
        let near = self.dial(self.listener.local_addr().unwrap().port());
        (near, self.listener.accept().unwrap().0)
    }

    fn dial(&self, port: u16) -> UnixStream {
        let dialer = self.tunnel.dialer(FarEnd::Tcp { host: "127.0.0.1".into(), port });
        let near = UnixStream::from(dialer.dial().unwrap());
        near.set_read_timeout(Some(DEADLINE)).unwrap();
        near
    }

    fn channels(&self) -> Vec<usize> {
        self.tunnel.figures().iter().map(|figures| figures.channels).collect()
    }

    fn wait_for_channels(&self, expected: &[usize]) {
        let started = Instant::now();
        while self.channels() != expected {
            assert!(started.elapsed() < DEADLINE, "{:?}, not {expected:?}", self.channels());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn what_is_said_on_either_side_is_heard_on_the_other_to_its_end() {
    let place = Place::new(1);
    let (mut near, mut far) = place.channel();
    near.write_all(b"a question").unwrap();
    let mut question = [0; 10];
    far.read_exact(&mut question).unwrap();
    assert_eq!(&question, b"a question");
    let answer: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            far.write_all(&answer).unwrap();
            drop(far);
        });
        let mut heard = Vec::new();
        near.read_to_end(&mut heard).unwrap();
        assert!(heard == answer, "{} of {} bytes", heard.len(), answer.len());
    });
    place.wait_for_channels(&[0]);
    let figures = place.tunnel.figures()[0];
    assert_eq!((figures.sent, figures.received, figures.lost), (10, 4_000_000, 0));
}

#[test]
fn the_last_words_of_a_lane_arrive_though_it_hangs_up_at_once() {
    let place = Place::new(1);
    let (mut near, mut far) = place.channel();
    let words = vec![7; 3 << 20];
    thread::scope(|scope| {
        scope.spawn(move || near.write_all(&words).unwrap());
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).unwrap();
        assert_eq!(heard.len(), 3 << 20);
    });
}

#[test]
fn a_channel_whose_far_end_takes_nothing_goes_with_its_lane() {
    let place = Place::new(1);
    let (mut near, far) = place.channel();
    near.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let full = loop {
        if let Err(error) = near.write_all(&[0; 1 << 16]) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(place.channels(), [1]);
    drop(near);
    place.wait_for_channels(&[0]);
    drop(far);
}

#[test]
fn a_channel_whose_far_end_takes_nothing_holds_up_no_other() {
    let place = Place::new(1);
    let (mut full, _far) = place.channel();
    full.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while full.write_all(&[0; 1 << 16]).is_ok() {}
    let (mut near, mut far) = place.channel();
    let words = vec![7; 3 << 20];
    thread::scope(|scope| {
        scope.spawn(|| near.write_all(&words).unwrap());
        far.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut heard = vec![0; words.len()];
        far.read_exact(&mut heard).unwrap();
        assert!(heard == words);
    });
    assert_eq!(place.channels(), [2]);
}

#[test]
fn channels_go_to_the_connection_that_has_the_fewest() {
    let place = Place::new(3);
    let mut channels: Vec<_> = (0..7).map(|_| place.channel()).collect();
    assert_eq!(place.channels(), [3, 2, 2]);
    assert_eq!(place.sshd.sessions(), 3);
    // Each connection is given two before there is another one.
    channels.drain(3..5);
    place.wait_for_channels(&[3, 1, 1]);
    channels.push(place.channel());
    channels.push(place.channel());
    assert_eq!(place.channels(), [3, 2, 2]);
}

#[test]
fn a_lost_connection_closes_its_lanes_and_is_made_anew_for_the_next() {
    let place = Place::new(1);
    let lanes: Vec<_> = (0..3).map(|_| place.channel()).collect();
    assert_eq!(place.sshd.kill_sessions(), 1);
    for (mut near, _far) in lanes {
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
    }
    let (mut near, mut far) = place.channel();
    near.write_all(b"x").unwrap();
    far.read_exact(&mut [0]).unwrap();
    assert_eq!(place.tunnel.figures()[0].lost, 1);
    let events = place.events.lock().unwrap();
    assert!(events.iter().any(|event| event.contains("connection 1 is lost")), "{events:?}");
}

#[test]
fn a_refused_channel_closes_its_lane_and_disturbs_no_other() {
    let place = Place::new(1);
    let (mut near, mut far) = place.channel();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut refused = place.dial(nobody);
    assert_eq!(refused.read(&mut [0]).unwrap(), 0);
    near.write_all(b"x").unwrap();
    far.read_exact(&mut [0]).unwrap();
    assert_eq!(place.tunnel.figures()[0].lost, 0);
    let events = place.events.lock().unwrap();
    assert!(events.iter().any(|event| event.contains("nobody listens there")), "{events:?}");
}

#[test]
fn a_tunnel_that_is_dropped_ends_its_sessions() {
    let Place { sshd, tunnel, listener: _, events: _ } = Place::new(1);
    assert_eq!(sshd.sessions(), 1);
    drop(tunnel);
    let started = Instant::now();
    while sshd.sessions() > 0 {
        assert!(started.elapsed() < DEADLINE);
        thread::sleep(Duration::from_millis(5));
    }
}
