//! qemu-nbd over an image.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use crate::server::{Server, Transport};

/// How to start qemu-nbd. It goes on when clients leave (`--persistent`).
#[derive(Clone, Debug)]
pub struct QemuNbd {
    image: OsString,
    options: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    export: String,
    transport: Transport,
}

impl QemuNbd {
    /// Over `image`, whose format should be given with [`QemuNbd::format`].
    pub fn new(image: impl AsRef<Path>) -> Self {
        Self {
            image: image.as_ref().as_os_str().to_owned(),
            options: vec!["--persistent".into()],
            env: Vec::new(),
            export: String::new(),
            transport: Transport::default(),
        }
    }

    /// The image's format: `raw`, `qcow2` ...
    #[must_use]
    pub fn format(self, format: &str) -> Self {
        self.arg(format!("--format={format}"))
    }

    /// How many clients are served at once, 0 for any number. With 1, qemu-nbd's default, a
    /// second client waits with no greeting, and MULTI_CONN is not advertised.
    #[must_use]
    pub fn shared(self, clients: u32) -> Self {
        self.arg(format!("--shared={clients}"))
    }

    /// The name of the export.
    #[must_use]
    pub fn export(mut self, name: &str) -> Self {
        self.export = name.to_owned();
        self
    }

    /// Refuses writes.
    #[must_use]
    pub fn read_only(self) -> Self {
        self.arg("--read-only")
    }

    /// Offers the dirty bitmap `name` as `qemu:dirty-bitmap:name`.
    #[must_use]
    pub fn bitmap(self, name: &str) -> Self {
        self.arg(format!("--bitmap={name}"))
    }

    /// Any other option.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.options.push(arg.as_ref().to_owned());
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Listens on a free port of 127.0.0.1.
    #[must_use]
    pub fn tcp(mut self) -> Self {
        self.transport = Transport::Tcp;
        self
    }

    /// Listens on a Unix socket, which is the default.
    #[must_use]
    pub fn unix(mut self) -> Self {
        self.transport = Transport::Unix;
        self
    }

    /// Starts it.
    pub fn start(self) -> io::Result<Server> {
        let mut args = self.options;
        if !self.export.is_empty() {
            args.push(format!("--export-name={}", self.export).into());
        }
        args.push("--".into());
        args.push(self.image);
        Server::start(self.transport, &self.export, "qemu-nbd".as_ref(), args, self.env)
    }
}
