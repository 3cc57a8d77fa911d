//! The pretended vCenter, and who gets which of its disks.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nbdkit::{Error, Result};
use serde::Deserialize;

use crate::parameters::Parameters;

/// The file in `libdir`.
pub(crate) const FILE: &str = "vddk.json";

#[derive(Debug, Deserialize)]
pub(crate) struct State {
    server_thumbprint: String,
    users: BTreeMap<String, String>,
    vms: BTreeMap<String, Vm>,
    #[serde(default)]
    hosts_in_maintenance: Vec<String>,
    #[serde(default)]
    pub(crate) faults: Faults,
}

#[derive(Debug, Deserialize)]
struct Vm {
    #[serde(default)]
    snapshots: BTreeMap<String, BTreeMap<String, Backing>>,
    #[serde(default)]
    disks: BTreeMap<String, Backing>,
    #[serde(default)]
    powered_on: bool,
    #[serde(default)]
    host: Option<String>,
}

/// Where the bytes of a disk are.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Backing {
    pub(crate) path: PathBuf,
    /// In bytes.
    pub(crate) capacity: u64,
}

/// What goes wrong on order; see the crate's description.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Faults {
    pub(crate) refuse_open: Option<String>,
    pub(crate) open_delay_ms: u64,
    pub(crate) fail_extents: bool,
    pub(crate) extents_delay_ms: u64,
    pub(crate) read_delay_ms: u64,
    pub(crate) fail_reads_at: Option<u64>,
    pub(crate) die_after_bytes: Option<u64>,
    pub(crate) die_after_written: Option<u64>,
    pub(crate) lose_writes_at: Option<u64>,
}

/// One version of the file: it is replaced as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version(u64, i64, i64);

impl Version {
    pub(crate) fn now(libdir: &Path) -> Result<Self> {
        let data = fs::metadata(libdir.join(FILE))?;
        Ok(Self(data.ino(), data.ctime(), data.ctime_nsec()))
    }
}

fn refused(call: &str, why: &str) -> Error {
    Error::new(libc::EIO, format!("{call}: {why}"))
}

impl State {
    /// Reads it.
    pub(crate) fn read(libdir: &Path) -> Result<Self> {
        let path = libdir.join(FILE);
        let text = fs::read(&path).map_err(|error| {
            refused("VixDiskLib_InitEx", &format!("{}: {error}", path.display()))
        })?;
        serde_json::from_slice(&text)
            .map_err(|error| refused("VixDiskLib_InitEx", &format!("{}: {error}", path.display())))
    }

    /// The disk that the parameters ask for, after the checks in the order in which they are made:
    /// who the server is, who asks, then what for.
    pub(crate) fn disk(&self, asked: &Parameters, read_only: bool) -> Result<&Backing> {
        self.admit(asked)?;
        // vm= is "moref=" and the id.
        let spec = asked.vm.as_deref().unwrap_or_default();
        let vm = spec.strip_prefix("moref=").and_then(|id| self.vms.get(id));
        let Some(vm) = vm else {
            return Err(refused("VixDiskLib_ConnectEx", "One of the parameters was invalid"));
        };
        let file = asked.file.as_deref().unwrap_or_default();
        let open = format!("VixDiskLib_Open: {file}");
        if vm.host.as_ref().is_some_and(|host| self.is_closed(host)) {
            return Err(refused(&open, "The host is in maintenance mode"));
        }
        let disks = match &asked.snapshot {
            Some(_) if !read_only => {
                return Err(refused(&open, "You do not have access rights to this file"));
            }
            Some(snapshot) => vm.snapshots.get(snapshot).ok_or_else(|| {
                refused("VixDiskLib_ConnectEx", "The specified snapshot does not exist")
            })?,
            // The running VM has it.
            None if vm.powered_on => return Err(refused(&open, "Failed to lock the file")),
            None => &vm.disks,
        };
        disks.get(file).ok_or_else(|| refused(&open, "A file was not found"))
    }

    /// The host that a VM is on now, where that is told.
    pub(crate) fn host(&self, asked: &Parameters) -> Option<String> {
        let id = asked.vm.as_deref()?.strip_prefix("moref=")?;
        self.vms.get(id)?.host.clone()
    }

    /// Whether a host is in maintenance: it ends the connections that it has, and takes no others.
    pub(crate) fn is_closed(&self, host: &str) -> bool {
        self.hosts_in_maintenance.iter().any(|closed| closed == host)
    }

    fn admit(&self, asked: &Parameters) -> Result<()> {
        let connect = "VixDiskLib_ConnectEx";
        // The real plugin may be run without one, and then takes any server.
        if let Some(expected) = &asked.thumbprint
            && !expected.eq_ignore_ascii_case(&self.server_thumbprint)
        {
            let actual = &self.server_thumbprint;
            return Err(refused(
                "VixDiskLibVim",
                &format!(
                    "Failed to verify SSL certificate: actual thumbprint={actual} \
                     expected={expected}"
                ),
            ));
        }
        let known = asked.user.as_ref().and_then(|user| self.users.get(user));
        if known.is_none() || known != asked.password.as_ref() {
            let why = "Cannot complete login due to an incorrect user name or password";
            return Err(refused(connect, why));
        }
        match &self.faults.refuse_open {
            Some(words) => Err(Error::new(libc::EIO, words.clone())),
            None => Ok(()),
        }
    }
}
