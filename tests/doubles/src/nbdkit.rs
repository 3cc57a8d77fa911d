//! nbdkit with its plugins and filters.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use crate::server::{Server, Transport};

/// How to start nbdkit.
#[derive(Clone, Debug)]
pub struct Nbdkit {
    plugin: Vec<OsString>,
    filters: Vec<String>,
    parameters: Vec<OsString>,
    options: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    export: String,
    transport: Transport,
}

impl Nbdkit {
    /// Any plugin, with its parameters.
    pub fn plugin<P: AsRef<OsStr>>(name: &str, parameters: &[P]) -> Self {
        let mut plugin = vec![OsString::from(name)];
        plugin.extend(parameters.iter().map(|p| p.as_ref().to_owned()));
        Self {
            plugin,
            filters: Vec::new(),
            parameters: Vec::new(),
            options: Vec::new(),
            env: Vec::new(),
            export: String::new(),
            transport: Transport::default(),
        }
    }

    /// A file or block device.
    pub fn file(path: impl AsRef<Path>) -> Self {
        // A name before the equals sign, or a path with one in it would be a parameter.
        let mut parameter = OsString::from("file=");
        parameter.push(path.as_ref());
        Self::plugin("file", &[parameter])
    }

    /// A sparse disk of `size` bytes in memory, zero at first.
    pub fn memory(size: u64) -> Self {
        Self::sized("memory", size)
    }

    /// A disk on which every 8 bytes hold their own offset; read-only.
    pub fn pattern(size: u64) -> Self {
        Self::sized("pattern", size)
    }

    /// A disk that reads as zeros and forgets what is written.
    pub fn null(size: u64) -> Self {
        Self::sized("null", size)
    }

    /// Pseudo-random data and holes, the same for the same seed. As a target it compares: a
    /// write of anything else is an I/O error.
    pub fn sparse_random(size: u64, seed: u64) -> Self {
        Self::plugin("sparse-random", &[format!("size={size}"), format!("seed={seed}")])
    }

    /// Content as nbdkit-data-plugin(1) writes it, such as `@1M 1 2 3`.
    pub fn data(expression: &str) -> Self {
        Self::plugin("data", &[format!("data={expression}")])
    }

    fn sized(plugin: &str, size: u64) -> Self {
        Self::plugin(plugin, &[format!("size={size}")])
    }

    /// Adds a filter with its parameters; the first added is nearest to the client.
    #[must_use]
    pub fn filter(mut self, name: &str, parameters: &[&str]) -> Self {
        self.filters.push(format!("--filter={name}"));
        self.parameters.extend(parameters.iter().map(OsString::from));
        self
    }

    /// An option of nbdkit itself.
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

    /// The export name that the URI asks for; nbdkit's plugins mostly serve any.
    #[must_use]
    pub fn export(mut self, name: &str) -> Self {
        self.export = name.to_owned();
        self
    }

    /// Refuses writes.
    #[must_use]
    pub fn read_only(self) -> Self {
        self.arg("--readonly")
    }

    /// At most `threads` requests of a connection at once.
    #[must_use]
    pub fn threads(self, threads: u32) -> Self {
        self.arg(format!("--threads={threads}"))
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
        args.push("--foreground".into());
        args.extend(self.filters.into_iter().map(OsString::from));
        args.extend(self.plugin);
        args.extend(self.parameters);
        Server::start(self.transport, &self.export, "nbdkit".as_ref(), args, self.env)
    }
}
