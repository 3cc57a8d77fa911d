//! An SSH server of our own on loopback: OpenSSH's sshd, as the user who calls us.
//!
//! ```text
//!  listener (ours) ── a connection ──► sshd -i, a child of ours for each
//! ```
//!
//! We accept, and hand each connection to an sshd, as systemd does for `ssh@.service`: so nobody
//! can take the port in between, and each session is a child whose CPU time is known and that ends
//! with us. It lets in one key that was made for it, to forward to one port, and to do nothing else.

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::error::BenchError;
use super::folder::Folder;
use crate::child::{Child, Launch, RunError, Streams, held, run};
use crate::program;

use crate::tunnel::{OwnKey, TunnelAddress, TunnelSettings};

/// Where sshd is where it is not in PATH: users other than root seldom have these folders in it.
const FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];
const PACKAGE: &str = "openssh-server (sshd)";
/// How long a program may take that only looks something up.
const QUICK_DEADLINE: Duration = Duration::from_secs(10);
/// How long connecting to our own listener may take, to wake it.
const WAKE_DEADLINE: Duration = Duration::from_secs(1);

/// A running server. It and its sessions end when this is dropped.
#[derive(Debug)]
pub(super) struct Sshd {
    address: SocketAddr,
    user: String,
    identity: PathBuf,
    known_hosts: PathBuf,
    sessions: Arc<Mutex<Vec<Child>>>,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Sshd {
    /// Starts one that forwards to `port` of 127.0.0.1.
    pub(super) fn start(program: &str, folder: &Folder, port: u16) -> Result<Self, BenchError> {
        let program = found(program)?;
        let user = user()?;
        let key = |name: &str| {
            let path = folder.file(name);
            let key = OwnKey::load_or_make(&path).map_err(|error| unfit(error.to_string()))?;
            Ok::<_, BenchError>((path, key.public().openssh()))
        };
        let (host_key, host_public) = key("host_key")?;
        let (identity, public) = key("identity")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .map_err(BenchError::system("listening on 127.0.0.1"))?;
        let address =
            listener.local_addr().map_err(BenchError::system("listening on 127.0.0.1"))?;
        let known_hosts = folder.file("known_hosts");
        let authorized_keys = folder.file("authorized_keys");
        let config = folder.file("sshd_config");
        let known = format!("[127.0.0.1]:{} {host_public}\n", address.port());
        let text = configuration(&host_key, &authorized_keys, &user, port);
        for (path, text) in [
            (&known_hosts, known),
            (&authorized_keys, format!("restrict,port-forwarding {public}\n")),
            (&config, text),
        ] {
            write(path, &text)
                .map_err(BenchError::system(format!("writing {}", path.display())))?;
        }
        check(&program, &config)?;

        let sessions: Arc<Mutex<Vec<Child>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (held_too, stop_too) = (Arc::clone(&sessions), Arc::clone(&stop));
        let accepting = thread::Builder::new()
            .name("bench-sshd".into())
            .spawn(move || accept(&listener, &program, &config, &held_too, &stop_too))
            .map_err(BenchError::system("starting a thread"))?;
        let accepting = Some(accepting);
        Ok(Self { address, user, identity, known_hosts, sessions, stop, accepting })
    }

    /// How a tunnel gets there.
    pub(super) fn settings(&self) -> TunnelSettings {
        let address = TunnelAddress {
            user: Some(self.user.clone()),
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: self.address.port(),
        };
        let (identity, known_hosts) = (self.identity.clone(), self.known_hosts.clone());
        TunnelSettings::new(address, self.user.clone(), identity, known_hosts)
    }

    /// The processes of its sessions, those that are over among them.
    pub(super) fn pids(&self) -> Vec<u32> {
        held(&self.sessions).iter().map(Child::id).collect()
    }

    /// The last thing that a session said.
    pub(super) fn last_words(&self) -> Option<String> {
        held(&self.sessions).iter().rev().find_map(|session| session.said().last())
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let woken = TcpStream::connect_timeout(&self.address, WAKE_DEADLINE);
        if let (Ok(_), Some(accepting)) = (woken, self.accepting.take()) {
            // A panic there was told by its hook.
            let _ended = accepting.join();
        }
        held(&self.sessions).clear();
    }
}

fn accept(
    listener: &TcpListener,
    program: &Path,
    config: &Path,
    sessions: &Mutex<Vec<Child>>,
    stop: &AtomicBool,
) {
    while let Ok((socket, _)) = listener.accept() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // Sessions that cannot be had show as connections that close.
        let _as_well = socket.set_nodelay(true);
        let mut launch = Launch::new(program);
        launch.args(["-i", "-e", "-f"]).arg(config);
        let started = launch.start(Streams::Connection(OwnedFd::from(socket)), |_| {});
        if let Ok((child, _none)) = started {
            held(sessions).push(child);
        }
    }
}

/// One session at most does nothing but forward to the one port.
fn configuration(host_key: &Path, authorized_keys: &Path, user: &str, port: u16) -> String {
    format!(
        "HostKey {}\n\
         AuthorizedKeysFile {}\n\
         AllowUsers {user}\n\
         PermitOpen 127.0.0.1:{port}\n\
         AllowTcpForwarding local\n\
         AllowStreamLocalForwarding no\n\
         AllowAgentForwarding no\n\
         X11Forwarding no\n\
         PermitTTY no\n\
         PermitTunnel no\n\
         ForceCommand /bin/false\n\
         PermitRootLogin prohibit-password\n\
         PubkeyAuthentication yes\n\
         PasswordAuthentication no\n\
         KbdInteractiveAuthentication no\n\
         UsePAM no\n\
         StrictModes no\n\
         UseDNS no\n\
         PidFile none\n\
         LogLevel ERROR\n",
        quoted(host_key),
        quoted(authorized_keys),
    )
}

/// A path as sshd's configuration takes it, whatever is in it. `%` begins a token there.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('%', "%%"))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}

/// Has sshd look at its configuration, so that what is wrong shows in its own words.
fn check(program: &Path, config: &Path) -> Result<(), BenchError> {
    let mut launch = Launch::new(program);
    launch.args(["-t", "-f"]).arg(config);
    let finished = quick(launch, PACKAGE)?;
    if finished.status.success() {
        return Ok(());
    }
    let said = finished.said.last().cloned().unwrap_or_default();
    let hint = match said.split_once("privilege separation directory: ") {
        Some((_, folder)) => format!("; as root it wants that: mkdir -m 755 {}", folder.trim()),
        None => String::new(),
    };
    Err(BenchError::Server { program: program.display().to_string(), why: format!("{said}{hint}") })
}

fn quick(launch: Launch, package: &'static str) -> Result<crate::child::Finished, BenchError> {
    run(launch, QUICK_DEADLINE).map_err(|error| match error {
        RunError::Launch(error) => BenchError::launch(error, package),
        RunError::TimedOut { .. } => {
            BenchError::Late { what: format!("the end of {package}"), deadline: QUICK_DEADLINE }
        }
    })
}

/// Who calls us: sshd lets nobody else in unless root runs it.
fn user() -> Result<String, BenchError> {
    let mut launch = Launch::new("id");
    launch.arg("-un");
    let finished = quick(launch, "coreutils (id)")?;
    let name = String::from_utf8_lossy(&finished.output).trim().to_owned();
    if name.is_empty() || !finished.status.success() {
        let why = "this user has no name, and sshd lets nobody in without one".to_owned();
        return Err(unfit(why));
    }
    Ok(name)
}

fn unfit(why: String) -> BenchError {
    BenchError::Server { program: "sshd".to_owned(), why }
}

/// sshd starts itself anew, for which it has to know its whole path.
fn found(program: &str) -> Result<PathBuf, BenchError> {
    let in_path = program::find(program.as_ref());
    let beside = || {
        let of_folder = |folder| program::find(Path::new(folder).join(program).as_os_str());
        FOLDERS.into_iter().find_map(of_folder)
    };
    let found = if program.contains('/') { in_path } else { in_path.or_else(beside) };
    let found = found
        .ok_or_else(|| BenchError::Missing { program: program.to_owned(), package: PACKAGE })?;
    std::path::absolute(&found).map_err(BenchError::system("finding the folder of sshd"))
}
