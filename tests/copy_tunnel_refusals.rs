//! A tunnel that cannot be: wrong keys, wrong ports, wrong words, strangers in the place of sshd.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use blockferry::{Way, code, command, folder, run, stderr};
use blockferry_doubles::sshd::{make_key, public_half};
use blockferry_doubles::{Address, Nbdkit, SshServer, Sshd};

/// Runs a copy of the file `a` to `target`, and returns its code and the lines that it says.
fn refused(way: &Way, target: &str) -> (i32, Vec<String>) {
    let folder = folder();
    let mut args = vec!["copy", "--deadline", "3s"];
    args.extend(way.words.iter().map(String::as_str));
    args.extend(["a", target]);
    let started = Instant::now();
    let output = run(folder.path(), &args);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let says = stderr(&output);
    assert!(says.lines().all(|line| line.starts_with("blockferry: ")), "{says}");
    (code(&output), says.lines().map(str::to_owned).collect())
}

/// As [`refused`], where nobody may be asked for the target; the only line says this.
fn assert_refused(way: &Way, expected: i32, says: &str) {
    let (code, lines) = refused(way, "nbd://127.0.0.1:1/x");
    assert_eq!((code, lines.len()), (expected, 1), "{lines:?}");
    assert!(lines[0].contains(says), "{lines:?}");
}

struct Place {
    sshd: SshServer,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { sshd: Sshd::new().start().unwrap(), folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn key(&self, name: &str, options: &[&str]) -> PathBuf {
        let path = self.path(name);
        make_key(&path, options).unwrap();
        path
    }

    fn with_identity(&self, identity: &Path) -> Way {
        Way::with(&self.sshd.uri(), identity, &self.sshd.known_hosts().unwrap())
    }

    fn with_known_hosts(&self, text: &str) -> Way {
        let known = self.write("known_hosts", text);
        Way::with(&self.sshd.uri(), self.sshd.identity(), &known)
    }

    /// The line of known hosts for a key of this server.
    fn line(&self, key: &Path) -> String {
        let public = fs::read_to_string(public_half(key)).unwrap();
        format!("[127.0.0.1]:{} {public}", self.sshd.address().port().unwrap())
    }
}

#[test]
fn a_server_with_another_key_than_the_known_one_is_refused() {
    let place = Place::new();
    let other = place.key("other", &["-t", "ed25519"]);
    let way = place.with_known_hosts(&place.line(&other));
    assert_refused(&way, 5, "shows another host key than it should (SHA256:");
}

#[test]
fn a_server_that_is_not_known_is_refused_without_a_question() {
    let place = Place::new();
    let line = place.line(place.sshd.host_key()).replace("127.0.0.1", "192.0.2.1");
    let way = place.with_known_hosts(&line);
    let port = place.sshd.address().port().unwrap();
    assert_refused(&way, 2, &format!("no key of 127.0.0.1, port {port}, is there"));
    assert_eq!(place.sshd.sessions(), 0);
}

#[test]
fn a_key_that_is_revoked_is_refused_though_it_is_known() {
    let place = Place::new();
    let line = place.line(place.sshd.host_key());
    let (_, key) = line.split_once(' ').unwrap();
    let way = place.with_known_hosts(&format!("{line}@revoked * {key}"));
    assert_refused(&way, 5, "that key is revoked");
}

#[test]
fn a_file_of_known_hosts_that_is_not_there_is_wrong_usage() {
    let place = Place::new();
    let way = Way::with(&place.sshd.uri(), place.sshd.identity(), &place.path("nosuch"));
    assert_refused(&way, 2, "nosuch: there is no such file");
}

#[test]
fn a_key_that_the_server_does_not_know_is_named() {
    let place = Place::new();
    let key = place.key("stranger", &["-t", "ed25519"]);
    assert_refused(&place.with_identity(&key), 5, "does not take the key");
}

#[test]
fn a_key_that_cannot_be_used_is_wrong_usage_with_the_reason() {
    let place = Place::new();
    let readable = place.key("readable", &["-t", "ed25519"]);
    fs::set_permissions(&readable, Permissions::from_mode(0o644)).unwrap();
    let encrypted = place.key("encrypted", &["-t", "ed25519", "-N", "a passphrase"]);
    let rsa = place.key("rsa", &["-t", "rsa", "-b", "2048"]);
    let text = place.write("text", "this is no key\n");
    let public = public_half(place.sshd.identity());
    let binary = place.path("binary");
    fs::write(&binary, [0xff; 4096]).unwrap();
    for file in [&text, &public, &binary] {
        fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
    }
    for (identity, says) in [
        (readable, "its mode is 644, so others can read or change it: chmod 600 it"),
        (encrypted, "it has a passphrase"),
        (rsa, "it is an RSA key"),
        (text, "it is no private key"),
        (public, "it is no private key"),
        (binary, "it is no private key"),
        (place.folder.path().to_owned(), "it is not a file"),
        (place.path("nosuch"), "nosuch: "),
    ] {
        assert_refused(&place.with_identity(&identity), 2, says);
    }
    assert_eq!(place.sshd.sessions(), 0);
}

#[test]
fn a_port_that_the_key_does_not_open_is_refused_by_the_far_end_and_said_so() {
    let open = Nbdkit::memory(1 << 20).tcp().start().unwrap();
    let closed = Nbdkit::memory(1 << 20).tcp().start().unwrap();
    let unix = Nbdkit::memory(1 << 20).unix().start().unwrap();
    let address = open.address();
    let permit = format!("restrict,port-forwarding,permitopen=\"{address}\"");
    let by_key = Sshd::new().key_options(&permit).start().unwrap();
    let by_server = Sshd::new()
        .setting(&format!("PermitOpen {address}"))
        .setting("AllowStreamLocalForwarding no")
        .start()
        .unwrap();
    for sshd in [&by_key, &by_server] {
        assert_eq!(refused(&Way::to(sshd), &open.uri()).0, 0);
        let (code, lines) = refused(&Way::to(sshd), &closed.uri());
        assert_eq!(code, 5, "{lines:?}");
        assert!(lines[0].contains("does not connect to 127.0.0.1:"), "{lines:?}");
        assert!(lines[0].contains("it may not (") && lines[0].contains("PermitOpen"), "{lines:?}");
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
    let (code, lines) = refused(&Way::to(&by_server), &unix.uri());
    assert_eq!(code, 5, "{lines:?}");
    assert!(lines[0].contains("nbd.sock: "), "{lines:?}");
}

#[test]
fn an_export_that_nobody_serves_is_a_fault_of_the_target() {
    let sshd = Sshd::new().start().unwrap();
    // Bound and not listening: nobody takes it meanwhile.
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    drop(holder);
    for uri in [format!("nbd://127.0.0.1:{port}"), "nbd+unix:///?socket=/nosuch".to_owned()] {
        let (code, lines) = refused(&Way::to(&sshd), &uri);
        assert_eq!(code, 5, "{lines:?}");
        assert!(lines[0].contains("the far end of the tunnel does not connect to"), "{lines:?}");
        assert!(lines[0].contains("nobody listens there"), "{lines:?}");
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
}

#[test]
fn wrong_words_are_code_2_and_a_password_is_not_repeated() {
    let folder = folder();
    fs::write(folder.path().join("lanes"), "{\"source\":\"a\",\"target\":\"b\"}\n").unwrap();
    for (line, says) in [
        ("--tunnel ssh://me:secret@host a nbd://x/", "passwords are not taken"),
        ("--tunnel http://host a nbd://x/", "--tunnel: write it as ssh://[USER@]HOST[:PORT]"),
        ("--tunnel ssh://me@host:0 a nbd://x/", "from 1 to 65535"),
        ("--tunnel ssh://me@host/path a nbd://x/", "nothing else"),
        ("--tunnel ssh://me@host a b", "b is none: write TARGET as an NBD URI"),
        ("--tunnel ssh://me@host a null:", "null: is none"),
        ("--tunnel ssh://me@host a -", "- is none"),
        ("--tunnel ssh://me@host --lanes lanes", "b is none"),
        ("--identity k a nbd://x/", "--tunnel"),
        ("--known-hosts k a nbd://x/", "--tunnel"),
        ("--tunnel-connections 2 a nbd://x/", "--tunnel"),
        ("--tunnel ssh://me@host --tunnel-connections 0 a nbd://x/", "1 or more"),
    ] {
        let args: Vec<&str> = ["copy"].into_iter().chain(line.split(' ')).collect();
        let output = run(folder.path(), &args);
        assert_eq!(code(&output), 2, "{line}: {}", stderr(&output));
        assert!(stderr(&output).contains(says), "{line}: {}", stderr(&output));
        assert!(!stderr(&output).contains("secret"), "{line}: {}", stderr(&output));
    }
}

#[test]
fn nobody_in_the_place_of_sshd_is_a_fault_of_the_target() {
    let mut place = Place::new();
    place.sshd.go_down();
    let way = place.with_identity(place.sshd.identity());
    assert_refused(&way, 5, "Connection refused");
}

/// How a stranger behaves who is taken for an SSH server.
type Behaviour = fn(&mut TcpStream) -> std::io::Result<()>;

fn silent(client: &mut TcpStream) -> std::io::Result<()> {
    client.read_to_end(&mut Vec::new()).map(drop)
}

fn garbage(client: &mut TcpStream) -> std::io::Result<()> {
    // Lines, or the first one is too long already.
    client.write_all(&b"\x00\x01\x02\xff\xfe\n".repeat(1 << 20))
}

fn one_endless_line(client: &mut TcpStream) -> std::io::Result<()> {
    loop {
        client.write_all(&[b'a'; 1 << 16])?;
    }
}

fn an_endless_banner(client: &mut TcpStream) -> std::io::Result<()> {
    loop {
        client.write_all(&b"be welcome\r\n".repeat(1000))?;
    }
}

fn a_dripping_banner(client: &mut TcpStream) -> std::io::Result<()> {
    loop {
        client.write_all(b"a")?;
        thread::sleep(Duration::from_millis(100));
    }
}

fn an_endless_packet(client: &mut TcpStream) -> std::io::Result<()> {
    client.write_all(b"SSH-2.0-stranger\r\n\xff\xff\xff\xff")?;
    loop {
        client.write_all(&[0; 1 << 16])?;
    }
}

fn a_half_packet(client: &mut TcpStream) -> std::io::Result<()> {
    client.write_all(b"SSH-2.0-stranger\r\n\x00\x00\x7f\xff\x04")?;
    silent(client)
}

fn messages_that_mean_nothing(client: &mut TcpStream) -> std::io::Result<()> {
    client.write_all(b"SSH-2.0-stranger\r\n")?;
    loop {
        // SSH_MSG_IGNORE with nothing in it: 12 bytes, 6 of them padding.
        client.write_all(&b"\x00\x00\x00\x0c\x06\x02\x00\x00\x00\x00\0\0\0\0\0\0".repeat(1000))?;
    }
}

#[test]
fn strangers_in_the_place_of_sshd_are_refused_in_time_and_take_no_memory() {
    let place = Place::new();
    let strangers: [(&str, Behaviour); 8] = [
        ("silent", silent),
        ("garbage", garbage),
        ("one endless line", one_endless_line),
        ("an endless banner", an_endless_banner),
        ("a dripping banner", a_dripping_banner),
        ("an endless packet", an_endless_packet),
        ("a half packet", a_half_packet),
        ("messages that mean nothing", messages_that_mean_nothing),
    ];
    for (name, behave) in strangers {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let stranger = thread::spawn(move || {
            let mut client = listener.accept().unwrap().0;
            // It ends when the client has gone.
            let _gone = behave(&mut client);
        });
        let way = Way::at(&place.sshd, &address);
        let mut args = vec!["copy", "--deadline", "2s"];
        args.extend(way.words.iter().map(String::as_str));
        args.extend(["a", "nbd://127.0.0.1:1/x"]);
        let folder = folder();
        let started = Instant::now();
        let mut child = command(folder.path(), &args).stderr(Stdio::piped()).spawn().unwrap();
        let mut most = 0;
        while child.try_wait().unwrap().is_none() {
            most = peak_kib(child.id()).unwrap_or(most);
            thread::sleep(Duration::from_millis(10));
        }
        let took = started.elapsed();
        let output = child.wait_with_output().unwrap();
        let says = stderr(&output);
        assert_eq!(code(&output), 5, "{name}: {says}");
        assert_eq!(says.lines().count(), 1, "{name}: {says}");
        assert!(says.contains(&format!("{address}")), "{name}: {says}");
        assert!(took < Duration::from_secs(4), "{name}: {took:?}");
        assert!(most < 64 << 10, "{name}: {most} KiB");
        stranger.join().unwrap();
    }
}

/// The most memory that a process has had.
fn peak_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
