//! A running nbdkit.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use blockferry_dataplane::nbd::{Address, NbdUri, Session, TlsParams};
use blockferry_dataplane::{Dial, Endpoint};

use super::cause;
use super::error::SourceError;
use super::folder::Folder;
use super::version::NbdkitVersion;
use crate::child::{Child, Ending, how_it_ended};

/// How long an nbdkit that does not take connections any more may take to exit before that is not
/// the reason.
const EXIT_GRACE: Duration = Duration::from_millis(300);
/// How long the words for an error may take after its reply: they are written before it, and read by
/// another thread.
const WORDS_GRACE: Duration = Duration::from_millis(200);
/// How often they are looked for.
const WORDS_TICK: Duration = Duration::from_millis(5);

/// An nbdkit that serves a disk. It is ended when this is dropped; [`Running::stop`] tells how that
/// went.
#[derive(Debug)]
pub struct Running {
    pub(super) served: Arc<Served>,
    pub(super) session: Session,
    pub(super) version: NbdkitVersion,
    pub(super) end_deadline: Duration,
    pub(super) folder: Option<Folder>,
}

/// What those who connect to it have to know.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) child: Arc<Child>,
    pub(super) uri: NbdUri,
    /// The disk's file at the server.
    pub(super) file: String,
}

impl Running {
    /// Where it is, for one connection at a time.
    #[must_use]
    pub fn uri(&self) -> &NbdUri {
        &self.served.uri
    }

    /// The same as an end of a lane. A connection that cannot be had any more tells what became of
    /// the process.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::nbd_over(self.served.uri.clone(), Arc::clone(&self.served) as Arc<dyn Dial>)
    }

    /// Its size and abilities, as it told them when it became ready.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Which nbdkit it is.
    #[must_use]
    pub fn version(&self) -> NbdkitVersion {
        self.version
    }

    /// Its process id, which means something until it has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.served.child.id()
    }

    /// What became of it, in one line, if nobody has stopped it and it is gone all the same; at once.
    #[must_use]
    pub fn exit_reason(&self) -> Option<String> {
        self.served.exit_reason(Duration::ZERO)
    }

    /// The last lines that it wrote to stderr, oldest first, eight at most. They take a moment to
    /// come while it runs.
    #[must_use]
    pub fn last_words(&self) -> Vec<String> {
        self.served.child.said().lines()
    }

    /// Ends it: SIGTERM, and SIGKILL when the deadline of the settings has passed. Its connection
    /// should be closed by then, for nbdkit waits for that. The process, its socket and its folder
    /// are gone when this returns, unless the error is [`SourceError::Stuck`].
    ///
    /// # Errors
    /// When it was gone already, or had to be killed. What was read of it, or written and flushed,
    /// holds all the same.
    pub fn stop(mut self) -> Result<(), SourceError> {
        self.stop_now()
    }

    fn stop_now(&mut self) -> Result<(), SourceError> {
        let Some(folder) = self.folder.take() else { return Ok(()) };
        let ending = self.served.child.end(self.end_deadline);
        let file = self.served.file.clone();
        match ending {
            Ending::InTime => Ok(()),
            Ending::Earlier => Err(self.served.died()),
            Ending::Killed => Err(SourceError::Killed { file, deadline: self.end_deadline }),
            Ending::Stuck => {
                // Whoever cleans up later has to know of it.
                std::mem::forget(folder);
                Err(SourceError::Stuck { file, pid: self.pid() })
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever wants to know how it ended calls `stop`.
        let _ = self.stop_now();
    }
}

impl Served {
    pub(super) fn new(child: Arc<Child>, folder: &Folder, file: &str) -> Self {
        let uri = NbdUri {
            tls: false,
            address: Address::Unix { path: folder.socket() },
            export: String::new(),
            user: None,
            tls_params: TlsParams::default(),
            ignored: Vec::new(),
        };
        Self { child, uri, file: file.to_owned() }
    }

    /// A connection, at once or not at all.
    pub(super) fn connect(&self) -> io::Result<OwnedFd> {
        match &self.uri.address {
            Address::Unix { path } => UnixStream::connect(path).map(OwnedFd::from),
            Address::Tcp { .. } => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn exit_reason(&self, grace: Duration) -> Option<String> {
        self.child.wait(grace).map(|_| self.died().to_string())
    }

    /// How it ended, once it has.
    pub(super) fn died(&self) -> SourceError {
        self.child.hear_out();
        let how = self.child.wait(Duration::ZERO).map_or_else(|| "ended".into(), how_it_ended);
        let (_, said) = cause::told(&self.child.said().lines());
        SourceError::Died { file: self.file.clone(), how, said }
    }
}

impl Dial for Served {
    fn dial(&self) -> io::Result<OwnedFd> {
        self.connect().map_err(|error| match self.exit_reason(EXIT_GRACE) {
            Some(reason) => io::Error::new(io::ErrorKind::NotConnected, reason),
            None => error,
        })
    }

    fn said(&self) -> Option<String> {
        let asked = Instant::now();
        loop {
            if let Some(words) = cause::last_error(&self.child.said().lines()) {
                return Some(words);
            }
            if asked.elapsed() >= WORDS_GRACE {
                return None;
            }
            thread::sleep(WORDS_TICK);
        }
    }
}
