//! A running export.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_dataplane::Endpoint;
use blockferry_dataplane::nbd::{NbdUri, Session, TlsParams};

use super::cache::CacheMode;
use super::error::ExportError;
use super::heap::Heap;
use super::listener::Listener;
use super::ready::{self, NotReady};
use super::spec::{ExportAccess, ExportSettings, ExportSpec};
use super::usage::ExportUsage;
use crate::child::{Child, Ending, Launch, LaunchError, Streams, how_it_ended};
use crate::image::{Refusal, in_one_line};

/// Connections beside those that an export is made for.
const SPARE_CONNECTIONS: u16 = 2;

/// What became of an export that nobody ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exited {
    /// Its exit status in words.
    pub how: String,
    /// The last lines that it wrote to stderr, oldest first.
    pub said: Vec<String>,
}

/// A qemu-nbd that serves an image. It is ended when this is dropped; [`Export::end`] tells how it
/// went. The image must not be touched before.
#[derive(Debug)]
pub struct Export {
    child: Child,
    image: PathBuf,
    uri: NbdUri,
    session: Session,
    cache: CacheMode,
    started: Instant,
    end_deadline: Duration,
    ended: bool,
    listener: Listener,
}

impl Export {
    /// Starts an export, and waits until it is ready.
    ///
    /// # Errors
    /// [`ExportError`], in one line with what to do. No process is left then.
    pub fn start(spec: ExportSpec, settings: &ExportSettings) -> Result<Self, ExportError> {
        let image = std::path::absolute(&spec.image).map_err(|error| ExportError::System {
            image: spec.image.clone(),
            what: "finding its folder",
            error,
        })?;
        if !image.exists() {
            return Err(ExportError::ImageMissing { image });
        }
        let (mode, fallback) = settings.cache.candidates(&image);
        match (Self::start_in(&spec, &image, settings, mode), fallback) {
            // What else may be the matter is the matter with the other mode too.
            (Err(ExportError::DiedAtStart { said, .. }), Some(fallback)) => {
                let export = Self::start_in(&spec, &image, settings, fallback)?;
                settings.cache.remember(&image, said);
                Ok(export)
            }
            (started, _) => started,
        }
    }

    fn start_in(
        spec: &ExportSpec,
        image: &Path,
        settings: &ExportSettings,
        cache: CacheMode,
    ) -> Result<Self, ExportError> {
        let system =
            |what| move |error| ExportError::System { image: image.to_owned(), what, error };
        let started = Instant::now();
        let launch = command(spec, image, settings, cache);
        let listener = spec.listener.descriptor().map_err(system("its listener"))?;
        let (child, _none) =
            launch.start(Streams::Activation(listener), |_| {}).map_err(|error| match error {
                LaunchError::NotFound { program } => ExportError::ProgramMissing { program },
                LaunchError::System { what, error, .. } => system(what)(error),
            })?;
        let deadline = settings.start_deadline;
        let session = ready::wait(&spec.listener, &spec.name, &child, deadline)
            .map_err(|reason| not_ready(reason, image, &child, deadline))?;
        let uri = NbdUri {
            tls: false,
            address: spec.listener.address(),
            export: spec.name.clone(),
            user: None,
            tls_params: TlsParams::default(),
            ignored: Vec::new(),
        };
        Ok(Self {
            child,
            image: image.to_owned(),
            uri,
            session,
            cache,
            started,
            end_deadline: settings.end_deadline,
            ended: false,
            listener: spec.listener.clone(),
        })
    }

    /// Where to find it.
    #[must_use]
    pub fn uri(&self) -> &NbdUri {
        &self.uri
    }

    /// The same as an end of a lane, reached through its listener.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::nbd_over(self.uri.clone(), Arc::new(self.listener.clone()))
    }

    /// The image that it serves.
    #[must_use]
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Its size and abilities, as it told them when it became ready.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Whether it goes past the cache of the file system.
    #[must_use]
    pub fn cache(&self) -> CacheMode {
        self.cache
    }

    /// Its process id, which means something until it has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Time since its process was started.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The last lines that it wrote to stderr, oldest first.
    #[must_use]
    pub fn stderr_tail(&self) -> Vec<String> {
        self.child.said().lines()
    }

    /// What it takes of the machine.
    ///
    /// # Errors
    /// When its process is gone.
    pub fn usage(&self) -> Result<ExportUsage, ExportError> {
        if let Some(exited) = self.try_exited() {
            return Err(ExportError::Exited {
                image: self.image.clone(),
                reason: exited.to_string(),
            });
        }
        ExportUsage::of(self.pid()).map_err(|error| ExportError::System {
            image: self.image.clone(),
            what: "reading its usage from /proc",
            error,
        })
    }

    /// What became of it, if it is gone; at once.
    #[must_use]
    pub fn try_exited(&self) -> Option<Exited> {
        let status = self.child.wait(Duration::ZERO)?;
        self.child.hear_out();
        Some(Exited { how: how_it_ended(status), said: self.stderr_tail() })
    }

    /// Ends it: SIGTERM, which has it write out what it holds; SIGKILL when the deadline of the
    /// settings has passed. When this returns, the process is gone and the image is free, unless
    /// the error is [`ExportError::Stuck`].
    ///
    /// # Errors
    /// When it was gone already, had to be killed, or ended with another status than 0.
    pub fn end(mut self) -> Result<(), ExportError> {
        self.end_now()
    }

    fn end_now(&mut self) -> Result<(), ExportError> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        let image = self.image.clone();
        let ending = self.child.end(self.end_deadline);
        let reason = || self.try_exited().map(|exited| exited.to_string()).unwrap_or_default();
        match ending {
            Ending::Earlier => Err(ExportError::Exited { image, reason: reason() }),
            Ending::Killed => Err(ExportError::Killed { image, deadline: self.end_deadline }),
            Ending::Stuck => Err(ExportError::Stuck { image, pid: self.pid() }),
            Ending::InTime => match self.child.wait(Duration::ZERO) {
                Some(status) if status.success() => Ok(()),
                _ => Err(ExportError::EndedBadly { image, reason: reason() }),
            },
        }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // Whoever wants to know how it ended calls `end`.
        let _ = self.end_now();
    }
}

impl std::fmt::Display for Exited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it {}: {}", self.how, in_one_line(&self.said))
    }
}

fn command(spec: &ExportSpec, image: &Path, settings: &ExportSettings, cache: CacheMode) -> Launch {
    let shared = u32::from(spec.connections.max(1)) + u32::from(SPARE_CONNECTIONS);
    let mut launch = Launch::new(&settings.program);
    launch.killed_with_us();
    // Its words are sorted by what they say.
    launch.env("LC_ALL", "C");
    Heap::shared(settings.heap_bytes, settings.exports_at_once, spec.connections)
        .apply(&mut launch);
    launch.args(["--persistent", "--format=qcow2", "--detect-zeroes=off"]);
    launch.arg(format!("--shared={shared}"));
    launch.arg(format!("--export-name={}", spec.name));
    cache.apply(&mut launch);
    match &spec.access {
        ExportAccess::ReadOnly => {
            launch.arg("--read-only");
        }
        ExportAccess::Writable => {
            // What is zeroed or trimmed takes no room.
            launch.arg("--discard=unmap");
        }
        ExportAccess::ThrowAway { folder } => {
            launch.args(["--snapshot", "--discard=unmap"]).env("TMPDIR", folder);
        }
    }
    launch.arg(image);
    launch
}

fn not_ready(reason: NotReady, image: &Path, child: &Child, deadline: Duration) -> ExportError {
    let image = image.to_owned();
    match reason {
        NotReady::Exited => {
            child.hear_out();
            let said = child.said().lines();
            let line = in_one_line(&said);
            match Refusal::of(&said) {
                Some(Refusal::Locked) => ExportError::Locked { image, said: line },
                Some(Refusal::BackingMissing) => ExportError::BackingMissing { image, said: line },
                Some(Refusal::Missing) => ExportError::ImageMissing { image },
                _ => {
                    let program = child.program().to_owned();
                    let status = child.wait(Duration::ZERO);
                    let how = status.map_or_else(String::new, how_it_ended);
                    match status.map(|status| status.code()) {
                        Some(None) => {
                            ExportError::KilledAtStart { image, program, how, said: line }
                        }
                        _ => ExportError::DiedAtStart { image, program, how, said: line },
                    }
                }
            }
        }
        NotReady::TimedOut { waiting_for } => {
            let said = in_one_line(&child.said().lines());
            ExportError::NotReady { image, waiting_for, deadline, said }
        }
        NotReady::Handshake(error) => ExportError::Handshake { image, error },
        NotReady::System(error) => ExportError::System { image, what: "talking to it", error },
    }
}
