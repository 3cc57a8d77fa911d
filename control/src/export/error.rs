//! Why an export did not start, or did not end as it should.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use blockferry_dataplane::nbd::HandshakeError;

/// One line that says what went wrong, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// No qemu-nbd.
    #[error(
        "cannot run {program}: no such command; install qemu-utils (qemu-nbd), or set its path"
    )]
    ProgramMissing {
        /// The name that was looked for.
        program: String,
    },
    /// Somebody else listens there.
    #[error(
        "port {port} of 127.0.0.1 is in use by another process; end that one, or take another port"
    )]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// The address could not be bound.
    #[error("cannot listen on {what}: {error}")]
    Listen {
        /// The address.
        what: String,
        /// What the system said.
        error: io::Error,
    },
    /// No such image.
    #[error("there is no image {} to export", image.display())]
    ImageMissing {
        /// The image.
        image: PathBuf,
    },
    /// A file below the image is not there.
    #[error("a backing file of {} is missing: {said}; bring it back, the image is of no use without", image.display())]
    BackingMissing {
        /// The image.
        image: PathBuf,
        /// qemu's words.
        said: String,
    },
    /// Another process has it open.
    #[error("{} is in use by another process (an export, a virtual machine, qemu-img): {said}; end that one first", image.display())]
    Locked {
        /// The image.
        image: PathBuf,
        /// qemu's words.
        said: String,
    },
    /// It exited before it was ready.
    #[error("the export of {} did not start: {program} {how}: {said}", image.display())]
    DiedAtStart {
        /// The image.
        image: PathBuf,
        /// The server's name.
        program: String,
        /// Its exit status in words.
        how: String,
        /// Its words.
        said: String,
    },
    /// Somebody ended it before it was ready: the kernel where memory is short, or an administrator.
    /// That says nothing about the image.
    #[error("the export of {} did not start: {program} {how}: {said}; look at the memory of the machine, and run it again", image.display())]
    KilledAtStart {
        /// The image.
        image: PathBuf,
        /// The server's name.
        program: String,
        /// By which signal, in words.
        how: String,
        /// Its words.
        said: String,
    },
    /// It was silent for too long, and was ended.
    #[error("the export of {} was not ready within {deadline:?}: {waiting_for} did not come, and {said}; look at the storage below it", image.display())]
    NotReady {
        /// The image.
        image: PathBuf,
        /// What was awaited.
        waiting_for: &'static str,
        /// The deadline.
        deadline: Duration,
        /// Its words.
        said: String,
    },
    /// What answers is no export of that name.
    #[error("the export of {} does not answer as it should: {error}", image.display())]
    Handshake {
        /// The image.
        image: PathBuf,
        /// How not.
        error: HandshakeError,
    },
    /// It had exited before it was told to.
    #[error("the export of {} ended before it was told to: {reason}", image.display())]
    Exited {
        /// The image.
        image: PathBuf,
        /// Its exit status and last words.
        reason: String,
    },
    /// It ended, and says that something went wrong at the end.
    #[error("the export of {} did not end in order: {reason}; check the image before it is used", image.display())]
    EndedBadly {
        /// The image.
        image: PathBuf,
        /// Its exit status and last words.
        reason: String,
    },
    /// It did not end in time.
    #[error("the export of {} did not end within {deadline:?} of SIGTERM and was killed; what was not flushed is lost, check the image before it is used", image.display())]
    Killed {
        /// The image.
        image: PathBuf,
        /// The deadline.
        deadline: Duration,
    },
    /// The kernel keeps it.
    #[error("process {pid}, which exports {}, does not even end by SIGKILL: the storage below it hangs; the image stays in use until it is gone", image.display())]
    Stuck {
        /// The image.
        image: PathBuf,
        /// Its process id.
        pid: u32,
    },
    /// The system could not do it.
    #[error("the export of {}: {what}: {error}", image.display())]
    System {
        /// The image.
        image: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}
