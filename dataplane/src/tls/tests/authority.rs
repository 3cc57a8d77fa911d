//! A CA with what it signs, in folders such as nbdkit and blockferry read.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;

/// A CA of a test.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a CA of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// A certificate for `names`, with its key.
    pub(super) fn sign(&self, names: &[&str], expired: bool) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        if expired {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A folder for a server that goes by `names`.
    pub(super) fn server(&self, names: &[&str]) -> TempDir {
        let folder = self.folder();
        write_pair(folder.path(), "server", self.sign(names, false));
        folder
    }

    /// As [`Authority::server`], but its time is over.
    pub(super) fn expired_server(&self) -> TempDir {
        let folder = self.folder();
        write_pair(folder.path(), "server", self.sign(&["127.0.0.1"], true));
        folder
    }

    /// A folder for a client that trusts this CA.
    pub(super) fn folder(&self) -> TempDir {
        let folder = TempDir::with_prefix("tls-").unwrap();
        std::fs::write(folder.path().join("ca-cert.pem"), &self.certificate).unwrap();
        folder
    }

    /// A folder for a client that trusts this CA, and is known to it.
    pub(super) fn client(&self) -> TempDir {
        let folder = self.folder();
        write_pair(folder.path(), "client", self.sign(&["a client"], false));
        folder
    }
}

fn write_pair(folder: &Path, role: &str, (certificate, key): (String, String)) {
    std::fs::write(folder.join(format!("{role}-cert.pem")), certificate).unwrap();
    std::fs::write(folder.join(format!("{role}-key.pem")), key).unwrap();
}
