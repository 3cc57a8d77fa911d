//! Which keys a server may have.

use std::fs;
use std::io;
use std::path::Path;

use russh::keys::ssh_key::{Fingerprint, HashAlg};
use russh::keys::{Algorithm, PublicKey};

use super::address::TunnelAddress;
use super::error::TunnelError;
use super::host_pattern;

/// The keys that are known of one server, and those that no server may have any more.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    known: Vec<PublicKey>,
    revoked: Vec<PublicKey>,
}

impl Trust {
    /// Reads the file of known hosts. One that does not name the server is an error: keys of
    /// strangers are never asked about and never added.
    pub(super) fn load(path: &Path, address: &TunnelAddress) -> Result<Self, TunnelError> {
        let wrong = |what: String| TunnelError::KnownHosts { path: path.to_owned(), what };
        let text = fs::read_to_string(path).map_err(|error| wrong(words(&error)))?;
        let name = host_pattern::name(address);
        let (host, port) = (&address.host, address.port);
        let (mut known, mut revoked) = (Vec::new(), Vec::new());
        let mut not_ours = None;
        for (index, line) in text.lines().enumerate() {
            let at = |what: &str| wrong(format!("line {} {what}", index + 1));
            match Line::of(line) {
                Line::Nothing => {}
                Line::Marked => return Err(at("has a mark that is not known")),
                // A line that cannot be read may be the one that matters.
                Line::Revoked(key) => match key {
                    Some(key) => revoked.push(key),
                    None => return Err(at("revokes no key that can be read")),
                },
                Line::Host { patterns, .. } if !host_pattern::names(patterns, &name) => {}
                Line::Host { kind, .. } if !is_ours(kind) => not_ours = Some(kind),
                Line::Host { key: Some(key), .. } => known.push(key),
                Line::Host { .. } => {
                    return Err(at(&format!("names {host}, and has no key that can be read")));
                }
            }
        }
        if known.is_empty() {
            return Err(wrong(match not_ours {
                Some(kind) => format!(
                    "the only key of {host}, port {port}, is of the kind {kind}, which is not \
                     used here: put its ed25519 key there"
                ),
                None => format!(
                    "no key of {host}, port {port}, is there; take it from the server itself \
                     (ssh-keyscan -p {port} {host} gets one over the network, to be compared)"
                ),
            }));
        }
        Ok(Self { known, revoked })
    }

    /// The kinds of keys to ask the server for: those that it can be known by.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        let mut algorithms: Vec<Algorithm> = Vec::new();
        for key in &self.known {
            if !algorithms.contains(&key.algorithm()) {
                algorithms.push(key.algorithm());
            }
        }
        algorithms
    }

    /// What is wrong with the key that the server showed.
    pub(super) fn objection(&self, shown: &PublicKey) -> Option<&'static str> {
        let same = |key: &PublicKey| key.key_data() == shown.key_data();
        if self.revoked.iter().any(same) {
            Some("that key is revoked; somebody may be in between, or the server was not told")
        } else if self.known.iter().any(same) {
            None
        } else {
            Some(
                "somebody may be in between; if the server was really given a new key, put that \
                 in the place of the old one in the file of known hosts",
            )
        }
    }
}

/// A line of the file.
enum Line<'a> {
    /// Empty, a comment, or about certificates, which are not used here.
    Nothing,
    /// With a mark that may mean anything.
    Marked,
    /// A key that no server may have, if it can be read.
    Revoked(Option<PublicKey>),
    /// The key of some servers, if it can be read.
    Host { patterns: &'a str, kind: &'a str, key: Option<PublicKey> },
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Self {
        let mut words = line.split_ascii_whitespace();
        let mut next = || words.next().unwrap_or_default();
        let first = next();
        let (mark, patterns) = match first.starts_with('@') {
            true => (first, next()),
            false => ("", first),
        };
        let (kind, data) = (next(), next());
        let key = || PublicKey::from_openssh(&format!("{kind} {data}")).ok();
        match mark {
            "" if patterns.is_empty() || patterns.starts_with('#') => Self::Nothing,
            "" => Self::Host { patterns, kind, key: key() },
            "@cert-authority" => Self::Nothing,
            "@revoked" => Self::Revoked(key()),
            _ => Self::Marked,
        }
    }
}

/// Whether signatures of that kind of key are checked here. RSA's are not: `docs/dependencies.md`.
fn is_ours(kind: &str) -> bool {
    kind == "ssh-ed25519" || kind.starts_with("ecdsa-sha2-nistp")
}

/// A key as people compare it.
pub(super) fn fingerprint(key: &PublicKey) -> Fingerprint {
    key.fingerprint(HashAlg::Sha256)
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file; put the server's key there".into(),
        _ => error.to_string(),
    }
}
