//! Whom a session trusts, and who it says we are: what the URI names, or the places where
//! libnbd looks too.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, Error, InconsistentKeys, RootCertStore};

use super::reason::{Terms, Unidentified};
use super::verifier::{Scrutiny, Verifier};
use crate::nbd::{Address, NbdUri};

/// Files of a certificates folder; the names are those of libnbd, nbdkit and QEMU.
const CA_FILE: &str = "ca-cert.pem";
pub(super) const CERTIFICATE_FILE: &str = "client-cert.pem";
pub(super) const KEY_FILE: &str = "client-key.pem";

/// Where to look for a certificates folder that the URI does not name, as libnbd does:
/// nbd_set_tls_certificates(3).
const ROOT_FOLDER: &str = "/etc/pki/libnbd";
const HOME_FOLDERS: [&str; 2] = [".pki/libnbd", ".config/pki/libnbd"];

/// The CAs that the system trusts: Debian and Ubuntu; Fedora and its kin.
const SYSTEM_BUNDLES: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// All that a session needs from outside.
pub(super) struct Credentials {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
    pub(super) terms: Terms,
}

impl Credentials {
    /// Reads the files that the URI leads to.
    pub(super) fn of(uri: &NbdUri) -> Result<Self, String> {
        refuse_shared_keys(uri)?;
        let folder = match &uri.tls_params.certificates {
            Some(folder) => Some(folder.clone()),
            None => default_folders().into_iter().find(|folder| folder.join(CA_FILE).exists()),
        };
        let mut terms = Terms { folder, ..Terms::default() };
        let name = name(uri)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = verifier(uri, name.is_some(), &provider, &mut terms)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| terms.explain(&e))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match identity(terms.folder.as_deref())? {
            Some((chain, key)) => {
                let signer = builder.crypto_provider().key_provider.load_private_key(key);
                let certified = signer.map(|signer| CertifiedKey::new(chain, signer));
                let checked = certified.and_then(|certified| {
                    certified.keys_match().or_else(tolerate)?;
                    Ok(certified)
                });
                let certified = checked.map_err(|error| {
                    let folder = terms.folder.clone().unwrap_or_default();
                    let problem = match error {
                        Error::InconsistentKeys(_) => "do not go together",
                        _ => "cannot be used",
                    };
                    format!(
                        "{CERTIFICATE_FILE} and {KEY_FILE} in {} {problem}: {error}",
                        folder.display()
                    )
                })?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
            None => {
                let unidentified = Arc::new(Unidentified::default());
                terms.unidentified = Some(Arc::clone(&unidentified));
                builder.with_client_cert_resolver(unidentified)
            }
        };
        // Each session has a configuration of its own, so there is nothing to resume.
        config.resumption = Resumption::disabled();
        // rustls wants a name in any case; without a real one it is neither sent nor checked.
        config.enable_sni = name.is_some();
        let name = name.unwrap_or_else(|| {
            ServerName::try_from("localhost").expect("localhost is a valid name")
        });
        Ok(Self { config: Arc::new(config), name, terms })
    }
}

/// Lets a certificate pass whose key cannot be told: one of version 1 of X.509, as openssl makes them
/// if it is not told otherwise, is read by the server alone, which may take it.
fn tolerate(error: Error) -> Result<(), Error> {
    match error {
        Error::InconsistentKeys(InconsistentKeys::Unknown) => Ok(()),
        error if format!("{error:?}").contains("UnsupportedCertVersion") => Ok(()),
        error => Err(error),
    }
}

/// rustls has no pre-shared keys, and falling back to certificates would not be what was asked.
fn refuse_shared_keys(uri: &NbdUri) -> Result<(), String> {
    let asked = match &uri.user {
        Some(user) => format!("the user name {user:?}"),
        None if uri.ignored.iter().any(|name| name == "tls-psk-file") => "tls-psk-file".into(),
        None => return Ok(()),
    };
    Err(format!(
        "{asked} asks for pre-shared keys, which are not supported; \
         use certificates: nbds://HOST/EXPORT?tls-certificates=FOLDER"
    ))
}

fn default_folders() -> Vec<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return vec![ROOT_FOLDER.into()];
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    home.iter().flat_map(|home| HOME_FOLDERS.map(|folder| home.join(folder))).collect()
}

/// The name that the server's certificate must hold; none for a Unix socket, unless the URI
/// gives one.
fn name(uri: &NbdUri) -> Result<Option<ServerName<'static>>, String> {
    let name = match (&uri.tls_params.hostname, &uri.address) {
        (Some(name), _) => name,
        (None, Address::Tcp { host, .. }) => host,
        (None, Address::Unix { .. }) => return Ok(None),
    };
    // The zone of a link-local address means something on this machine only.
    let (bare, _zone) = name.split_once('%').unwrap_or((name, ""));
    ServerName::try_from(bare.to_owned()).map(Some).map_err(|_| {
        format!("{name:?} is no name that a certificate can hold; give one as tls-hostname=NAME")
    })
}

fn verifier(
    uri: &NbdUri,
    named: bool,
    provider: &Arc<CryptoProvider>,
    terms: &mut Terms,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let provider = Arc::clone(provider);
    if uri.tls_params.verify_peer == Some(false) {
        return Ok(Arc::new(Verifier { scrutiny: Scrutiny::None, provider }));
    }
    let roots = match &terms.folder {
        Some(folder) => {
            let path = folder.join(CA_FILE);
            let roots = own_roots(&path)?;
            terms.trusted = path;
            roots
        }
        None => {
            let (roots, path) = system_roots()?;
            terms.trusted = path;
            roots
        }
    };
    if !named {
        return Ok(Arc::new(Verifier { scrutiny: Scrutiny::Signer(roots), provider }));
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    Ok(verifier.map_err(|e| format!("cannot use the CAs of {}: {e}", terms.trusted.display()))?)
}

/// The CAs of a file that is meant for us: each of them must be good.
fn own_roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|e| format!("{} holds a bad certificate: {e}", path.display()))?;
    }
    Ok(roots)
}

/// The CAs of the system, less those that are too odd to be used.
fn system_roots() -> Result<(RootCertStore, PathBuf), String> {
    let Some(path) = SYSTEM_BUNDLES.iter().map(Path::new).find(|path| path.exists()) else {
        return Err("no CA to check the server's certificate with; \
                    name a folder with ca-cert.pem in the URI: tls-certificates=FOLDER"
            .into());
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(path)?);
    Ok((roots, path.to_owned()))
}

/// Our certificate chain with its key, if the folder has them.
fn identity(
    folder: Option<&Path>,
) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, String> {
    let Some(folder) = folder else {
        return Ok(None);
    };
    let (certificate, key) = (folder.join(CERTIFICATE_FILE), folder.join(KEY_FILE));
    if !certificate.exists() && !key.exists() {
        return Ok(None);
    }
    let chain = certificates(&certificate)?;
    let key = PrivateKeyDer::from_pem_file(&key).map_err(|e| unusable(&key, "private key", &e))?;
    Ok(Some((chain, key)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |e| unusable(path, "certificate", &e);
    let read = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let found = read.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if found.is_empty() {
        return Err(failed(pem::Error::NoItemsFound));
    }
    Ok(found)
}

/// Says nothing of what is in the file: it may be a key.
fn unusable(path: &Path, what: &str, error: &pem::Error) -> String {
    let path = path.display();
    match error {
        pem::Error::Io(e) => format!("cannot read {path}: {e}"),
        pem::Error::NoItemsFound => format!("{path} holds no {what} in PEM form"),
        _ => format!("{path} is not a proper PEM file"),
    }
}
