//! Starting nbdkit for a disk, or for all disks of a VM.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::cause::{self, Refusal};
use super::command;
use super::error::SourceError;
use super::folder::Folder;
use super::running::{Running, Served};
use super::settings::{Access, Credentials, Disk, Settings};
use super::version::NbdkitVersion;
use crate::backup::Cancellation;
use crate::child::{Child, LaunchError, Streams, held};
use crate::export::{NotReady, probe};

/// Pause between two looks for the socket of an nbdkit that starts. Its end is seen at once.
const LOOK_PAUSE: Duration = Duration::from_millis(5);
/// Pause between two looks whether the job is called off.
const HEED_PAUSE: Duration = Duration::from_millis(50);
/// Time from SIGTERM to SIGKILL for one that is not wanted any more before it was ready: enough to
/// log out where nothing hangs.
const CALL_OFF_GRACE: Duration = Duration::from_secs(2);
/// Bytes of a core file. With 0 the kernel would still hand the memory, and the password in it, to
/// a program that collects cores (`|` in `core_pattern`); with 1 it does not (core(5), and
/// `fs/coredump.c` of the kernel).
const CORE_BYTES: u64 = 1;

/// Disks of VMware's VMs, served by nbdkit.
#[derive(Debug)]
pub struct VddkSource;

impl VddkSource {
    /// Which nbdkit there is.
    ///
    /// # Errors
    /// None, or one that is too old.
    pub fn version(settings: &Settings) -> Result<NbdkitVersion, SourceError> {
        NbdkitVersion::of(&settings.nbdkit)
    }

    /// Which nbdkit there is, and whether it has the plugin and all that this needs: a folder with
    /// VMware's library, parameters that it knows, a place for sockets. Nothing is made, and no server
    /// is asked. A job does so before it asks for a snapshot.
    ///
    /// # Errors
    /// As of [`version`](Self::version); what of it is wrong
    /// ([`is_wrong_request`](SourceError::is_wrong_request)), or that it cannot be told.
    pub fn check(settings: &Settings) -> Result<NbdkitVersion, SourceError> {
        super::folder::fitting(&settings.runtime)?;
        let version = Self::version(settings)?;
        super::plugin::look_at(settings)?;
        Ok(version)
    }

    /// Removes what was left by processes that were killed: folders with their sockets, and nbdkits
    /// that still run. Each start does so too.
    pub fn clean_up(settings: &Settings) {
        super::folder::clean_up(&settings.runtime);
    }

    /// Serves a disk, and waits until it is open at the server. That takes a connection there for a
    /// moment, before the one of who reads.
    ///
    /// # Errors
    /// [`SourceError`], in one line with what to do. No process and no folder is left then.
    pub fn start(
        settings: &Settings,
        disk: &Disk,
        credentials: &Credentials,
    ) -> Result<Running, SourceError> {
        let version = Self::version(settings)?;
        start(settings, disk, credentials, version, &Company::default())
    }

    /// Serves all disks of a VM, or several of them, at once. The first error ends the others.
    /// Whoever asks has to see to it that no ESXi host gets more than it can bear.
    ///
    /// # Errors
    /// That of the first disk that failed. No process and no folder is left then.
    pub fn start_all(
        settings: &Settings,
        disks: &[Disk],
        credentials: &Credentials,
    ) -> Result<Vec<Running>, SourceError> {
        Self::start_all_unless(&Cancellation::default(), settings, disks, credentials)
    }

    /// The same, until it is called off.
    ///
    /// # Errors
    /// The same, and [`SourceError::CalledOff`].
    pub fn start_all_unless(
        called_off: &Cancellation,
        settings: &Settings,
        disks: &[Disk],
        credentials: &Credentials,
    ) -> Result<Vec<Running>, SourceError> {
        let version = Self::version(settings)?;
        let company = Company::default();
        let results: Vec<Result<Running, SourceError>> = thread::scope(|scope| {
            let (all_ended, ended) = mpsc::channel::<()>();
            scope.spawn(|| company.heed(called_off, ended));
            let starting: Vec<_> = disks
                .iter()
                .map(|disk| {
                    let company = &company;
                    scope.spawn(move || {
                        let started = start(settings, disk, credentials, version, company);
                        if started.is_err() {
                            company.call_off();
                        }
                        started
                    })
                })
                .collect();
            let panicked = "starting a process does not panic";
            let results =
                starting.into_iter().map(|thread| thread.join().expect(panicked)).collect();
            drop(all_ended);
            results
        });
        let is_cause = |result: &Result<Running, SourceError>| matches!(result, Err(error) if !matches!(error, SourceError::CalledOff { .. }));
        match results.iter().position(is_cause) {
            None => results.into_iter().collect(),
            Some(cause) => results.into_iter().nth(cause).into_iter().collect(),
        }
    }
}

/// Processes that start together.
#[derive(Debug, Default)]
struct Company {
    starting: Mutex<Starting>,
}

#[derive(Debug, Default)]
struct Starting {
    children: Vec<Arc<Child>>,
    called_off: bool,
}

impl Company {
    /// Whether nobody has called it off; then the child is ended with the others.
    fn takes(&self, child: &Arc<Child>) -> bool {
        let mut starting = held(&self.starting);
        starting.children.push(Arc::clone(child));
        !starting.called_off
    }

    fn is_called_off(&self) -> bool {
        held(&self.starting).called_off
    }

    /// Calls it off with the job, as long as any is starting.
    fn heed(&self, called_off: &Cancellation, ended: mpsc::Receiver<()>) {
        while ended.recv_timeout(HEED_PAUSE) == Err(RecvTimeoutError::Timeout) {
            if called_off.is_cancelled() {
                return self.call_off();
            }
        }
    }

    /// Ends all, so that nobody waits for them any longer.
    fn call_off(&self) {
        let children = {
            let mut starting = held(&self.starting);
            starting.called_off = true;
            std::mem::take(&mut starting.children)
        };
        thread::scope(|scope| {
            for child in &children {
                scope.spawn(|| child.end(CALL_OFF_GRACE));
            }
        });
    }
}

fn start(
    settings: &Settings,
    disk: &Disk,
    credentials: &Credentials,
    version: NbdkitVersion,
    company: &Company,
) -> Result<Running, SourceError> {
    disk.check()?;
    credentials.check()?;
    if company.is_called_off() {
        return Err(SourceError::CalledOff { file: disk.file.clone() });
    }
    let end = Instant::now() + settings.start_deadline;
    let folder = Folder::make(&settings.runtime)?;
    let launch = command::launch(settings, disk, credentials, version, &folder.socket());
    let (reader, writer) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|error| pipe_failed(error.into()))?;
    let (child, _none) = launch.start(Streams::Secret(reader), |_| {}).map_err(not_launched)?;
    let served = Served::new(Arc::new(child), &folder, &disk.file);
    let opened = folder
        .note(served.child.id())
        .and_then(|()| tell_password(&served.child, writer, credentials))
        .and_then(|()| open(&served, settings, end, company));
    match opened {
        Ok(session) => {
            let running = Running {
                served: Arc::new(served),
                session,
                version,
                end_deadline: settings.end_deadline,
                folder: Some(folder),
            };
            if disk.access == Access::Write && running.session.flags.read_only() {
                return Err(SourceError::NotWritable { file: disk.file.clone() });
            }
            Ok(running)
        }
        Err(error) => {
            served.child.end(CALL_OFF_GRACE);
            Err(error)
        }
    }
}

fn not_launched(error: LaunchError) -> SourceError {
    match error {
        LaunchError::NotFound { program } => SourceError::ProgramMissing { program },
        LaunchError::System { what, error, .. } => SourceError::System { what, error },
    }
}

fn pipe_failed(error: io::Error) -> SourceError {
    SourceError::system("handing the password over")(error)
}

/// Fills the pipe, once the process can leave no core file. It holds all of it, so this does not
/// wait.
fn tell_password(
    child: &Child,
    writer: OwnedFd,
    credentials: &Credentials,
) -> Result<(), SourceError> {
    leave_no_core(child).map_err(SourceError::system("forbidding core files"))?;
    match File::from(writer).write_all(&credentials.password.line()) {
        // It has ended, and what it said comes with that.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(pipe_failed(error)),
        _ => Ok(()),
    }
}

fn leave_no_core(child: &Child) -> io::Result<()> {
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let limit = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    match prlimit(Some(pid), Resource::Core, limit(CORE_BYTES)) {
        // Gone already: it will be seen.
        Ok(_) | Err(rustix::io::Errno::SRCH) => Ok(()),
        // Where our own limit is lower, it is 0, and only a superuser can raise it.
        Err(rustix::io::Errno::PERM) => {
            Ok(prlimit(Some(pid), Resource::Core, limit(0)).map(|_| ())?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Waits until nbdkit listens, and then for a whole handshake, which opens the disk.
fn open(
    served: &Served,
    settings: &Settings,
    end: Instant,
    company: &Company,
) -> Result<blockferry_dataplane::nbd::Session, SourceError> {
    let child = &served.child;
    if !company.takes(child) {
        return Err(SourceError::CalledOff { file: served.file.clone() });
    }
    let answered = connected(served, end)
        .and_then(|connection| probe(connection, &served.uri.export, child, end));
    answered.map_err(|reason| {
        if company.is_called_off() {
            return SourceError::CalledOff { file: served.file.clone() };
        }
        // What it has to say comes before it ends, at the latest.
        let alive = child.wait(Duration::ZERO).is_none();
        child.end(CALL_OFF_GRACE);
        child.hear_out();
        not_ready(reason, served, settings, alive)
    })
}

fn connected(served: &Served, end: Instant) -> Result<OwnedFd, NotReady> {
    loop {
        match served.connect() {
            Ok(connection) => return Ok(connection),
            // It is not bound yet, or bound and not listened at.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) => {}
            Err(error) => return Err(NotReady::System(error)),
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NotReady::TimedOut { waiting_for: "its socket" });
        }
        if served.child.wait(left.min(LOOK_PAUSE)).is_some() {
            return Err(NotReady::Exited);
        }
    }
}

fn not_ready(reason: NotReady, served: &Served, settings: &Settings, alive: bool) -> SourceError {
    let file = served.file.clone();
    let (refusal, said) = cause::told(&served.child.said().lines());
    match reason {
        NotReady::System(error) => SourceError::System { what: "talking to it", error },
        NotReady::TimedOut { waiting_for } => {
            SourceError::NotReady { file, waiting_for, deadline: settings.start_deadline, said }
        }
        // A cause that is told is worth more than how it showed.
        NotReady::Exited | NotReady::Handshake(_) if refusal != Refusal::Unknown => {
            SourceError::Refused { file, refusal, said }
        }
        NotReady::Exited => served.died(),
        NotReady::Handshake(_) if !served.child.said().lines().is_empty() && alive => {
            SourceError::Refused { file, refusal, said }
        }
        NotReady::Handshake(error) => SourceError::Handshake { file, error },
    }
}
