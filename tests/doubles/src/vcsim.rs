//! VMware's own simulator of vSphere, a program that scripts/setup builds from Debian's packages.
//!
//! It holds the client, and the double of vSphere, to what somebody else has made of the same
//! schema: login, inventory, tasks and snapshots. It has no changed areas.

use std::env;
use std::fs;
use std::io::{self, PipeWriter};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::Child;
use crate::vsphere::Flavour;
use crate::vsphere::certificate::Certificate;

/// Says `none` where scripts/setup could not build it.
const SETTING: &str = "BLOCKFERRY_VCSIM";
/// It makes its inventory first.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// A running one; it ends with this value. `backup` may log in with `secret`.
#[derive(Debug)]
pub struct Vcsim {
    url: String,
    certificate: Certificate,
    _child: Child,
    // It ends when this does.
    _stdin: PipeWriter,
    _folder: TempDir,
}

impl Vcsim {
    /// Starts one with `machines` VMs in each of its pools. `None` where the set-up has said that
    /// it cannot be had here; an error where it was never set up.
    pub fn start(flavour: Flavour, machines: usize) -> io::Result<Option<Self>> {
        if env::var_os(SETTING).is_some_and(|word| word == "none") {
            return Ok(None);
        }
        let program = program()?;
        let certificate = Certificate::make()?;
        let folder = TempDir::with_prefix("vcsim-")?;
        let (pem, key) = (folder.path().join("ca.pem"), folder.path().join("key.pem"));
        fs::write(&pem, &certificate.pem)?;
        fs::write(&key, &certificate.key_pem)?;
        let (reader, stdin) = io::pipe()?;
        let mut command = Command::new(program);
        command.arg("-certificate").arg(pem).arg("-key").arg(key);
        command.args(["-vms", &machines.to_string()]).stdin(reader);
        // It makes folders of its own, and removes them only when it ends in order.
        command.env("TMPDIR", folder.path());
        if flavour == Flavour::Esxi {
            command.arg("-esx");
        }
        let child = Child::spawn(command)?;
        let url = child.first_line(START_DEADLINE)?;
        Ok(Some(Self { url, certificate, _child: child, _stdin: stdin, _folder: folder }))
    }

    /// `https://127.0.0.1:PORT/sdk`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        let host = self.url.trim_start_matches("https://").trim_end_matches("/sdk");
        host.parse().expect("it prints an address")
    }

    /// The SHA-1 thumbprint of its certificate: `AA:BB:...`.
    pub fn thumbprint(&self) -> String {
        self.certificate.sha1()
    }

    /// The SHA-256 thumbprint.
    pub fn thumbprint_sha256(&self) -> String {
        self.certificate.sha256()
    }

    /// Its certificate, which signs itself.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate.pem
    }
}

fn program() -> io::Result<PathBuf> {
    let program = tools().join("bin/vcsim");
    if program.exists() {
        return Ok(program);
    }
    let why = format!("run scripts/setup, or say {SETTING}=none: no {}", program.display());
    Err(io::Error::new(io::ErrorKind::NotFound, why))
}

/// Where scripts/setup puts what is no package.
pub fn tools() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default());
    let cache =
        || env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    env::var_os("BLOCKFERRY_TOOLS").map_or_else(|| cache().join("blockferry/tools"), PathBuf::from)
}
