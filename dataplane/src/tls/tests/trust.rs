//! Who is trusted, and what is said of who is not.

use std::path::Path;

use blockferry_doubles::{Nbdkit, Server};

use super::authority::Authority;
use super::client::{Client, nbdkit, secure};

fn server(folder: &Path) -> Server {
    nbdkit(Nbdkit::memory(1 << 20), folder).tcp().start().unwrap()
}

fn unix_server(folder: &Path) -> Server {
    nbdkit(Nbdkit::memory(1 << 20), folder).unix().start().unwrap()
}

/// Why the export cannot be opened.
fn refusal(server: &Server, folder: Option<&Path>, more: &str) -> String {
    match Client::open(server, &secure(server, folder, more)) {
        Ok(_) => panic!("the session should have failed"),
        Err(reason) => {
            assert!(!reason.contains('\n'), "{reason:?} is more than one line");
            reason
        }
    }
}

fn assert_says(reason: &str, parts: &[&str]) {
    for part in parts {
        assert!(reason.contains(part), "{reason:?} does not say {part:?}");
    }
}

#[test]
fn a_server_of_another_ca_is_not_trusted() {
    let folder = Authority::new().server(&["127.0.0.1"]);
    let other = Authority::new().folder();
    let reason = refusal(&server(folder.path()), Some(other.path()), "");
    let ca = other.path().join("ca-cert.pem");
    assert_says(&reason, &["not trusted", ca.to_str().unwrap(), "tls-certificates="]);
}

#[test]
fn a_server_of_another_name_is_refused() {
    let authority = Authority::new();
    let folder = authority.server(&["nbd.example.org"]);
    let reason = refusal(&server(folder.path()), Some(folder.path()), "");
    assert_says(&reason, &["not for 127.0.0.1: it holds nbd.example.org;", "tls-hostname="]);
}

#[test]
fn the_uri_can_say_which_name_is_right() {
    let authority = Authority::new();
    let folder = authority.server(&["nbd.example.org"]);
    let server = server(folder.path());
    let uri = secure(&server, Some(folder.path()), "tls-hostname=nbd.example.org");
    Client::open(&server, &uri).unwrap();
}

#[test]
fn an_expired_server_is_refused() {
    let folder = Authority::new().expired_server();
    let reason = refusal(&server(folder.path()), Some(folder.path()), "");
    assert_says(&reason, &["expired", "days ago"]);
}

#[test]
fn a_unix_socket_has_no_name_but_its_server_needs_the_right_ca() {
    let folder = Authority::new().server(&["nbd.example.org"]);
    let other = Authority::new().folder();
    let server = unix_server(folder.path());
    Client::open(&server, &secure(&server, Some(folder.path()), "")).unwrap();
    assert_says(&refusal(&server, Some(other.path()), ""), &["not trusted"]);
    let reason = refusal(&server, Some(folder.path()), "tls-hostname=localhost");
    assert_says(&reason, &["not for localhost"]);
}

#[test]
fn nothing_is_checked_when_the_uri_says_so() {
    let folder = Authority::new().expired_server();
    let server = unix_server(folder.path());
    let uri = secure(&server, None, "tls-verify-peer=0&tls-hostname=elsewhere");
    Client::open(&server, &uri).unwrap();
}

#[test]
fn without_a_folder_the_system_decides_and_knows_no_ca_of_tests() {
    let folder = Authority::new().server(&["127.0.0.1"]);
    let reason = refusal(&server(folder.path()), None, "");
    // A bare machine has no CAs at all, which is said before anything is tried.
    assert!(reason.contains("not trusted") || reason.contains("no CA"), "{reason}");
    assert_says(&reason, &["tls-certificates="]);
}

#[test]
fn a_server_that_wants_to_know_its_clients_gets_our_certificate() {
    let authority = Authority::new();
    let folder = authority.server(&["127.0.0.1"]);
    let plugin = nbdkit(Nbdkit::memory(1 << 20), folder.path()).arg("--tls-verify-peer");
    let server = plugin.tcp().start().unwrap();
    let known = authority.client();
    Client::open(&server, &secure(&server, Some(known.path()), "")).unwrap();

    let unknown = authority.folder();
    let reason = refusal(&server, Some(unknown.path()), "");
    let place = unknown.path().to_str().unwrap();
    assert_says(&reason, &["asks for a client certificate", "client-key.pem", place]);
}

/// Runs a line of openssl in a folder; false where there is none.
fn openssl(folder: &Path, line: &str) -> bool {
    let mut command = std::process::Command::new("openssl");
    match command.args(line.split_whitespace()).current_dir(folder).output() {
        Ok(output) => {
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            true
        }
        Err(_) => false,
    }
}

#[test]
fn a_client_certificate_of_version_1_was_said_not_to_go_with_its_key() {
    let folder = tempfile::TempDir::with_prefix("tls-").unwrap();
    let path = folder.path();
    std::fs::write(path.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let ca = "req -x509 -newkey rsa:2048 -nodes -keyout ca-key.pem -out ca-cert.pem -days 3 \
              -subj /CN=ca";
    if !openssl(path, ca) {
        eprintln!("skipped: there is no openssl to make such a certificate");
        return;
    }
    for (role, more) in [("server", "-extfile names"), ("client", "")] {
        let asked = format!(
            "req -newkey rsa:2048 -nodes -keyout {role}-key.pem -out {role} -subj /CN={role}"
        );
        let signed = format!(
            "x509 -req -in {role} -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial \
             -out {role}-cert.pem -days 3 {more}"
        );
        assert!(openssl(path, &asked) && openssl(path, &signed));
    }
    let plugin = nbdkit(Nbdkit::memory(1 << 20), path).arg("--tls-verify-peer");
    let server = plugin.tcp().start().unwrap();
    Client::open(&server, &secure(&server, Some(path), "")).unwrap();
}

#[test]
fn a_client_of_another_ca_is_sent_away() {
    let authority = Authority::new();
    let folder = authority.server(&["127.0.0.1"]);
    let plugin = nbdkit(Nbdkit::memory(1 << 20), folder.path()).arg("--tls-verify-peer");
    let server = plugin.tcp().start().unwrap();
    let stranger = Authority::new().client();
    std::fs::copy(folder.path().join("ca-cert.pem"), stranger.path().join("ca-cert.pem")).unwrap();
    let reason = refusal(&server, Some(stranger.path()), "");
    let place = stranger.path().to_str().unwrap();
    assert_says(&reason, &["may not accept client-cert.pem", place]);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let served = authority.server(&["127.0.0.1"]);
    let server = server(served.path());
    let folder = authority.client();
    let at = |name: &str| folder.path().join(name);
    let original = std::fs::read_to_string(at("client-key.pem")).unwrap();
    let said = || refusal(&server, Some(folder.path()), "");
    let path = |name: &str| at(name).to_str().unwrap().to_owned();

    let secret = original.lines().nth(1).unwrap();
    std::fs::write(at("client-key.pem"), original.replace("-----END", "-----?")).unwrap();
    let reason = said();
    assert_says(&reason, &[&path("client-key.pem"), "PEM"]);
    assert!(!reason.contains(secret));

    std::fs::write(at("client-key.pem"), authority.sign(&["another"], false).1).unwrap();
    assert_says(&said(), &["do not go together", folder.path().to_str().unwrap()]);

    std::fs::remove_file(at("client-key.pem")).unwrap();
    assert_says(&said(), &["cannot read", &path("client-key.pem")]);

    std::fs::write(at("ca-cert.pem"), "nothing of use\n").unwrap();
    assert_says(&said(), &[&path("ca-cert.pem"), "no certificate"]);

    std::fs::remove_file(at("ca-cert.pem")).unwrap();
    assert_says(&said(), &["cannot read", &path("ca-cert.pem")]);
}

#[test]
fn shared_keys_are_refused_and_not_replaced() {
    let folder = Authority::new().server(&["127.0.0.1"]);
    let server = server(folder.path());
    let mut uri = secure(&server, Some(folder.path()), "");
    uri.user = Some("alice".into());
    let reason = Client::open(&server, &uri).err().unwrap();
    assert_says(&reason, &["alice", "pre-shared keys", "not supported", "tls-certificates="]);

    let uri = secure(&server, Some(folder.path()), "tls-psk-file=/keys");
    assert_says(&Client::open(&server, &uri).err().unwrap(), &["tls-psk-file", "pre-shared keys"]);
}

#[test]
fn a_name_that_no_certificate_can_hold_is_refused() {
    let folder = Authority::new().server(&["127.0.0.1"]);
    let reason = refusal(&server(folder.path()), Some(folder.path()), "tls-hostname=a%20b");
    assert_says(&reason, &["\"a b\"", "tls-hostname="]);
}
