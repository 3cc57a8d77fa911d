//! Public keys, as files and people have them.

use russh::keys::ssh_key::HashAlg;
use russh::keys::{PublicKey, PublicKeyBase64};

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshKey(PublicKey);

impl SshKey {
    pub(super) fn new(key: PublicKey) -> Self {
        Self(key)
    }

    /// A key in the format of `authorized_keys`: its kind and its bytes; a comment is left out.
    ///
    /// # Errors
    /// Not such a key.
    pub fn parse(text: &str) -> Result<Self, String> {
        PublicKey::from_openssh(text)
            .map(|key| Self(PublicKey::from(key.key_data().clone())))
            .map_err(|_| "it is no public key in the format of OpenSSH".to_owned())
    }

    /// As it stands in `authorized_keys`, without a comment.
    #[must_use]
    pub fn openssh(&self) -> String {
        format!("{} {}", self.0.algorithm(), self.0.public_key_base64())
    }

    /// As people compare it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }
}
