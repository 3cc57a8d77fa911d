//! Opens what the lanes read and write.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use blockferry_control::tunnel::{FarEnd, Tunnel};
use blockferry_control::{Server, ServerCommand, ServerTransport};
use blockferry_dataplane::nbd::{Address, NbdUri, TlsParams};
use blockferry_dataplane::{Endpoint, Side};
use rustix::fs::{OFlags, fcntl_getfl, seek};

use super::request::Place;
use crate::exit::{Exit, Refusal};
use crate::output::Console;

/// An end of a lane, ready for the data plane, with the server that was started for it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) endpoint: Endpoint,
    pub(crate) server: Option<Server>,
}

impl From<Endpoint> for Opened {
    fn from(endpoint: Endpoint) -> Self {
        Self { endpoint, server: None }
    }
}

/// Opens streams and starts servers; files and exports are opened by the lane.
///
/// # Errors
/// With the exit code of the side.
pub(crate) fn open(
    place: &Place,
    side: Side,
    deadline: Duration,
    transport: ServerTransport,
    console: &Arc<Console>,
) -> anyhow::Result<Opened> {
    let failed = |what: String| Refusal::of(Exit::of_side(side), format!("{side} {what}"));
    match place {
        Place::Uri(uri) => Ok(Endpoint::nbd((**uri).clone()).into()),
        Place::Null => Ok(Endpoint::Null.into()),
        Place::Standard => {
            standard(side).map(Opened::from).map_err(|error| failed(format!("-: {error}")))
        }
        Place::Path(path) => file(path, side, deadline)
            .map(Opened::from)
            .map_err(|error| failed(format!("{}: {error}", path.display()))),
        Place::Command(words) => {
            let console = Arc::clone(console);
            let server = ServerCommand::new(words.clone())
                .over(transport)
                .spawn(move |line| console.plain(line))
                .map_err(|error| failed(format!("{}: {error}", place.name())))?;
            Ok(Opened {
                endpoint: Endpoint::nbd_over(default_export(), server.dialer()),
                server: Some(server),
            })
        }
    }
}

/// An export at the far end of a tunnel.
///
/// # Errors
/// An address that SSH cannot carry.
pub(crate) fn through(tunnel: &Tunnel, uri: &NbdUri) -> anyhow::Result<Opened> {
    let far = FarEnd::of(&uri.address).map_err(Refusal::usage)?;
    Ok(Endpoint::nbd_over(uri.clone(), Arc::new(tunnel.dialer(far))).into())
}

/// The default export of a server that is reached through a dialer; the address is never used.
fn default_export() -> NbdUri {
    NbdUri {
        tls: false,
        address: Address::Unix { path: PathBuf::from("server") },
        export: String::new(),
        user: None,
        tls_params: TlsParams::default(),
        ignored: Vec::new(),
    }
}

/// Standard input or output. A regular file behind it is taken as one, as nbdcopy does: its size
/// is known then, and holes are seen and made. Not so one that is read or written from its middle
/// on, or appended to.
fn standard(side: Side) -> io::Result<Endpoint> {
    let (descriptor, path) = match side {
        Side::Source => (io::stdin().as_fd().try_clone_to_owned()?, "/proc/self/fd/0"),
        Side::Target => (io::stdout().as_fd().try_clone_to_owned()?, "/proc/self/fd/1"),
    };
    // Before anything is emptied for what cannot be read.
    let direction = fcntl_getfl(&descriptor)? & OFlags::ACCMODE;
    let unfit = match side {
        Side::Source if direction == OFlags::WRONLY => "it is open for writing only",
        Side::Target if direction == OFlags::RDONLY => "it is open for reading only",
        _ => "",
    };
    if !unfit.is_empty() {
        return Err(io::Error::other(unfit));
    }
    let whole = fs::metadata(path).is_ok_and(|data| data.is_file())
        && seek(&descriptor, rustix::fs::SeekFrom::Current(0)).is_ok_and(|offset| offset == 0)
        && fcntl_getfl(&descriptor).is_ok_and(|flags| !flags.contains(OFlags::APPEND));
    let openable = match side {
        Side::Source => File::open(path).is_ok(),
        Side::Target => OpenOptions::new().write(true).open(path).is_ok(),
    };
    Ok(if whole && openable {
        Endpoint::File(path.into())
    } else {
        Endpoint::Stream(Arc::new(descriptor))
    })
}

/// A character device that is written is a stream, and so is a pipe that is; all else is left to the
/// lane, which says what is wrong with it, and waits for the writer of a pipe no longer than it may.
fn file(path: &Path, side: Side, deadline: Duration) -> io::Result<Endpoint> {
    let kind = fs::metadata(path).ok().map(|data| data.file_type());
    let opened = match kind {
        Some(kind) if kind.is_fifo() && side == Side::Target => open_for_reader(path, deadline)?,
        Some(kind) if kind.is_char_device() && side == Side::Target => {
            OpenOptions::new().write(true).open(path)?
        }
        _ => return Ok(Endpoint::File(path.into())),
    };
    Ok(Endpoint::Stream(Arc::new(OwnedFd::from(opened))))
}

/// Opens a pipe to write, once somebody has opened it to read. The system can wait for that only
/// in open(2), which has no deadline: a thread waits there, and is left behind if nobody comes.
fn open_for_reader(path: &Path, deadline: Duration) -> io::Result<File> {
    let (sender, opened) = mpsc::channel();
    let own = path.to_owned();
    thread::Builder::new().name("fifo".into()).spawn(move || {
        // Nobody listens after the deadline.
        let _too_late = sender.send(OpenOptions::new().write(true).open(own));
    })?;
    opened.recv_timeout(deadline).unwrap_or_else(|_| {
        let what = format!("nobody opened it to read within {deadline:?}: is its reader running?");
        Err(io::Error::new(io::ErrorKind::TimedOut, what))
    })
}
