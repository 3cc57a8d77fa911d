//! How a machine becomes a node: its first connection to a hub.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::client;
use russh::keys::{Algorithm, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Disconnect, Preferred};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::address::TunnelAddress;
use super::enrollment::EnrollmentCode;
use super::key::SshKey;
use super::own_key::OwnKey;

/// Why a machine has not become a node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrollError {
    /// Nobody there, or nobody who speaks SSH.
    #[error("no connection to {address}: {what}; does the hub run there, with --tunnel?")]
    Connect {
        /// Where.
        address: TunnelAddress,
        /// What went wrong.
        what: String,
    },
    /// Somebody else is there.
    #[error(
        "{address} shows the key {fingerprint}, which is not that of the hub that made the code: \
         somebody may be in between, or it is another hub"
    )]
    OtherHub {
        /// Where.
        address: TunnelAddress,
        /// What it showed.
        fingerprint: String,
    },
    /// The code enrolls nobody.
    #[error(
        "the hub at {0} does not take the code: it is used or too old; make a new one there with \
         `blockferry hub enroll`"
    )]
    Refused(TunnelAddress),
    /// No answer in time.
    #[error("{address} did not answer within {deadline:?}")]
    Late {
        /// Where.
        address: TunnelAddress,
        /// For how long it was waited.
        deadline: Duration,
    },
}

/// Shows a code and a key to a hub, which knows the key as the node's from then on. The key of the
/// hub, which fits the code, is returned, to be pinned.
///
/// # Errors
/// [`EnrollError`]; where the hub answered no more, it may have enrolled the key nevertheless.
pub async fn enroll(
    address: &TunnelAddress,
    code: &EnrollmentCode,
    key: &OwnKey,
    deadline: Duration,
) -> Result<SshKey, EnrollError> {
    let late = |_| EnrollError::Late { address: address.clone(), deadline };
    timeout(deadline, try_enroll(address, code, key)).await.map_err(late)?
}

async fn try_enroll(
    address: &TunnelAddress,
    code: &EnrollmentCode,
    key: &OwnKey,
) -> Result<SshKey, EnrollError> {
    let failed = |what: String| EnrollError::Connect { address: address.clone(), what };
    let socket = TcpStream::connect((address.host.as_str(), address.port));
    let socket = socket.await.map_err(|error| failed(error.to_string()))?;
    let shown = Arc::default();
    let client = Client { code: code.clone(), shown: Arc::clone(&shown) };
    let config = client::Config {
        preferred: Preferred { key: (&[Algorithm::Ed25519]).into(), ..Preferred::DEFAULT },
        ..client::Config::default()
    };
    let hub = || shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let session = client::connect_stream(Arc::new(config), socket, client).await;
    let mut session = match (session, hub()) {
        (Ok(session), _) => session,
        (Err(_), Some(hub)) if !code.is_of(&hub) => {
            let (address, fingerprint) = (address.clone(), hub.fingerprint());
            return Err(EnrollError::OtherHub { address, fingerprint });
        }
        (Err(error), _) => return Err(failed(error.to_string())),
    };
    let key = PrivateKeyWithHashAlg::new(Arc::new(key.0.clone()), None);
    let answer = session.authenticate_publickey(code.user(), key).await;
    if !answer.map_err(|error| failed(error.to_string()))?.success() {
        return Err(EnrollError::Refused(address.clone()));
    }
    // Enrolled it is, whether the hub hears this or not.
    let _unheard = session.disconnect(Disconnect::ByApplication, "enrolled", "en").await;
    hub().ok_or_else(|| failed("it showed no key".into()))
}

struct Client {
    code: EnrollmentCode,
    shown: Arc<Mutex<Option<SshKey>>>,
}

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, russh::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else { return Ok(false) };
        let key = SshKey::new(key.clone());
        let fits = self.code.is_of(&key);
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
        Ok(fits)
    }
}
