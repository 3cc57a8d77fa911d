//! The parameters of the plugin.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nbdkit::{Error, Result};

use crate::ffi;

/// Where the real plugin looks by default.
const USUAL_LIBDIR: &str = "/usr/lib/vmware-vix-disklib";
/// VMware's library there; a file of this name in the folder of a double stands for it.
const LIBRARY: &str = "lib64/libvixDiskLib.so.8";

static GIVEN: Mutex<Parameters> = Mutex::new(Parameters::new());

/// What was given so far.
#[derive(Clone)]
pub(crate) struct Parameters {
    pub(crate) libdir: Option<PathBuf>,
    pub(crate) server: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) thumbprint: Option<String>,
    pub(crate) vm: Option<String>,
    pub(crate) snapshot: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) single_link: bool,
    /// nbdkit was run again already.
    pub(crate) reexecuted: bool,
}

/// What was given.
pub(crate) fn given() -> MutexGuard<'static, Parameters> {
    GIVEN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(why: String) -> Error {
    Error::new(libc::EINVAL, why)
}

impl Parameters {
    const fn new() -> Self {
        Self {
            libdir: None,
            server: None,
            user: None,
            password: None,
            thumbprint: None,
            vm: None,
            snapshot: None,
            file: None,
            single_link: false,
            reexecuted: false,
        }
    }

    /// Takes a parameter, or refuses it as the real plugin does.
    pub(crate) fn take(&mut self, key: &str, value: &str) -> Result<()> {
        let text = Some(value.to_owned());
        match key {
            "compression" => {
                if !["none", "zlib", "fastlz", "skipz"].contains(&value) {
                    return Err(refused(format!("unknown compression type: {value}")));
                }
            }
            "libdir" => self.libdir = Some(real_path(value)?),
            "config" => _ = real_path(value)?,
            "password" => self.password = Some(ffi::read_password(value)?),
            "single-link" => self.single_link = nbdkit::parse_bool(value)?,
            "unbuffered" | "noreexec" => _ = nbdkit::parse_bool(value)?,
            "port" | "nfchostport" => {
                value.parse::<u16>().map_err(|error| refused(format!("{key}: {error}")))?;
            }
            "server" => self.server = text,
            "user" => self.user = text,
            "thumbprint" => self.thumbprint = text,
            "vm" => self.vm = text,
            "snapshot" => self.snapshot = text,
            "file" => self.file = text,
            "cookie" | "transports" | "vimapiver" => {}
            "reexeced_" => self.reexecuted = true,
            _ => return Err(refused(format!("unknown parameter '{key}'"))),
        }
        Ok(())
    }

    /// Whether all is there that a connection to a server needs.
    pub(crate) fn complete(&self) -> Result<()> {
        if self.file.is_none() {
            let why = "you must supply the file=<FILENAME> parameter after the plugin name on the \
                       command line";
            return Err(refused(why.to_owned()));
        }
        let needed = [
            ("server", self.server.is_some()),
            ("user", self.user.is_some()),
            ("password", self.password.is_some()),
            ("vm", self.vm.is_some()),
        ];
        match needed.iter().find(|(_, given)| !given) {
            Some((name, _)) => {
                Err(refused(format!("remote connection requested, missing parameter: {name}")))
            }
            None => Ok(()),
        }
    }
}

/// Tells of the plugin as the real one does. Where the library is, that one has loaded it too.
pub(crate) fn dump() {
    println!("vddk_default_libdir={USUAL_LIBDIR}");
    let libdir = given().libdir.clone().unwrap_or_else(|| USUAL_LIBDIR.into());
    let library = libdir.join(LIBRARY);
    if library.exists() {
        println!("vddk_dll={}", library.display());
    }
}

/// A path as the real plugin takes it: what is not there is refused at once.
fn real_path(value: &str) -> Result<PathBuf> {
    std::fs::canonicalize(value).map_err(|error| {
        let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
        Error::new(errno, format!("realpath: {value}: {}", words(&error)))
    })
}

/// The words of the system without the number that Rust adds.
pub(crate) fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
