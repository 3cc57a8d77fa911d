//! From a connection in the clear to one inside TLS.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, OnceLock};
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustls::ClientConnection;

use super::credentials::Credentials;
use super::session::{LINGER, Session};
use crate::engine::Descriptor;
use crate::nbd::NbdUri;

/// Shown by ps and top; the kernel keeps 15 bytes of it.
const THREAD_NAME: &str = "blockferry-tls";

/// A TLS session that carries one connection. Dropping it ends nothing: the session ends with
/// the near end.
#[derive(Debug)]
pub(crate) struct Upgrade {
    /// Set at most once, before the near end sees the end of the session.
    failure: Arc<OnceLock<String>>,
    /// Never receives anything; disconnected when the thread has ended.
    ended: Receiver<Infallible>,
}

impl Upgrade {
    /// Why the session failed, if it did.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }

    /// Waits until the session is over, which is when the server has closed, but no longer than
    /// [`LINGER`]. For the moment between closing the near end and the end of the process, which
    /// would cut off what is left: the server would miss our leave. Nothing else needs it.
    pub(crate) fn settle(&self) {
        // Past that time the session gives up as well, and nobody is left to care.
        let _over = self.ended.recv_timeout(LINGER);
    }

    /// Whether the session has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.ended.try_recv() != Err(std::sync::mpsc::TryRecvError::Empty)
    }

    /// Whether the thread of the session still runs.
    #[cfg(test)]
    pub(super) fn runs(&self) -> bool {
        !self.is_over()
    }
}

/// Puts TLS on a connection whose server has just agreed to it, and on which no operation is in
/// flight. Returns at once: the near end can be used right away, and what is written to it waits
/// for the TLS handshake. `socket` may be dropped, and must not be used any more.
///
/// # Errors
/// When the certificates that the URI leads to cannot be used, or this machine is out of
/// descriptors or threads. One line, ready for the user.
pub(crate) fn upgrade(socket: &Descriptor, uri: &NbdUri) -> Result<(Upgrade, Descriptor), String> {
    let Credentials { config, name, terms } = Credentials::of(uri)?;
    let connection = ClientConnection::new(config, name).map_err(|e| terms.explain(&e))?;
    let ours = |e: std::io::Error| format!("cannot set up the session: {e}");
    let socket = socket.as_fd().try_clone_to_owned().map_err(ours)?;
    let (near, far) = pair().map_err(ours)?;
    let near = Descriptor::socket(near).map_err(ours)?;
    let failure = Arc::new(OnceLock::new());
    let (running, ended) = mpsc::channel();
    let upgrade = Upgrade { failure: Arc::clone(&failure), ended };
    let session = Session::new(connection, terms, socket, far);
    // Detached on purpose: it ends with the near end, and nothing waits for it.
    let _detached = thread::Builder::new()
        .name(THREAD_NAME.into())
        .spawn(move || {
            session.run(&failure);
            drop(running);
        })
        .map_err(ours)?;
    Ok((upgrade, near))
}

fn pair() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}
