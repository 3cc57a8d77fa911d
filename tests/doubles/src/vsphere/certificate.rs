//! The server's certificate, signed by itself, and what a client pins.

use std::fmt;
use std::io;
use std::sync::Arc;

use ring::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate for `localhost` and 127.0.0.1.
pub(crate) struct Certificate {
    pub(crate) pem: String,
    pub(crate) key_pem: String,
    pub(crate) config: Arc<ServerConfig>,
    der: Vec<u8>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Certificate").field("pem", &self.pem).finish_non_exhaustive()
    }
}

impl Certificate {
    pub(crate) fn make() -> io::Result<Self> {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .map_err(io::Error::other)?;
        let der = made.cert.der().to_vec();
        let key_pem = made.signing_key.serialize_pem();
        Ok(Self { pem: made.cert.pem(), key_pem, config: Arc::new(config), der })
    }

    /// SHA-1, as VDDK wants it: `AA:BB:...`.
    pub(crate) fn sha1(&self) -> String {
        self.thumbprint(&SHA1_FOR_LEGACY_USE_ONLY)
    }

    pub(crate) fn sha256(&self) -> String {
        self.thumbprint(&SHA256)
    }

    fn thumbprint(&self, algorithm: &'static Algorithm) -> String {
        let bytes = digest(algorithm, &self.der);
        let pairs: Vec<String> = bytes.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        pairs.join(":")
    }
}
