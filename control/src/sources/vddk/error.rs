//! Why a disk is not served.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use blockferry_dataplane::nbd::HandshakeError;

use super::cause::Refusal;
use super::version::NbdkitVersion;

/// One line that says what went wrong, and what to do. No password is in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A value that cannot be one.
    #[error("the {what} {value:?} cannot be: {why}")]
    Setting {
        /// Which.
        what: &'static str,
        /// The value, where it is no secret.
        value: String,
        /// Why not.
        why: String,
    },
    /// No nbdkit.
    #[error("cannot run {program}: no such command; install nbdkit, or set its path")]
    ProgramMissing {
        /// The name that was looked for.
        program: String,
    },
    /// It does not tell its version.
    #[error("{program} does not tell its version: {said}; is it nbdkit?")]
    VersionUnknown {
        /// The name that it was run by.
        program: String,
        /// What it wrote.
        said: String,
    },
    /// It is too old.
    #[error(
        "{program} is of version {found}, and VMware's disks need {oldest}, better 1.34 or newer"
    )]
    TooOld {
        /// The name that it was run by.
        program: String,
        /// Its version.
        found: NbdkitVersion,
        /// The oldest that will do.
        oldest: NbdkitVersion,
    },
    /// It cannot load the plugin.
    #[error(
        "nbdkit cannot load its plugin {plugin} for VMware's disks: {said}; install it, or set its path"
    )]
    PluginMissing {
        /// The name or path that was asked for.
        plugin: String,
        /// What nbdkit wrote.
        said: String,
    },
    /// A plugin that is none for VMware's disks.
    #[error(
        "nbdkit's plugin {plugin} is not one for VMware's disks: {said}; set vddk, or the path of one \
         that takes its parameters"
    )]
    OtherPlugin {
        /// The name or path that was asked for.
        plugin: String,
        /// What it says.
        said: String,
    },
    /// A parameter that was added.
    #[error(
        "nbdkit's plugin {plugin} does not take the further parameter {parameter}: {said}; \
         nbdkit-vddk-plugin(1) of its version has those that it knows"
    )]
    ParameterRefused {
        /// The name or path of the plugin.
        plugin: String,
        /// The key, or the keys of all.
        parameter: String,
        /// What it says.
        said: String,
    },
    /// VMware's library is not where it is looked for.
    #[error(
        "VMware's library (VDDK) is not in {}: {why}; set libdir to the folder that it was unpacked to",
        folder.display()
    )]
    LibraryMissing {
        /// Where.
        folder: PathBuf,
        /// What is missing there.
        why: String,
    },
    /// The private folder of a process.
    #[error("no private folder can be made in {}: {error}", path.display())]
    Folder {
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The kernel does not take its path.
    #[error(
        "a socket in {} has a path of {length} bytes, and 107 are possible; set a shorter runtime \
         folder",
        path.display()
    )]
    SocketPath {
        /// The folder.
        path: PathBuf,
        /// Bytes of the path.
        length: usize,
    },
    /// nbdkit, its plugin or the server will not serve the disk.
    #[error("the disk {file} cannot be opened: {said}; {}", refusal.hint())]
    Refused {
        /// The disk's file.
        file: String,
        /// What it comes down to.
        refusal: Refusal,
        /// The line of nbdkit that tells most.
        said: String,
    },
    /// It ended without being asked.
    #[error("nbdkit for the disk {file} {how}: {said}")]
    Died {
        /// The disk's file.
        file: String,
        /// Its exit status in words.
        how: String,
        /// The line of nbdkit that tells most.
        said: String,
    },
    /// It was silent for too long, and was ended.
    #[error(
        "the disk {file} was not open within {deadline:?}: {waiting_for} did not come from nbdkit, \
         and {said}; can the server and its ESXi host be reached?"
    )]
    NotReady {
        /// The disk's file.
        file: String,
        /// What was awaited.
        waiting_for: &'static str,
        /// The deadline.
        deadline: Duration,
        /// The line of nbdkit that tells most.
        said: String,
    },
    /// What answers is no disk.
    #[error("nbdkit for the disk {file} does not answer as it should: {error}")]
    Handshake {
        /// The disk's file.
        file: String,
        /// What is wrong.
        error: HandshakeError,
    },
    /// It was to be written.
    #[error("the disk {file} is served for reading only; it cannot be restored to by this plugin")]
    NotWritable {
        /// The disk's file.
        file: String,
    },
    /// Another disk of the same VM failed first, or the job is not wanted any more.
    #[error("the disk {file} was not waited for: another one failed, or the job was called off")]
    CalledOff {
        /// The disk's file.
        file: String,
    },
    /// It did not end in time.
    #[error("nbdkit for the disk {file} did not end within {deadline:?} of SIGTERM and was killed")]
    Killed {
        /// The disk's file.
        file: String,
        /// The deadline.
        deadline: Duration,
    },
    /// The kernel keeps it.
    #[error("process {pid}, nbdkit for the disk {file}, does not even end by SIGKILL")]
    Stuck {
        /// The disk's file.
        file: String,
        /// Its process id.
        pid: u32,
    },
    /// The system could not do it.
    #[error("nbdkit for a disk: {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

impl SourceError {
    /// Whether it is about settings, or what they name: the same again would fail again.
    #[must_use]
    pub fn is_wrong_request(&self) -> bool {
        matches!(
            self,
            Self::Setting { .. }
                | Self::ProgramMissing { .. }
                | Self::VersionUnknown { .. }
                | Self::TooOld { .. }
                | Self::PluginMissing { .. }
                | Self::OtherPlugin { .. }
                | Self::ParameterRefused { .. }
                | Self::LibraryMissing { .. }
                | Self::SocketPath { .. }
        )
    }

    pub(super) fn setting(what: &'static str, value: &str, why: &str) -> Self {
        Self::Setting { what, value: value.to_owned(), why: why.to_owned() }
    }

    pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::System { what, error }
    }
}
