//! What a server is reached by.

use std::time::Duration;

use super::password::PasswordFile;
use super::trust::Trust;

/// The port of HTTPS.
pub const HTTPS_PORT: u16 = 443;

/// A vCenter or an ESXi host, and as whom it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VsphereServer {
    /// Its name or address, without scheme and brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// As whom.
    pub user: String,
    /// The password.
    pub password: PasswordFile,
    /// By what it is known.
    pub trust: Trust,
    /// How long it is waited for.
    pub deadlines: VsphereDeadlines,
}

/// How long a server is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VsphereDeadlines {
    /// An answer in full.
    pub answer: Duration,
    /// An answer with changed areas in full: servers read the maps of all layers for it.
    pub areas: Duration,
    /// All answers about the changed areas of one disk.
    pub changes: Duration,
    /// A task that changes a VM's settings, or makes a snapshot; a guest may take minutes for that.
    pub change: Duration,
    /// The removal of a snapshot: all that was written since it was made is merged.
    pub removal: Duration,
    /// The end of a task that was cancelled.
    pub cancel: Duration,
    /// A server that gives no answer, or refuses for a while, where a snapshot is to be removed.
    pub absence: Duration,
}

impl Default for VsphereDeadlines {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(60),
            areas: Duration::from_secs(300),
            // A page has some 2,000 areas: 500 of them, at seven seconds each.
            changes: Duration::from_secs(3600),
            change: Duration::from_secs(900),
            removal: Duration::from_secs(4 * 3600),
            cancel: Duration::from_secs(30),
            // Longer than a vCenter takes to start anew, as a rule.
            absence: Duration::from_secs(300),
        }
    }
}

impl VsphereDeadlines {
    /// So long for a snapshot to be made, and to be removed; and no longer for anything else, which
    /// has shorter ones of its own.
    #[must_use]
    pub fn within(longest: Duration) -> Self {
        let usual = Self::default();
        Self {
            answer: usual.answer.min(longest),
            areas: usual.areas.min(longest),
            // Not a wait, but many answers, each of which has its own.
            changes: usual.changes,
            change: longest,
            removal: longest,
            cancel: usual.cancel.min(longest),
            absence: usual.absence.min(longest),
        }
    }
}

impl VsphereServer {
    /// The server at `host`, on port 443 and with the deadlines that are usual.
    #[must_use]
    pub fn new(host: &str, user: &str, password: PasswordFile, trust: Trust) -> Self {
        Self {
            host: host.to_owned(),
            port: HTTPS_PORT,
            user: user.to_owned(),
            password,
            trust,
            deadlines: VsphereDeadlines::default(),
        }
    }

    /// As it stands in a URL: an address of IPv6 in brackets.
    pub(super) fn authority(&self) -> String {
        let host = &self.host;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if self.port == HTTPS_PORT { host } else { format!("{host}:{}", self.port) }
    }
}
