//! Which keys a server may have.

use std::fs;
use std::io;
use std::path::Path;

use russh::keys::ssh_key::known_hosts::{KnownHosts, Marker};
use russh::keys::ssh_key::{Fingerprint, HashAlg};
use russh::keys::{Algorithm, PublicKey, known_hosts};

use super::address::TunnelAddress;
use super::error::TunnelError;

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
        // A line that cannot be read may be one that revokes a key.
        let entries = text.lines().enumerate().filter(|(_, line)| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#')
        });
        let mut revoked = Vec::new();
        for (index, line) in entries {
            if !line.trim_start().starts_with("@revoked") {
                continue;
            }
            match KnownHosts::new(line).next() {
                Some(Ok(entry)) if entry.marker() == Some(&Marker::Revoked) => {
                    revoked.push(entry.public_key().clone());
                }
                _ => {
                    return Err(wrong(format!(
                        "line {} revokes no key that can be read",
                        index + 1
                    )));
                }
            }
        }
        let known = known_hosts::known_host_keys_path(&address.host, address.port, path)
            .map_err(|error| wrong(error.to_string()))?;
        let known: Vec<PublicKey> = known.into_iter().map(|(_line, key)| key).collect();
        if known.is_empty() {
            let (host, port) = (&address.host, address.port);
            return Err(wrong(format!(
                "no key of {host}, port {port}, is there; take it from the server itself \
                 (ssh-keyscan -p {port} {host} gets one over the network, to be compared)"
            )));
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
