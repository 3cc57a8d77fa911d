//! Faults: what a server says when it does not do what was asked.

use std::fmt;

use super::xml::Element;

/// Characters of a message that are kept; some have a stack of the server's in them.
const MESSAGE_CHARS: usize = 300;

/// What kind of fault it is, as far as that changes what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// The session is over, or there is none.
    NotAuthenticated,
    /// Wrong user or password.
    InvalidLogin,
    /// A file of the VM: not there, locked, damaged.
    FileFault {
        /// Which.
        file: Option<String>,
    },
    /// The datastore is full.
    NoDiskSpace {
        /// The file that was to grow.
        file: Option<String>,
    },
    /// An argument is not one.
    InvalidArgument {
        /// Which.
        property: Option<String>,
    },
    /// The VM is busy with something else.
    TaskInProgress,
    /// The server does not reach the host.
    HostCommunication,
    /// The user may not.
    NoPermission {
        /// The privilege that is missing.
        privilege: Option<String>,
    },
    /// There is no such object.
    ManagedObjectNotFound {
        /// Which.
        object: Option<String>,
    },
    /// It was cancelled.
    RequestCanceled,
    /// The host's licence or the server's version lacks it.
    NotSupported,
    /// Any other.
    Other,
}

/// A fault of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// Its type in the schema.
    pub name: String,
    /// What the server says, in one line.
    pub message: String,
}

impl Fault {
    /// That of an answer: `soapenv:Fault`.
    pub(super) fn of_answer(fault: &Element) -> Self {
        let inside = |name: &str| fault.inside().iter().find(|child| child.local() == name);
        let message = inside("faultstring").map_or("", Element::text);
        let detail = inside("detail").and_then(|detail| detail.inside().first());
        Self::of(detail, message)
    }

    /// That of a task, or of a property that is missing: `LocalizedMethodFault`.
    pub(super) fn of_method(fault: &Element) -> Self {
        let message = fault.value("localizedMessage").unwrap_or_default();
        Self::of(fault.child("fault"), message)
    }

    /// The namespace of a detail differs between servers, so its parts go by their local names.
    fn of(detail: Option<&Element>, message: &str) -> Self {
        let name = detail.map_or("", |detail| {
            let local = detail.local();
            detail.kind().unwrap_or_else(|| local.strip_suffix("Fault").unwrap_or(local))
        });
        let said = |field: &str| {
            let found = detail?.inside().iter().find(|child| child.local() == field)?;
            Some(one_line(found.text())).filter(|text| !text.is_empty())
        };
        let kind = match name {
            "NotAuthenticated" => FaultKind::NotAuthenticated,
            "InvalidLogin" | "PasswordExpired" => FaultKind::InvalidLogin,
            "NoDiskSpace" => FaultKind::NoDiskSpace { file: said("file") },
            "FileFault" | "FileNotFound" | "FileLocked" | "CannotAccessFile"
            | "FileNotWritable" | "CannotDeleteFile" | "NetworkCopyFault" | "FileTooLarge" => {
                FaultKind::FileFault { file: said("file") }
            }
            "InvalidArgument" | "InvalidIndexArgument" | "IncompatibleSetting" => {
                FaultKind::InvalidArgument { property: said("invalidProperty") }
            }
            "InvalidProperty" => FaultKind::InvalidArgument { property: said("name") },
            "TaskInProgress" | "VAppTaskInProgress" | "ConcurrentAccess" => {
                FaultKind::TaskInProgress
            }
            "HostCommunication" | "HostNotConnected" | "HostNotReachable" => {
                FaultKind::HostCommunication
            }
            "NoPermission" | "RestrictedByAdministrator" => {
                FaultKind::NoPermission { privilege: said("privilegeId") }
            }
            "ManagedObjectNotFound" => FaultKind::ManagedObjectNotFound { object: said("obj") },
            "RequestCanceled" => FaultKind::RequestCanceled,
            "NotSupported" | "RestrictedVersion" | "NotEnoughLicenses" => FaultKind::NotSupported,
            _ => FaultKind::Other,
        };
        let name = if name.is_empty() { "a fault without a name" } else { name };
        Self { kind, name: one_line(name), message: one_line(message) }
    }

    /// Whether it says nothing of the guest, so that asking again without it would change nothing.
    pub(super) fn is_beside_the_guest(&self) -> bool {
        !matches!(
            self.kind,
            FaultKind::Other | FaultKind::NotSupported | FaultKind::RequestCanceled
        )
    }

    /// What to do.
    fn hint(&self) -> Option<String> {
        Some(match &self.kind {
            FaultKind::NotAuthenticated => {
                "the server ended the session at once; look at its limits of sessions".into()
            }
            FaultKind::InvalidLogin => {
                "look at the user and the password file; a user of vCenter has its domain in its \
                 name"
                    .into()
            }
            FaultKind::FileFault { .. } => "look at the VM's files and their datastore".into(),
            FaultKind::NoDiskSpace { .. } => "make room on the datastore".into(),
            FaultKind::InvalidArgument { property } => match property {
                Some(property) => format!("the argument is {property}"),
                None => return None,
            },
            FaultKind::TaskInProgress => {
                "something else is being done with the VM; wait for it".into()
            }
            FaultKind::HostCommunication => {
                "look at the VM's host, and at the network to it".into()
            }
            FaultKind::NoPermission { privilege } => match privilege {
                Some(privilege) => format!("give the user the privilege {privilege}"),
                None => "give the user the privilege".into(),
            },
            FaultKind::ManagedObjectNotFound { object } => match object {
                Some(object) => format!("{object} is not there any more"),
                None => "it is not there any more".into(),
            },
            FaultKind::NotSupported => {
                "the version or the licence of the host lacks it: an ESXi host without a paid \
                 licence lets nobody make snapshots from outside"
                    .into()
            }
            FaultKind::RequestCanceled => "somebody cancelled it".into(),
            FaultKind::Other => return None,
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message.trim_end_matches('.'))?;
        }
        match self.hint() {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// A text of the server's in one line.
fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let joined = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let mut short: String = joined.chars().take(MESSAGE_CHARS).collect();
    if short.len() < joined.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests;
