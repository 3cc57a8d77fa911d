//! What went wrong in a session, in one line that says what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::ResolvesClientCert;
use rustls::pki_types::UnixTime;
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError, Error, SignatureScheme};

use super::credentials::{CERTIFICATE_FILE, KEY_FILE};

const UNTRUSTED: &str = "the server's certificate is not trusted";
const OTHER_CA: &str = "name the folder of the right ca-cert.pem as tls-certificates=FOLDER";
const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// How far a session came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The TLS handshake was under way.
    Handshake,
    /// It was over on our side, and no data had come: in TLS 1.3 the server judges our certificate
    /// only then.
    Unanswered,
    /// The server had accepted us.
    Answered,
}

/// What a session was begun with, as far as messages need it.
#[derive(Debug, Default)]
pub(super) struct Terms {
    /// Folder of certificates, if there is one.
    pub(super) folder: Option<PathBuf>,
    /// File of the CAs; empty when no certificate is looked at.
    pub(super) trusted: PathBuf,
    /// Set when there is no certificate of ours.
    pub(super) unidentified: Option<Arc<Unidentified>>,
}

/// Answers a server that asks for our certificate with none, and remembers the question: servers
/// that insist often hang up without a word.
#[derive(Debug, Default)]
pub(super) struct Unidentified {
    asked: AtomicBool,
}

impl ResolvesClientCert for Unidentified {
    fn resolve(
        &self,
        _issuers: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

impl Terms {
    /// For what rustls found.
    pub(super) fn explain(&self, error: &Error) -> String {
        match error {
            Error::InvalidCertificate(error) => self.distrust(error),
            Error::NoCertificatesPresented => "the server has no certificate".into(),
            Error::AlertReceived(alert) => {
                let hint = if is_about_us(*alert) { self.identity_hint() } else { String::new() };
                format!("the server broke off: {alert:?}{hint}")
            }
            Error::PeerIncompatible(_) => {
                format!("we have no protocol version or cipher in common with the server: {error}")
            }
            Error::InvalidMessage(_) => format!("the server does not speak proper TLS: {error}"),
            Error::DecryptError => "a message was damaged or forged on its way".into(),
            _ => error.to_string(),
        }
    }

    /// For a connection that ended too early; `error` is what the system said, if anything.
    pub(super) fn cut(&self, stage: Stage, error: Option<&io::Error>) -> String {
        let when = match stage {
            Stage::Handshake => "during the TLS handshake",
            Stage::Unanswered => "right after the TLS handshake",
            Stage::Answered => "without ending the TLS session",
        };
        let hint = match stage {
            Stage::Answered => String::new(),
            Stage::Handshake | Stage::Unanswered => self.identity_hint(),
        };
        match error {
            None => format!("the server closed the connection {when}{hint}"),
            Some(error) => format!("the connection was lost {when}: {error}{hint}"),
        }
    }

    fn distrust(&self, error: &CertificateError) -> String {
        let trusted = self.trusted.display();
        match error {
            CertificateError::UnknownIssuer => {
                format!("{UNTRUSTED}: no CA in {trusted} has signed it; {OTHER_CA}")
            }
            CertificateError::BadSignature => {
                format!(
                    "{UNTRUSTED}: the CA in {trusted} has the right name, but did not sign it; {OTHER_CA}"
                )
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                let holds = match presented.as_slice() {
                    [] => "no name at all".into(),
                    names => names.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", "),
                };
                format!(
                    "the server's certificate is not for {}: it holds {holds}; \
                     if that is the right server, say so with tls-hostname=NAME",
                    expected.to_str()
                )
            }
            CertificateError::ExpiredContext { time, not_after } => {
                format!("the server's certificate expired {} ago", days(*not_after, *time))
            }
            CertificateError::NotValidYetContext { time, not_before } => format!(
                "the server's certificate is valid only in {}; is the clock of this machine right?",
                days(*time, *not_before)
            ),
            _ => format!("the server's certificate is not good: {error}"),
        }
    }

    fn identity_hint(&self) -> String {
        let folder = self.folder.as_deref().unwrap_or(Path::new("")).display();
        match &self.unidentified {
            None => return format!("; it may not accept {CERTIFICATE_FILE} of {folder}"),
            Some(unidentified) if !unidentified.asked.load(Ordering::Relaxed) => {
                return String::new();
            }
            Some(_) => {}
        }
        let place = match &self.folder {
            Some(_) => format!("put them into {folder}"),
            None => "name their folder as tls-certificates=FOLDER".into(),
        };
        format!(
            "; it asks for a client certificate, and there is no {CERTIFICATE_FILE} \
             with {KEY_FILE}: {place}"
        )
    }
}

/// Whether an alert may be the server's word on our certificate.
fn is_about_us(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::HandshakeFailure
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}

/// A name of a certificate without the kind that rustls puts around it: `DnsName("name")`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

fn days(from: UnixTime, to: UnixTime) -> String {
    match to.as_secs().saturating_sub(from.as_secs()) / SECONDS_PER_DAY {
        0 => "less than a day".into(),
        1 => "1 day".into(),
        days => format!("{days} days"),
    }
}
