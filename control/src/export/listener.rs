//! Where an export listens: bound before its process starts, so that nobody else can take the
//! address in between.

use std::fs::{File, Permissions};
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blockferry_dataplane::{Dial, nbd};
use rustix::net::sockopt::set_tcp_congestion;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tempfile::TempDir;

use super::error::ExportError;

/// How connections within this machine are paced: not at all, as the data plane does for its end.
/// What a listener has is passed on to the connections that it accepts.
const LOOPBACK_CONGESTION_CONTROL: &str = "reno";
/// Mode of the folder of a socket: whoever can enter it can read the disk.
const FOLDER_MODE: u32 = 0o700;
/// How long a connection within the machine may take. The kernel makes it at once, or refuses.
const DIAL_DEADLINE: Duration = Duration::from_secs(1);
/// Name of a socket in its folder.
const SOCKET_NAME: &str = "nbd";

/// A socket that listens. Clones share the address, which is free when the last of them and the
/// export are gone.
#[derive(Clone, Debug)]
pub struct Listener {
    inner: Arc<Inner>,
}

#[derive(Debug)]
enum Inner {
    Tcp { socket: TcpListener, port: u16 },
    Unix { socket: UnixListener, path: PathBuf, inside: File, _folder: TempDir },
}

impl Listener {
    /// A port of 127.0.0.1; 0 for any that is free.
    ///
    /// # Errors
    /// When somebody else has it, or it may not be had.
    pub fn tcp(port: u16) -> Result<Self, ExportError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => ExportError::PortInUse { port },
            _ => ExportError::Listen { what: format!("port {port} of 127.0.0.1"), error },
        };
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
        // Only speed is lost where the kernel refuses.
        let _as_allowed = set_tcp_congestion(&socket, LOOPBACK_CONGESTION_CONTROL);
        let port = socket.local_addr().map_err(failed)?.port();
        Ok(Self { inner: Arc::new(Inner::Tcp { socket, port }) })
    }

    /// A Unix socket in a folder of its own within `parent`, which nobody but this user can enter.
    /// The folder goes with the last clone; after a kill it is left, with a name that begins with
    /// `export-`.
    ///
    /// Its path may be longer than the 107 bytes that the kernel takes for a socket: this process
    /// reaches it through the folder's descriptor, by [`Dial`]; others need a short `parent`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn unix(parent: &Path) -> Result<Self, ExportError> {
        let failed = |error| ExportError::Listen {
            what: format!("a Unix socket in {}", parent.display()),
            error,
        };
        let parent = std::path::absolute(parent).map_err(failed)?;
        let folder = tempfile::Builder::new()
            .prefix("export-")
            .permissions(Permissions::from_mode(FOLDER_MODE))
            .tempdir_in(parent)
            .map_err(failed)?;
        let path = folder.path().join(SOCKET_NAME);
        let inside = File::open(folder.path()).map_err(failed)?;
        let socket = UnixListener::bind(short(&inside)).map_err(failed)?;
        Ok(Self { inner: Arc::new(Inner::Unix { socket, path, inside, _folder: folder }) })
    }

    /// The port, where it is one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match &*self.inner {
            Inner::Tcp { port, .. } => Some(*port),
            Inner::Unix { .. } => None,
        }
    }

    pub(crate) fn address(&self) -> nbd::Address {
        match &*self.inner {
            Inner::Tcp { port, .. } => {
                nbd::Address::Tcp { host: Ipv4Addr::LOCALHOST.to_string(), port: *port }
            }
            Inner::Unix { path, .. } => nbd::Address::Unix { path: path.clone() },
        }
    }

    /// The socket for a process.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        match &*self.inner {
            Inner::Tcp { socket, .. } => socket.as_fd().try_clone_to_owned(),
            Inner::Unix { socket, .. } => socket.as_fd().try_clone_to_owned(),
        }
    }

    /// A connection to it, without blocking once it is made. It waits in the kernel until somebody
    /// accepts it.
    pub(super) fn connect(&self, deadline: Duration) -> io::Result<OwnedFd> {
        Ok(match &*self.inner {
            Inner::Tcp { port, .. } => {
                let address = (Ipv4Addr::LOCALHOST, *port).into();
                let stream = TcpStream::connect_timeout(&address, deadline)?;
                stream.set_nonblocking(true)?;
                stream.into()
            }
            Inner::Unix { inside, .. } => {
                // It fails rather than waits where too many wait already.
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
                connect(&socket, &SocketAddrUnix::new(short(inside))?)?;
                socket
            }
        })
    }

    #[cfg(test)]
    pub(super) fn congestion_control(&self) -> Option<String> {
        match &*self.inner {
            Inner::Tcp { socket, .. } => rustix::net::sockopt::tcp_congestion(socket).ok(),
            Inner::Unix { .. } => None,
        }
    }
}

/// The socket by the descriptor of its folder, which is short wherever the folder is.
fn short(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_NAME}", folder.as_raw_fd()))
}

impl Dial for Listener {
    fn dial(&self) -> io::Result<OwnedFd> {
        self.connect(DIAL_DEADLINE)
    }
}
