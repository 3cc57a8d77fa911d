//! A real NBD server with its socket.
//!
//! The socket is bound and listening before the program starts, and is handed over by systemd's
//! socket activation. So there is no port race, and nothing to wait for: a client connects at
//! once and its handshake waits in the backlog until the server is up.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::process::Child;
use crate::socket::{Address, Stream};

/// The listener comes in as stdin and is moved to descriptor 3, the first that activation
/// passes on; the shell knows its own process id, which exec keeps.
const ACTIVATE: &str = r#"exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@""#;

/// Where a server is to listen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// A socket in a temporary folder that goes with the server.
    #[default]
    Unix,
    /// A free port of 127.0.0.1.
    Tcp,
}

impl Transport {
    /// An address to bind, and the folder to keep while it is in use.
    pub(crate) fn prepare(self) -> io::Result<(Address, Option<TempDir>)> {
        Ok(match self {
            Self::Tcp => (Address::ANY_PORT, None),
            Self::Unix => {
                let dir = TempDir::with_prefix("nbd-")?;
                (Address::Unix(dir.path().join("nbd.sock")), Some(dir))
            }
        })
    }
}

/// A running server; it ends with this value.
#[derive(Debug)]
pub struct Server {
    /// The process, to stop, kill or look at.
    pub child: Child,
    address: Address,
    export: String,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    _dir: Option<TempDir>,
}

impl Server {
    pub(crate) fn start(
        transport: Transport,
        export: &str,
        program: &OsStr,
        args: Vec<OsString>,
        env: Vec<(OsString, OsString)>,
    ) -> io::Result<Self> {
        let (address, dir) = transport.prepare()?;
        let (child, address) = activate(&address, program, &args, &env)?;
        Ok(Self {
            child,
            address,
            export: export.to_owned(),
            program: program.to_owned(),
            args,
            env,
            _dir: dir,
        })
    }

    /// The NBD URI of its export.
    pub fn uri(&self) -> String {
        self.address.uri(&self.export)
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The name of its export.
    pub fn export(&self) -> &str {
        &self.export
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.child.stderr()
    }

    /// Kills it, if it still runs, and starts it again at the same address.
    pub fn restart(&mut self) -> io::Result<()> {
        // It may have been killed before.
        let _ = self.child.kill();
        (self.child, self.address) = activate(&self.address, &self.program, &self.args, &self.env)?;
        Ok(())
    }

    /// Waits for its greeting, at most `deadline`. Takes a connection for that moment, which
    /// counts with `qemu-nbd --shared`.
    pub fn wait_ready(&self, deadline: Duration) -> io::Result<()> {
        let mut stream = self.address.connect()?;
        match &stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(deadline))?,
            Stream::Unix(stream) => stream.set_read_timeout(Some(deadline))?,
        }
        let mut greeting = [0; 16];
        stream.read_exact(&mut greeting).map_err(|e| {
            let stderr = self.stderr();
            io::Error::new(e.kind(), format!("no greeting from {}: {e}: {stderr}", self.address))
        })
    }
}

fn activate(
    address: &Address,
    program: &OsStr,
    args: &[OsString],
    env: &[(OsString, OsString)],
) -> io::Result<(Child, Address)> {
    let listener = address.listen()?;
    let address = listener.address()?;
    let mut command = Command::new("sh");
    command
        .args(["-c", ACTIVATE, "sh"])
        .arg(program)
        .args(args)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::from(OwnedFd::from(listener)));
    Ok((Child::spawn(command)?, address))
}
