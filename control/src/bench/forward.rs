//! The OpenSSH client as a way: `ssh -L`, which listens on a Unix socket and forwards.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_dataplane::Dial;

use super::error::BenchError;
use crate::child::{Child, Launch, Streams};
use crate::tunnel::{FarEnd, TunnelSettings};

const PACKAGE: &str = "openssh-client (ssh)";
/// The quickest cipher where processors have instructions for it, and the one of our own tunnels.
const CIPHER: &str = "aes128-gcm@openssh.com";
/// Time between two looks whether it listens; it does not tell.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// A running client, one SSH connection. It is ended when this is dropped.
#[derive(Debug)]
pub(super) struct Forward {
    child: Child,
    socket: PathBuf,
}

impl Forward {
    /// Starts one that listens at `socket`, and waits until it does.
    pub(super) fn start(
        settings: &TunnelSettings,
        far: &FarEnd,
        socket: &Path,
        deadline: Duration,
    ) -> Result<Self, BenchError> {
        let mut launch = Launch::new("ssh");
        launch.args(arguments(settings, far, socket, deadline));
        let (child, _output) = launch
            .start(Streams::Output, |_| {})
            .map_err(|error| BenchError::launch(error, PACKAGE))?;
        let forward = Self { child, socket: socket.to_owned() };
        let end = Instant::now() + deadline;
        while UnixStream::connect(&forward.socket).is_err() {
            if forward.child.wait(LOOK_PAUSE).is_some() {
                let why = forward.child.exit_reason(Duration::ZERO).unwrap_or_default();
                return Err(BenchError::Server { program: "ssh".into(), why });
            }
            if Instant::now() >= end {
                let what = "a forward of the OpenSSH client".to_owned();
                return Err(BenchError::Late { what, deadline });
            }
        }
        Ok(forward)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects to where it listens.
    pub(super) fn dialer(&self) -> Arc<dyn Dial> {
        Arc::new(UnixDial(self.socket.clone()))
    }
}

/// Nothing of the user's own configuration, agent or shared connections has a part in it.
fn arguments(
    settings: &TunnelSettings,
    far: &FarEnd,
    socket: &Path,
    deadline: Duration,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        ["-F", "none", "-N", "-T", "-x", "-a", "-c", CIPHER].map(Into::into).into();
    let keepalive = settings.keepalive.as_secs().max(1);
    let options = [
        "BatchMode=yes".to_owned(),
        "IdentitiesOnly=yes".to_owned(),
        "IdentityAgent=none".to_owned(),
        "ControlPath=none".to_owned(),
        "Compression=no".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        "ExitOnForwardFailure=yes".to_owned(),
        "LogLevel=ERROR".to_owned(),
        format!("ConnectTimeout={}", deadline.as_secs().max(1)),
        format!("ServerAliveInterval={keepalive}"),
        format!("ServerAliveCountMax={}", settings.keepalive_limit),
        format!("UserKnownHostsFile=\"{}\"", settings.known_hosts.display()),
    ];
    for option in options {
        arguments.extend(["-o".into(), option.into()]);
    }
    arguments.extend(["-i".into(), settings.identity.clone().into()]);
    let mut forward = socket.as_os_str().to_owned();
    forward.push(format!(":{far}"));
    arguments.extend(["-L".into(), forward]);
    arguments.extend(["-p".into(), settings.address.port.to_string().into()]);
    arguments.extend(["-l".into(), settings.user().into()]);
    arguments.extend(["--".into(), settings.address.host.clone().into()]);
    arguments
}

/// A Unix socket by its path.
#[derive(Debug)]
struct UnixDial(PathBuf);

impl Dial for UnixDial {
    fn dial(&self) -> io::Result<OwnedFd> {
        Ok(UnixStream::connect(&self.0)?.into())
    }
}
