//! By what a server is known: its certificate's thumbprint, or a CA. The system's own CAs are never
//! asked: a vCenter has none of them, and whoever names none would not notice a wrong server.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA1_OUTPUT_LEN, SHA256, SHA256_OUTPUT_LEN, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

/// The hash of a certificate: SHA-1, as vSphere shows it, or SHA-256.
#[derive(Clone, PartialEq, Eq)]
pub struct Thumbprint(Vec<u8>);

/// A text that is no thumbprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no thumbprint: it has 20 (SHA-1) or 32 (SHA-256) pairs of hexadecimal digits, with or \
     without colons between"
)]
pub struct NoThumbprint(String);

impl Thumbprint {
    fn sha1(certificate: &[u8]) -> Self {
        Self(digest(&SHA1_FOR_LEGACY_USE_ONLY, certificate).as_ref().to_vec())
    }

    fn sha256(certificate: &[u8]) -> Self {
        Self(digest(&SHA256, certificate).as_ref().to_vec())
    }

    /// That of this certificate, made as this one is.
    fn alike(&self, certificate: &[u8]) -> Self {
        if self.0.len() == SHA256_OUTPUT_LEN {
            Self::sha256(certificate)
        } else {
            Self::sha1(certificate)
        }
    }
}

impl FromStr for Thumbprint {
    type Err = NoThumbprint;

    fn from_str(text: &str) -> Result<Self, NoThumbprint> {
        let refused = || NoThumbprint(text.chars().take(100).collect());
        let digits = text.trim().replace(':', "");
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(refused());
        }
        if ![SHA1_OUTPUT_LEN, SHA256_OUTPUT_LEN].contains(&(digits.len() / 2))
            || !digits.len().is_multiple_of(2)
        {
            return Err(refused());
        }
        let bytes =
            (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16));
        bytes.collect::<Result<_, _>>().map(Self).map_err(|_| refused())
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Thumbprint({self})")
    }
}

/// By what a server is known. One has to be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Its certificate is exactly this one, whoever signed it and whatever name is in it.
    Thumbprint(Thumbprint),
    /// A CA of this PEM file signed its certificate, for the name that it is reached by.
    CaFile(PathBuf),
}

impl Trust {
    /// Whether it is something that a server can be known by: a file has to have certificates.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn check(&self) -> Result<(), String> {
        Verifier::new(self).map(drop)
    }
}

/// Looks at the certificate of a server.
#[derive(Debug)]
pub(super) struct Verifier {
    scrutiny: Scrutiny,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
enum Scrutiny {
    Thumbprint(Thumbprint),
    Authority(Arc<WebPkiServerVerifier>),
}

/// What a server showed last.
#[derive(Debug, Default)]
struct Seen {
    /// SHA-1 of the certificate that was good.
    good: Option<Thumbprint>,
    /// Why a certificate was not.
    refused: Option<String>,
}

impl Verifier {
    /// # Errors
    /// Why the CAs cannot be used, in words.
    pub(super) fn new(trust: &Trust) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let scrutiny = match trust {
            Trust::Thumbprint(thumbprint) => Scrutiny::Thumbprint(thumbprint.clone()),
            Trust::CaFile(path) => {
                let roots = Arc::new(roots(path)?);
                let checked = Arc::clone(&provider);
                let built = WebPkiServerVerifier::builder_with_provider(roots, checked).build();
                let unusable =
                    |error| format!("the CAs of {} cannot be used: {error}", path.display());
                Scrutiny::Authority(built.map_err(unusable)?)
            }
        };
        Ok(Self { scrutiny, provider, seen: Mutex::default() })
    }

    /// What sessions are begun with.
    pub(super) fn config(verifier: &Arc<Self>) -> Result<ClientConfig, String> {
        let provider = Arc::clone(&verifier.provider);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let checked: Arc<dyn ServerCertVerifier> = Arc::<Self>::clone(verifier);
        let mut config =
            builder.dangerous().with_custom_certificate_verifier(checked).with_no_client_auth();
        // A session that goes on from another one would show no certificate.
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// SHA-1 of the certificate that was good last.
    pub(super) fn good(&self) -> Option<Thumbprint> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).good.clone()
    }

    /// Why a certificate was refused, told once: what fails later fails for another reason.
    pub(super) fn take_refusal(&self) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).refused.take()
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, (Error, String)> {
        match &self.scrutiny {
            Scrutiny::Thumbprint(wanted) => {
                let shown = wanted.alike(end_entity);
                if shown == *wanted {
                    return Ok(ServerCertVerified::assertion());
                }
                let error =
                    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
                Err((error, format!("its thumbprint is {shown}, and should be {wanted}")))
            }
            Scrutiny::Authority(inner) => inner
                .verify_server_cert(end_entity, intermediates, name, ocsp, now)
                .map_err(|error| {
                    let shown = Thumbprint::sha256(end_entity);
                    let why = format!("{error}; its SHA-256 thumbprint is {shown}");
                    (error, why)
                }),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let checked = self.check(end_entity, intermediates, server_name, ocsp_response, now);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match checked {
            Ok(verified) => {
                *seen = Seen { good: Some(Thumbprint::sha1(end_entity)), refused: None };
                Ok(verified)
            }
            Err((error, why)) => {
                seen.refused = Some(why);
                Err(error)
            }
        }
    }

    // Whoever shows a certificate has to prove that it is theirs, however it is known.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The CAs of a file, each of which must be good.
fn roots(path: &Path) -> Result<RootCertStore, String> {
    let shown = path.display();
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates =
        read.map_err(|error| format!("the CA file {shown} cannot be read: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("the CA file {shown} holds no certificate in PEM form"));
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|error| format!("the CA file {shown} holds a bad certificate: {error}"))?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA1: &str = "AA:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:FF";

    #[test]
    fn thumbprints_are_shown_as_vsphere_shows_them() {
        let parsed: Thumbprint = SHA1.to_lowercase().replace(':', "").parse().unwrap();
        assert_eq!(parsed.to_string(), SHA1);
        let long = "0f".repeat(32).parse::<Thumbprint>().unwrap();
        assert_eq!(long.to_string().len(), 32 * 3 - 1);
    }

    #[test]
    fn what_is_no_thumbprint_is_refused() {
        for text in ["", "AA", "zz".repeat(20).as_str(), "é".repeat(20).as_str(), &SHA1[..57]] {
            assert!(text.parse::<Thumbprint>().is_err(), "{text}");
        }
        assert!(format!("{SHA1}:0").parse::<Thumbprint>().is_err());
    }

    #[test]
    fn a_ca_file_without_certificate_is_refused_with_its_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = Verifier::new(&Trust::CaFile(file.path().to_owned())).unwrap_err();
        assert!(refused.contains(file.path().to_str().unwrap()), "{refused}");
    }
}
