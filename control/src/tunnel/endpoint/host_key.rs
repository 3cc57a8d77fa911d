//! The key that a hub is known by.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use rustix::rand::{GetRandomFlags, getrandom};

use super::super::error::TunnelError;
use super::super::identity;
use super::gatekeeper::NodeKey;

/// Why a hub has no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostKeyError {
    /// The key that is there cannot be used.
    #[error(transparent)]
    Unusable(#[from] TunnelError),
    /// None is there, and none could be made.
    #[error("the host key {} cannot be made: {error}", path.display())]
    NotMade {
        /// Its file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The private key of an endpoint.
#[derive(Clone)]
pub struct HostKey(pub(super) PrivateKey);

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostKey({})", self.public().fingerprint())
    }
}

impl HostKey {
    /// The key in the file, which is made where it is missing.
    ///
    /// # Errors
    /// [`HostKeyError`].
    pub fn load_or_make(path: &Path) -> Result<Self, HostKeyError> {
        if !path.exists() {
            make(path).map_err(|error| HostKeyError::NotMade { path: path.to_owned(), error })?;
        }
        Ok(Self(identity::load(path)?))
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> NodeKey {
        NodeKey::new(self.0.public_key().clone())
    }
}

/// Written whole beside its name first, so that a hub that is killed meanwhile leaves no half a key.
fn make(path: &Path) -> io::Result<()> {
    let mut seed = [0_u8; 32];
    let mut filled = 0;
    while filled < seed.len() {
        filled += getrandom(&mut seed[filled..], GetRandomFlags::empty())?;
    }
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    let text = key.to_openssh(LineEnding::LF).map_err(io::Error::other)?;
    let partial = path.with_extension("partial");
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, path)
}
