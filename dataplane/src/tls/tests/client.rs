//! The least NBD client that can use a session.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use blockferry_doubles::{Nbdkit, Server};

use super::PATIENCE;
use crate::engine::Descriptor;
use crate::nbd::wire::NBD_SIMPLE_REPLY_MAGIC;
use crate::nbd::{
    ClientWishes, Command, CommandFlags, Handshake, HandshakeStatus, MAX_REQUEST_LEN, NbdUri,
    ReplyMode, Request, Tls,
};
use crate::tls::{Upgrade, upgrade};

/// nbdkit that insists on TLS.
pub(super) fn nbdkit(plugin: Nbdkit, folder: &Path) -> Nbdkit {
    let mut certificates = std::ffi::OsString::from("--tls-certificates=");
    certificates.push(folder);
    plugin.arg("--tls=require").arg(certificates)
}

/// The URI of a server, with TLS and more parameters.
pub(super) fn secure(server: &Server, folder: Option<&Path>, more: &str) -> NbdUri {
    let mut uri: NbdUri = server.uri().parse().unwrap();
    uri.tls = true;
    uri.tls_params.certificates = folder.map(Path::to_owned);
    if more.is_empty() {
        return uri;
    }
    let text = uri.to_string();
    let separator = if text.contains('?') { '&' } else { '?' };
    format!("{text}{separator}{more}").parse().unwrap()
}

/// A connection with an open export.
pub(super) struct Client {
    pub(super) upgrade: Upgrade,
    pub(super) near: Descriptor,
    pub(super) stream: UnixStream,
    mode: ReplyMode,
}

impl Client {
    /// Connects, upgrades and opens the export; or tells why not, as a lane would.
    pub(super) fn open(server: &Server, uri: &NbdUri) -> Result<Self, String> {
        let mut machine = Handshake::open(ClientWishes {
            export: uri.export.clone(),
            tls: Tls::Require,
            extended_headers: false,
            structured_replies: false,
            contexts: Vec::new(),
        });
        let mut clear = server.address().connect().unwrap();
        let status = negotiate(&mut machine, &mut clear, Vec::new()).unwrap();
        assert_eq!(status, HandshakeStatus::StartTls);
        let socket = Descriptor::socket(clear.as_fd().try_clone_to_owned().unwrap()).unwrap();
        drop(clear);
        let (upgrade, near) = upgrade(&socket, uri)?;
        drop(socket);
        let mut stream = blocking(&near);
        let mut output = Vec::new();
        machine.advance(&[], &mut output).unwrap();
        match negotiate(&mut machine, &mut stream, output) {
            Ok(HandshakeStatus::Ready(session)) => {
                Ok(Self { upgrade, near, stream, mode: session.mode })
            }
            Ok(other) => panic!("{other:?}"),
            Err(e) => Err(upgrade.failure().unwrap_or_else(|| panic!("no reason for {e}"))),
        }
    }

    pub(super) fn send(&mut self, command: Command, offset: u64, length: u64) -> io::Result<()> {
        let request =
            Request { command, flags: CommandFlags::NONE, cookie: offset, offset, length };
        let mut head = [0; MAX_REQUEST_LEN];
        let count = request.encode(self.mode, &mut head);
        self.stream.write_all(&head[..count])
    }

    /// Reads the head of a simple reply, which must be a success; returns its cookie.
    pub(super) fn acknowledged(&mut self) -> io::Result<u64> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        assert_eq!(head[..4], NBD_SIMPLE_REPLY_MAGIC.to_be_bytes());
        assert_eq!(head[4..8], [0; 4], "the server reports an error");
        Ok(u64::from_be_bytes(*head.last_chunk().unwrap()))
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.send(Command::Write, offset, data.len() as u64)?;
        self.stream.write_all(data)?;
        self.acknowledged().map(drop)
    }

    pub(super) fn read(&mut self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.send(Command::Read, offset, data.len() as u64)?;
        self.acknowledged()?;
        self.stream.read_exact(data)
    }
}

/// The near end for code that blocks, but not for ever.
pub(super) fn blocking(near: &Descriptor) -> UnixStream {
    let stream = UnixStream::from(near.as_fd().try_clone_to_owned().unwrap());
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Runs the handshake up to its next stage.
fn negotiate<S: Read + Write>(
    machine: &mut Handshake,
    stream: &mut S,
    mut output: Vec<u8>,
) -> io::Result<HandshakeStatus> {
    loop {
        stream.write_all(&output)?;
        output.clear();
        let mut input = [0; 4096];
        let count = stream.read(&mut input)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let advance = machine.advance(&input[..count], &mut output).unwrap();
        assert_eq!(advance.consumed, count);
        match advance.status {
            HandshakeStatus::NeedInput => {}
            status => {
                stream.write_all(&output)?;
                return Ok(status);
            }
        }
    }
}
