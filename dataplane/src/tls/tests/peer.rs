//! A TLS server without NBD, for what real servers do not do.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use super::PATIENCE;
use super::authority::Authority;
use super::client::blocking;
use crate::engine::Descriptor;
use crate::nbd::NbdUri;
use crate::tls::{Upgrade, upgrade};

/// The server's side after the TLS handshake.
pub(super) type Secured = StreamOwned<ServerConnection, TcpStream>;

/// A session with a server that is one function.
pub(super) struct Peer<T> {
    pub(super) upgrade: Upgrade,
    pub(super) near: UnixStream,
    pub(super) server: JoinHandle<T>,
    _folder: TempDir,
}

/// A session with a server that gets the connection in the clear, and does with it what it likes.
pub(super) fn raw<T: Send + 'static>(act: impl FnOnce(TcpStream) -> T + Send + 'static) -> Peer<T> {
    start(&Authority::new(), act)
}

/// A session with a server that goes by the rules until the end of the TLS handshake.
pub(super) fn secured<T: Send + 'static>(
    act: impl FnOnce(Secured) -> T + Send + 'static,
) -> Peer<T> {
    let authority = Authority::new();
    let (certificate, key) = authority.sign(&["127.0.0.1"], false);
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    start(&authority, |mut stream| {
        let mut tls = ServerConnection::new(Arc::new(config)).unwrap();
        tls.complete_io(&mut stream).unwrap();
        act(StreamOwned::new(tls, stream))
    })
}

fn start<T: Send + 'static>(
    authority: &Authority,
    act: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> Peer<T> {
    let folder = authority.folder();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut uri: NbdUri = format!("nbds://127.0.0.1:{port}/").parse().unwrap();
    uri.tls_params.certificates = Some(folder.path().to_owned());
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let server = std::thread::spawn(move || act(stream));
    let socket = Descriptor::socket(OwnedFd::from(client)).unwrap();
    let (upgrade, near) = upgrade(&socket, &uri).unwrap();
    Peer { upgrade, near: blocking(&near), server, _folder: folder }
}
