//! What goes through.

use std::os::unix::net::UnixStream;

use blockferry_dataplane::{Dial, Endpoint as LaneEnd, Lane, Mover, MoverSettings};
use blockferry_doubles::disk::compare_raw;
use blockferry_doubles::{Nbdkit, QemuNbd, TestDisk};

use super::*;
use crate::tunnel::FarEnd;

pub(super) fn dial(tunnel: &Tunnel, port: u16) -> UnixStream {
    let far = FarEnd::Tcp { host: "127.0.0.1".into(), port };
    let stream = UnixStream::from(tunnel.dialer(far).dial().unwrap());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nonblocking(false).unwrap();
    stream
}

/// Whether what is sent comes back.
pub(super) fn echoes(stream: &mut UnixStream, text: &[u8]) -> bool {
    let mut back = vec![0; text.len()];
    stream.write_all(text).is_ok() && stream.read_exact(&mut back).is_ok() && back == text
}

#[test]
fn bytes_come_back_as_they_were_sent_on_many_channels_at_once() {
    let rig = Rig::new();
    let port = echo(&rig.list);
    let tunnel = rig.tunnel();
    let mut streams: Vec<_> = (0..20).map(|_| dial(&tunnel, port)).collect();
    for round in 0..50_u8 {
        for (index, stream) in streams.iter_mut().enumerate() {
            let text = vec![round ^ u8::try_from(index).unwrap(); 3000];
            assert!(echoes(stream, &text), "round {round}, channel {index}");
        }
    }
    let figures = tunnel.figures();
    assert_eq!(figures.len(), 1);
    assert_eq!((figures[0].channels, figures[0].sent), (20, 20 * 50 * 3000));
}

#[test]
fn a_disk_that_is_copied_through_it_equals_its_source() {
    let rig = Rig::new();
    let disk = TestDisk::random(rig.folder.path(), 24 << 20, 0.7, 7).unwrap();
    let source = Nbdkit::file(&disk.path).unix().start().unwrap();
    let image = TestDisk::sized(rig.folder.path(), 24 << 20).unwrap();
    let target = QemuNbd::new(&image.path).format("raw").tcp().start().unwrap();
    let uri: blockferry_dataplane::nbd::NbdUri = target.uri().parse().unwrap();
    let FarEnd::Tcp { host, port } = FarEnd::of(&uri.address).unwrap() else { panic!("not TCP") };
    rig.list.ports.lock().unwrap().push(port);
    let tunnel = rig.tunnel();
    let dialer = Arc::new(tunnel.dialer(FarEnd::Tcp { host, port }));
    let lane =
        Lane::new(LaneEnd::nbd(source.uri().parse().unwrap()), LaneEnd::nbd_over(uri, dialer));
    let report = Mover::new(MoverSettings::default()).start(vec![lane]).unwrap().wait();
    assert!(report.lanes[0].outcome.is_ok(), "{:?}", report.lanes[0].outcome);
    drop(tunnel);
    compare_raw(&disk.path, &image.path).unwrap();
}
