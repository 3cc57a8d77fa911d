//! The key that a hub, or a node, is known by.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use rustix::rand::{GetRandomFlags, getrandom};
use tempfile::NamedTempFile;

use super::error::TunnelError;
use super::identity;
use super::key::SshKey;

/// A key that others can read is refused.
const KEY_MODE: u32 = 0o600;

/// Why there is no such key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnKeyError {
    /// The key that is there cannot be used.
    #[error(transparent)]
    Unusable(#[from] TunnelError),
    /// None is there, and none could be made.
    #[error("the key {} cannot be made: {error}", path.display())]
    NotMade {
        /// Its file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// A private key of our own making.
#[derive(Clone)]
pub struct OwnKey(pub(super) PrivateKey);

impl std::fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnKey({})", self.public().fingerprint())
    }
}

impl OwnKey {
    /// The key in the file, which is made where it is missing.
    ///
    /// # Errors
    /// [`OwnKeyError`].
    pub fn load_or_make(path: &Path) -> Result<Self, OwnKeyError> {
        if !path.exists() {
            make(path).map_err(|error| OwnKeyError::NotMade { path: path.to_owned(), error })?;
        }
        Ok(Self(identity::load(path)?))
    }

    /// A new key, durably in this file: what was in it is gone.
    ///
    /// # Errors
    /// [`OwnKeyError::NotMade`].
    pub(crate) fn make_anew(path: &Path) -> Result<Self, OwnKeyError> {
        let make = || {
            let (key, text) = fresh()?;
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file =
                File::options().write(true).create_new(true).mode(KEY_MODE).open(path)?;
            file.write_all(text.as_ref().as_bytes())?;
            file.sync_all()?;
            Ok(Self(key))
        };
        make().map_err(|error| OwnKeyError::NotMade { path: path.to_owned(), error })
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> SshKey {
        SshKey::new(self.0.public_key().clone())
    }
}

/// A key of random bytes, and its text.
fn fresh() -> io::Result<(PrivateKey, impl AsRef<str>)> {
    let mut seed = [0_u8; 32];
    let mut filled = 0;
    while filled < seed.len() {
        filled += getrandom(&mut seed[filled..], GetRandomFlags::empty())?;
    }
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    let text = key.to_openssh(LineEnding::LF).map_err(io::Error::other)?;
    Ok((key, text))
}

/// Written whole before it has its name, so that who is killed meanwhile leaves no half a key; and
/// of two who make one at once, the first one's stays.
fn make(path: &Path) -> io::Result<()> {
    let (_, text) = fresh()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    // Mode 0600 from the start.
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(text.as_ref().as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => File::open(folder)?.sync_all(),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error),
    }
}
