//! What is to be served, for whom, and how.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use blockferry_dataplane::LaneSettings;

use super::error::SourceError;

/// Time from the start of the process to the end of the first handshake. The server has to be
/// logged in to and the disk to be opened there, which takes seconds at best.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Time from SIGTERM to SIGKILL: enough to close the disk and to log out.
const END_DEADLINE: Duration = Duration::from_secs(30);
/// Encrypted before not: what VMware's library does without being told depends on its version, and
/// some versions end in a crash.
const TRANSPORTS: &str = "nbdssl:nbd";
/// Bytes of a password: as many as a pipe takes at once (`PIPE_BUF`), less the end of the line.
const MAX_PASSWORD_BYTES: usize = 4095;

/// What a lane should ask for at once, in bytes: small reads are slow, and through vCenter those of
/// more than 2 MiB may fail for want of memory for transfers ("NFC error 5").
pub const REQUEST_BYTES: u32 = 1 << 20;

/// What a lane has to keep to: one connection, and requests that are not too long.
#[must_use]
pub fn fitted(lane: LaneSettings) -> LaneSettings {
    LaneSettings {
        // More at once are slower there, and longer requests may be refused.
        connections: 1,
        adapt_bytes: (*lane.adapt_bytes.start()).min(REQUEST_BYTES)
            ..=(*lane.adapt_bytes.end()).min(REQUEST_BYTES),
        request_bytes: lane.request_bytes.map(|bytes| bytes.min(REQUEST_BYTES)),
        ..lane
    }
}

/// Parameters that are not for the operator to add, and why.
const TAKEN: &[(&[&str], &str)] = &[
    (&["server", "user", "thumbprint", "vm", "snapshot", "file"], "they are set for each disk"),
    (&["libdir", "transports", "compression"], "there is a setting for each of them"),
    (&["password", "cookie"], "everybody can read it in the arguments of a process"),
    (&["reexeced_", "noreexec"], "it belongs to the plugin's own ways"),
    // The rest of a disk would read as zeros.
    (&["single-link"], "only a part of the disk would be read"),
    (&["export"], "the file is set for each disk"),
];

/// How nbdkit is run; the same for all disks.
#[derive(Clone, Debug)]
pub struct Settings {
    /// nbdkit, by name or path.
    pub nbdkit: OsString,
    /// Its plugin: `vddk`, or the path of one that takes the same parameters.
    pub plugin: OsString,
    /// The folder of VMware's library, as it is unpacked; by default where the plugin looks for it.
    pub libdir: Option<PathBuf>,
    /// Ways to the disk in the order of preference, with colons between them, as VMware's library
    /// has them.
    pub transports: String,
    /// How data is packed between the server and here.
    pub compression: Compression,
    /// Further parameters of the plugin.
    pub extra: Vec<ExtraParameter>,
    /// A folder for the private ones of the processes, of at most 78 bytes: sockets in them
    /// may have 107.
    pub runtime: PathBuf,
    /// Deadline for being ready.
    pub start_deadline: Duration,
    /// Deadline for ending in order.
    pub end_deadline: Duration,
}

impl Settings {
    /// The usual ones, with private folders in `runtime`.
    #[must_use]
    pub fn new(runtime: PathBuf) -> Self {
        Self {
            nbdkit: "nbdkit".into(),
            plugin: "vddk".into(),
            libdir: None,
            transports: TRANSPORTS.to_owned(),
            compression: Compression::default(),
            extra: Vec::new(),
            runtime,
            start_deadline: START_DEADLINE,
            end_deadline: END_DEADLINE,
        }
    }
}

/// How data is packed on its way. It takes VMware's hosts CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// zlib.
    Zlib,
    /// FastLZ.
    Fastlz,
    /// Only zeros are left out.
    Skipz,
}

impl Compression {
    /// Its name, as the plugin has it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zlib => "zlib",
            Self::Fastlz => "fastlz",
            Self::Skipz => "skipz",
        }
    }
}

impl FromStr for Compression {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        [Self::None, Self::Zlib, Self::Fastlz, Self::Skipz]
            .into_iter()
            .find(|kind| kind.word() == text)
            .ok_or_else(|| {
                SourceError::setting("compression", text, "it is none, zlib, fastlz or skipz")
            })
    }
}

/// A parameter of the plugin that there is no setting for, as `nfchostport=902`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraParameter {
    key: String,
    value: String,
}

impl ExtraParameter {
    pub(super) fn key(&self) -> &str {
        &self.key
    }
}

impl FromStr for ExtraParameter {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let refused = |shown: &str, why: &str| SourceError::setting("parameter", shown, why);
        let Some((key, value)) = text.split_once('=') else {
            // Not the text, which may be a secret.
            return Err(refused("", "write KEY=VALUE"));
        };
        // What is no key to nbdkit is the name of a file to it.
        let begins = key.starts_with(|first: char| first.is_ascii_alphabetic());
        let goes_on = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !begins || !key.chars().all(goes_on) {
            return Err(refused(key, "a key is of letters, digits, '.', '_' and '-'"));
        }
        let taken = |keys: &[&str]| keys.iter().any(|taken| taken.eq_ignore_ascii_case(key));
        if let Some((_, why)) = TAKEN.iter().find(|(keys, _)| taken(keys)) {
            // Not its value, which may be a secret.
            return Err(refused(key, why));
        }
        if value.contains(char::is_control) {
            return Err(refused(key, "its value has a control character"));
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

impl fmt::Display for ExtraParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

/// What is done with a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// It is read as it was when a snapshot was made.
    Snapshot {
        /// The id of the snapshot's managed object, as `snapshot-64`.
        id: String,
    },
    /// It is written, in a VM that is powered off and has no snapshot.
    Write,
}

/// A disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The id of the VM's managed object, as `vm-57`.
    pub vm: String,
    /// Its file, as the snapshot's configuration has it: `[datastore] vm/vm.vmdk`.
    pub file: String,
    /// What is done with it.
    pub access: Access,
}

impl Disk {
    pub(super) fn check(&self) -> Result<(), SourceError> {
        printable("id of the VM", &self.vm)?;
        printable("file", &self.file)?;
        match &self.access {
            Access::Snapshot { id } => printable("id of the snapshot", id),
            Access::Write => Ok(()),
        }
    }
}

/// Who asks, and whom.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// vCenter or ESXi host, by name or address.
    pub server: String,
    /// Who logs in there.
    pub user: String,
    /// By what.
    pub password: Password,
    /// What the server's certificate is known by: its SHA-1, as `AA:BB:...`.
    pub thumbprint: String,
}

impl Credentials {
    pub(super) fn check(&self) -> Result<(), SourceError> {
        printable("server", &self.server)?;
        printable("user", &self.user)?;
        printable("thumbprint", &self.thumbprint)
    }
}

/// A password. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// One of 1 to 4095 bytes in one line, which is what nbdkit can be given.
    ///
    /// # Errors
    /// Any other; the error does not show it.
    pub fn new(text: String) -> Result<Self, SourceError> {
        let refused = |why| SourceError::setting("password", "", why);
        if text.is_empty() {
            return Err(refused("it is empty"));
        }
        if text.len() > MAX_PASSWORD_BYTES {
            return Err(refused("it is longer than 4095 bytes"));
        }
        // nbdkit reads one line, and a text of C.
        if text.contains(['\n', '\0']) {
            return Err(refused("it has an end of line in it, or a zero byte"));
        }
        Ok(Self(text))
    }

    pub(super) fn line(&self) -> Vec<u8> {
        [self.0.as_bytes(), b"\n"].concat()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(not shown)")
    }
}

/// Sees whether a value can be one, and cannot be taken for several lines.
fn printable(what: &'static str, value: &str) -> Result<(), SourceError> {
    if value.trim().is_empty() {
        return Err(SourceError::setting(what, value, "it is empty"));
    }
    if value.contains(char::is_control) {
        return Err(SourceError::setting(what, value, "it has a control character"));
    }
    Ok(())
}
