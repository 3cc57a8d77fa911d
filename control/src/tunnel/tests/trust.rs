use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use blockferry_doubles::process::run_ok;
use blockferry_doubles::sshd::{make_key, public_half};
use russh::keys::PublicKey;
use tempfile::TempDir;

use super::super::TunnelAddress;
use super::super::trust::Trust;

/// A file of known hosts, and keys for it.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("known_hosts")
    }

    /// Kind and key, as they stand in a line.
    fn key(&self, name: &str, options: &[&str]) -> String {
        let path = self.folder.path().join(name);
        make_key(&path, options).unwrap();
        let public = fs::read_to_string(public_half(&path)).unwrap();
        public.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    fn ed25519(&self, name: &str) -> String {
        self.key(name, &["-t", "ed25519"])
    }

    fn load(&self, text: &str, server: &str) -> Result<Trust, String> {
        fs::write(self.file(), text).unwrap();
        self.load_again(server)
    }

    fn load_again(&self, server: &str) -> Result<Trust, String> {
        let address: TunnelAddress = server.parse().unwrap();
        Trust::load(&self.file(), &address).map_err(|error| error.to_string())
    }

    fn trusts(&self, text: &str, server: &str, key: &str) -> bool {
        self.load(text, server).is_ok_and(|trust| trust.objection(&public(key)).is_none())
    }
}

fn public(key: &str) -> PublicKey {
    PublicKey::from_openssh(key).unwrap()
}

#[test]
fn a_server_is_known_by_its_name_and_port_only() {
    let place = Place::new();
    let key = place.ed25519("a");
    let text = format!("hub,192.0.2.1 {key} a comment\n[other]:2222 {key}\n::1 {key}\n");
    for (server, known) in [
        ("ssh://hub", true),
        ("ssh://HUB", true),
        ("ssh://192.0.2.1:22", true),
        ("ssh://[::1]", true),
        ("ssh://other:2222", true),
        ("ssh://hub:2222", false),
        ("ssh://other", false),
        ("ssh://hubs", false),
        ("ssh://192.0.2.10", false),
    ] {
        assert_eq!(place.trusts(&text, server, &key), known, "{server}");
    }
}

#[test]
fn hosts_that_ssh_keygen_has_hashed_are_found() {
    let place = Place::new();
    let [key, other] = [place.ed25519("a"), place.ed25519("b")];
    let text = format!("hub {key}\n[hub]:2222 {other}\n[::1]:2222 {other}\n");
    fs::write(place.file(), &text).unwrap();
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-H", "-f"]).arg(place.file()).stdin(Stdio::null());
    run_ok(command, Duration::from_secs(30)).unwrap();
    let hashed = fs::read_to_string(place.file()).unwrap();
    assert!(!hashed.contains("hub"), "{hashed}");
    for (server, expected) in
        [("ssh://hub", &key), ("ssh://hub:2222", &other), ("ssh://[::1]:2222", &other)]
    {
        let trust = place.load_again(server).unwrap();
        assert_eq!(trust.objection(&public(expected)), None, "{server}");
        let wrong = if expected == &key { &other } else { &key };
        assert!(trust.objection(&public(wrong)).is_some(), "{server}");
    }
    let error = place.load_again("ssh://hub:2223").unwrap_err();
    assert!(error.contains("no key of hub, port 2223, is there"), "{error}");
}

#[test]
fn comments_empty_lines_and_any_white_space_are_as_in_openssh() {
    let place = Place::new();
    let key = place.ed25519("a");
    let line = key.replace(' ', " \t ");
    let text = format!("# hub {key}\n\n  \n  # also one\n  hub\t{line}  \t comment\r\n");
    assert!(place.trusts(&text, "ssh://hub", &key));
    assert!(!place.trusts(&format!("#hub {key}\n # hub {key}"), "ssh://hub", &key));
}

#[test]
fn an_authority_is_no_key_of_a_server() {
    let place = Place::new();
    let [authority, key] = [place.ed25519("authority"), place.ed25519("a")];
    let mark = format!("@cert-authority * {authority}\n");
    let error = place.load(&mark, "ssh://hub").unwrap_err();
    assert!(error.contains("no key of hub, port 22, is there"), "{error}");
    let text = format!("{mark}hub {key}\n");
    assert!(place.trusts(&text, "ssh://hub", &key));
    assert!(!place.trusts(&text, "ssh://hub", &authority));
}

#[test]
fn a_revoked_key_is_refused_whichever_line_names_it_and_the_others_stay() {
    let place = Place::new();
    let [old, new] = [place.ed25519("old"), place.ed25519("new")];
    for text in [
        format!("hub {old}\nhub {new}\n@revoked hub {old}\n"),
        format!("@revoked\t* {old}\nhub {old}\nhub {new}\n"),
    ] {
        let trust = place.load(&text, "ssh://hub").unwrap();
        let objection = trust.objection(&public(&old));
        assert!(objection.is_some_and(|why| why.contains("revoked")), "{objection:?}");
        assert_eq!(trust.objection(&public(&new)), None);
    }
}

#[test]
fn a_line_that_matters_and_cannot_be_read_is_named_by_its_number() {
    let place = Place::new();
    let key = place.ed25519("a");
    let good = format!("# one\nhub {key}\n");
    for (line, says) in [
        ("@revoked hub ssh-ed25519 AAAA", "line 3 revokes no key that can be read"),
        ("@revoked", "line 3 revokes no key that can be read"),
        ("@trusted hub ssh-ed25519 AAAA", "line 3 has a mark that is not known"),
        ("hub ssh-ed25519 AAAA", "line 3 names hub, and has no key that can be read"),
        ("hub ssh-ed25519", "line 3 names hub, and has no key that can be read"),
    ] {
        let error = place.load(&format!("{good}{line}\n"), "ssh://hub").unwrap_err();
        assert!(error.contains(says), "{line}: {error}");
        assert!(error.contains("known_hosts: line"), "{line}: {error}");
    }
    for others in ["other ssh-ed25519 AAAA", "nothing", "|1|x|y ssh-ed25519 AAAA"] {
        assert!(place.trusts(&format!("{others}\n{good}"), "ssh://hub", &key), "{others}");
    }
}

#[test]
fn a_server_that_is_known_by_an_rsa_key_alone_is_refused_with_what_to_do() {
    let place = Place::new();
    let rsa = place.key("rsa", &["-t", "rsa", "-b", "2048"]);
    let error = place.load(&format!("hub {rsa}\n"), "ssh://hub").unwrap_err();
    assert!(error.contains("of the kind ssh-rsa, which is not used here"), "{error}");
    let key = place.key("ecdsa", &["-t", "ecdsa"]);
    assert!(place.trusts(&format!("hub {rsa}\nhub {key}\n"), "ssh://hub", &key));
}

#[test]
fn the_server_is_asked_for_the_kinds_of_keys_that_are_known_of_it() {
    let place = Place::new();
    let [key, other] = [place.key("a", &["-t", "ecdsa"]), place.ed25519("b")];
    let text = format!("hub {key}\nother {other}\nhub {key}\n");
    let kinds = place.load(&text, "ssh://hub").unwrap().algorithms();
    assert_eq!(kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>(), ["ecdsa-sha2-nistp256"]);
}
