//! OpenSSH's sshd, with keys of its own.
//!
//! ```text
//!  listener (ours) ── a connection ──► sshd -i, a child of the test, with its own process group
//! ```
//!
//! The test accepts, and hands each connection to an sshd, as systemd does for `ssh@.service`. So
//! the port is taken before anybody asks for it, every session is a child that is known and ends
//! with the test, and the listener can go and come back at the same port. As an ordinary user, sshd
//! lets that same user in and nobody else.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::process::getuid;
use tempfile::TempDir;

use crate::process::{Child, run_ok};
use crate::socket::{Address, Listener, Stream};

/// The connection comes in as stdin, and sshd wants it as stdout too.
const INETD: &str = r#"exec "$@" >&0"#;
/// Where Debian's sshd wants to be before it gives up its rights.
const PRIVILEGE_SEPARATION_FOLDER: &str = "/run/sshd";
/// Making a key takes milliseconds.
const KEYGEN_DEADLINE: Duration = Duration::from_secs(30);
/// How often it is looked whether a session has ended; nothing tells.
const LOOK: Duration = Duration::from_millis(5);
/// The ports that are tried until one is free.
const ATTEMPTS: u32 = 20;

/// How to start an sshd.
#[derive(Clone, Debug, Default)]
pub struct Sshd {
    settings: Vec<String>,
    key_options: String,
    receive_bytes: Option<usize>,
}

impl Sshd {
    /// One that forwards to wherever its client wants.
    pub fn new() -> Self {
        Self::default()
    }

    /// A line of `sshd_config`; it goes before those of the double.
    #[must_use]
    pub fn setting(mut self, line: &str) -> Self {
        self.settings.push(line.to_owned());
        self
    }

    /// What the user's key is restricted to, as it stands in `authorized_keys`.
    #[must_use]
    pub fn key_options(mut self, options: &str) -> Self {
        options.clone_into(&mut self.key_options);
        self
    }

    /// What its sockets take in ahead, so that one that is stopped is full soon.
    #[must_use]
    pub fn receive_bytes(mut self, bytes: usize) -> Self {
        self.receive_bytes = Some(bytes);
        self
    }

    /// Makes the keys and listens on a free port of 127.0.0.1.
    pub fn start(self) -> io::Result<SshServer> {
        let folder = TempDir::with_prefix("sshd-")?;
        let path = |name: &str| folder.path().join(name);
        let [host_key, identity] = [path("host"), path("user")];
        make_key(&host_key, &["-t", "ed25519"])?;
        make_key(&identity, &["-t", "ed25519"])?;
        let public = fs::read_to_string(public_half(&identity))?;
        fs::write(path("authorized_keys"), format!("{} {public}", self.key_options))?;
        let mut config = self.settings.join("\n");
        config.push_str(&format!(
            "\nHostKey {}\nAuthorizedKeysFile {}\n",
            host_key.display(),
            path("authorized_keys").display()
        ));
        config.push_str(
            "PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             AllowTcpForwarding yes\nAllowStreamLocalForwarding yes\nLogLevel VERBOSE\n",
        );
        fs::write(path("sshd_config"), config)?;
        if getuid().is_root() {
            fs::create_dir_all(PRIVILEGE_SEPARATION_FOLDER)?;
        }
        let mut name = Command::new("id");
        name.arg("-un");
        let user = String::from_utf8_lossy(&run_ok(name, KEYGEN_DEADLINE)?.stdout).trim().into();
        let listener = listen_anywhere()?;
        if let Some(bytes) = self.receive_bytes {
            // Connections inherit it.
            set_socket_recv_buffer_size(&listener, bytes)?;
        }
        let address = listener.address()?;
        let mut server = SshServer {
            address,
            user,
            host_key,
            identity,
            config: path("sshd_config"),
            sessions: Arc::default(),
            listening: None,
            folder,
        };
        server.accept(listener);
        Ok(server)
    }
}

/// A running sshd; it and its sessions end with this value.
#[derive(Debug)]
pub struct SshServer {
    address: Address,
    user: String,
    host_key: PathBuf,
    identity: PathBuf,
    config: PathBuf,
    sessions: Arc<Mutex<Vec<Child>>>,
    listening: Option<(Arc<Listener>, JoinHandle<()>)>,
    folder: TempDir,
}

impl SshServer {
    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The user that it lets in: whoever runs the test.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Its URI for that user.
    pub fn uri(&self) -> String {
        self.uri_at(&self.address)
    }

    /// Its URI behind another address, such as that of a proxy.
    pub fn uri_at(&self, address: &Address) -> String {
        format!("ssh://{}@{address}", self.user)
    }

    /// The private key that it takes; `.pub` beside it.
    pub fn identity(&self) -> &Path {
        &self.identity
    }

    /// Its own private key; `.pub` beside it.
    pub fn host_key(&self) -> &Path {
        &self.host_key
    }

    /// The file of a client that knows it.
    pub fn known_hosts(&self) -> io::Result<PathBuf> {
        self.known_hosts_at(&self.address)
    }

    /// The file of a client that knows it behind another address.
    pub fn known_hosts_at(&self, address: &Address) -> io::Result<PathBuf> {
        let port = address.port().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let path = self.folder.path().join(format!("known_hosts-{port}"));
        let public = fs::read_to_string(public_half(&self.host_key))?;
        fs::write(&path, format!("[127.0.0.1]:{port} {public}"))?;
        Ok(path)
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.running().len()
    }

    /// Waits until there are `count` sessions or more; false when `deadline` passes before.
    pub fn wait_for_sessions(&self, count: usize, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        while self.sessions() < count {
            if Instant::now() > end {
                return false;
            }
            thread::sleep(LOOK);
        }
        true
    }

    /// Kills the sessions; new ones are taken. Says how many there were.
    pub fn kill_sessions(&self) -> usize {
        let mut sessions = self.running();
        let count = sessions.len();
        sessions.clear();
        count
    }

    /// Kills the oldest session; false where there is none.
    pub fn kill_oldest(&self) -> bool {
        let mut sessions = self.running();
        if sessions.is_empty() {
            return false;
        }
        sessions.remove(0);
        true
    }

    /// Stops the oldest session (SIGSTOP): its connection stays, and nobody answers; false where
    /// there is none.
    pub fn freeze_oldest(&self) -> io::Result<bool> {
        self.running().first().map_or(Ok(false), |session| session.stop().map(|()| true))
    }

    /// Stops all sessions that there are.
    pub fn freeze_all(&self) -> io::Result<()> {
        self.running().iter().try_for_each(Child::stop)
    }

    /// Kills all of it: nobody listens any more.
    pub fn go_down(&mut self) {
        if let Some((listener, accepting)) = self.listening.take() {
            listener.close();
            let ended = accepting.join();
            assert!(ended.is_ok() || thread::panicking(), "the sshd double has panicked");
        }
        self.kill_sessions();
    }

    /// Listens again, at the same port, with sockets as the system makes them.
    pub fn come_back(&mut self) -> io::Result<()> {
        self.go_down();
        let listener = self.address.listen()?;
        self.accept(listener);
        Ok(())
    }

    /// What the running sessions have to say.
    pub fn log(&self) -> String {
        self.running().iter().map(Child::stderr).collect()
    }

    fn running(&self) -> MutexGuard<'_, Vec<Child>> {
        let mut sessions = self.sessions.lock().unwrap();
        sessions.retain_mut(Child::is_running);
        sessions
    }

    fn accept(&mut self, listener: Listener) {
        let listener = Arc::new(listener);
        let (ours, sessions) = (Arc::clone(&listener), Arc::clone(&self.sessions));
        let config = self.config.clone();
        let accepting = thread::spawn(move || {
            while let Ok(stream) = ours.accept() {
                let session = serve(stream, &config).expect("sshd is installed");
                sessions.lock().unwrap().push(session);
            }
        });
        self.listening = Some((listener, accepting));
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        self.go_down();
    }
}

/// The file with the public half of a key.
pub fn public_half(key: &Path) -> PathBuf {
    let mut path = key.as_os_str().to_owned();
    path.push(".pub");
    path.into()
}

/// Makes a key pair by ssh-keygen, without a passphrase unless `options` have one.
pub fn make_key(path: &Path, options: &[&str]) -> io::Result<()> {
    let mut command = Command::new("ssh-keygen");
    command.arg("-q").args(options).arg("-f").arg(path);
    if !options.contains(&"-N") {
        command.args(["-N", ""]);
    }
    command.stdin(Stdio::null());
    run_ok(command, KEYGEN_DEADLINE)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))
}

fn serve(stream: Stream, config: &Path) -> io::Result<Child> {
    let mut command = Command::new("sh");
    // sshd wants its full path; an ordinary user has sbin not in the path.
    command.args(["-c", INETD, "sh", "/usr/sbin/sshd", "-i", "-e", "-f"]).arg(config);
    let stream = match stream {
        Stream::Tcp(stream) => OwnedFd::from(stream),
        Stream::Unix(stream) => stream.into(),
    };
    command.stdin(Stdio::from(stream));
    Child::spawn(command)
}

/// A port that is bound by its number, and so stays the double's own to come back to.
fn listen_anywhere() -> io::Result<Listener> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let free = Address::ANY_PORT.listen()?.address()?;
        match free.listen() {
            Ok(listener) => return Ok(listener),
            // Somebody was quicker.
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn ssh(server: &SshServer) -> Command {
        let mut command = Command::new("ssh");
        let known = server.known_hosts().unwrap();
        command.args(["-F", "none", "-N", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes"]);
        command.arg("-o").arg(format!("UserKnownHostsFile={}", known.display()));
        command.arg("-i").arg(server.identity());
        command.arg("-p").arg(server.address().port().unwrap().to_string());
        command.arg(format!("{}@127.0.0.1", server.user())).stdin(Stdio::null());
        command
    }

    #[test]
    fn openssh_s_client_gets_in_and_a_killed_session_ends_it() {
        let mut server = Sshd::new().start().unwrap();
        for _ in 0..2 {
            let mut client = Child::spawn(ssh(&server)).unwrap();
            assert!(server.wait_for_sessions(1, DEADLINE), "{}", client.stderr());
            while !server.log().contains("Accepted publickey") {
                assert!(client.is_running(), "{}", client.stderr());
                thread::sleep(LOOK);
            }
            assert_eq!(server.kill_sessions(), 1);
            assert!(!client.wait(DEADLINE).unwrap().success());
            server.come_back().unwrap();
        }
        server.go_down();
        let mut client = Child::spawn(ssh(&server)).unwrap();
        assert!(!client.wait(DEADLINE).unwrap().success());
        assert!(client.stderr().contains("refused"), "{}", client.stderr());
    }
}
