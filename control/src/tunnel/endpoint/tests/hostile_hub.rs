//! A far end that opens what nobody offered: the library's own server, which does as it is told.

use std::os::unix::net::UnixStream;

use russh::server::{self, Auth, Handle, Session, VerifiedPublicKey};
use russh::{Channel, ChannelOpenFailure};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::super::door;
use super::*;
use crate::tunnel::TunnelService;

/// Lets everybody in, and agrees to everything; gives its handle away when asked to forward.
struct Agreeable {
    asked: UnboundedSender<Handle>,
}

impl server::Handler for Agreeable {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _user: &str,
        _key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        Ok(Auth::Accept)
    }

    async fn tcpip_forward(
        &mut self,
        _host: &str,
        _port: &mut u32,
        session: &mut Session,
    ) -> Result<bool, russh::Error> {
        self.asked.send(session.handle()).unwrap();
        Ok(true)
    }
}

type Opened = Result<Channel<server::Msg>, russh::Error>;

#[test]
fn a_far_end_gets_nothing_but_what_is_offered() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let host_key = OwnKey::load_or_make(&path("host")).unwrap();
    OwnKey::load_or_make(&path("node")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let known = format!("[127.0.0.1]:{} {}\n", address.port(), host_key.public().openssh());
    std::fs::write(path("known"), known).unwrap();
    listener.set_nonblocking(true).unwrap();
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.unwrap();
    let (asked, mut handles) = unbounded_channel();
    let config = Arc::new(door::config(&host_key, &EndpointSettings::default()));
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let _ended = server::run_stream(config, socket, Agreeable { asked }).await.unwrap().await;
    });
    let (tell, events) = channel();
    let (taken, accepted) = channel();
    let service = TunnelService::new(4711, move |socket: UnixStream| taken.send(socket).unwrap());
    let settings = TunnelSettings::new(
        format!("ssh://{address}").parse().unwrap(),
        "n1".into(),
        path("node"),
        path("known"),
    );
    let tunnel = Tunnel::serve(settings, service, move |event| {
        // The test may be over already.
        let _unheard = tell.send(event.to_string());
    });
    let _tunnel = tunnel.unwrap();
    runtime.block_on(async {
        let handle = handles.recv().await.unwrap();
        let refused = |opened: Opened| {
            let prohibited = ChannelOpenFailure::AdministrativelyProhibited;
            let unknown = ChannelOpenFailure::UnknownChannelType;
            match opened {
                Err(russh::Error::ChannelOpenFailure(why)) => why == prohibited || why == unknown,
                _ => false,
            }
        };
        for _ in 0..50 {
            assert!(refused(handle.channel_open_session().await));
            assert!(refused(handle.channel_open_agent().await));
            assert!(refused(handle.channel_open_x11("127.0.0.1", 6000).await));
            assert!(refused(handle.channel_open_direct_tcpip("127.0.0.1", 22, "", 0).await));
            assert!(refused(handle.channel_open_direct_streamlocal("/run/x").await));
            assert!(refused(handle.channel_open_forwarded_streamlocal("/run/x").await));
            let elsewhere = handle.channel_open_forwarded_tcpip("127.0.0.1", 22, "", 0).await;
            assert!(refused(elsewhere));
            let elsewhere = handle.channel_open_forwarded_tcpip("10.0.0.1", 4711, "", 0).await;
            assert!(refused(elsewhere));
        }
        handle.channel_open_forwarded_tcpip("127.0.0.1", 4711, "", 0).await.unwrap();
    });
    accepted.recv_timeout(PATIENCE).unwrap();
    assert!(accepted.try_recv().is_err());
    let told: Vec<String> =
        events.try_iter().filter(|event| event.contains("refused to")).collect();
    assert_eq!(told.len(), 7, "{told:?}");
}
