//! The private key that a tunnel is opened with.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use russh::keys::{PrivateKey, decode_secret_key};

use super::error::TunnelError;

/// Bytes of a key file at most: an RSA key of 16,384 bits has 13 KiB.
const MAX_KEY_BYTES: u64 = 64 << 10;
/// Permission bits of all but the owner.
const OTHERS: u32 = 0o077;

/// Whether a tunnel can be opened with this private key.
///
/// # Errors
/// [`TunnelError::Identity`]: what is wrong with its file.
pub fn check(path: &Path) -> Result<(), TunnelError> {
    load(path).map(drop)
}

/// Reads a private key, if nobody else can.
pub(super) fn load(path: &Path) -> Result<PrivateKey, TunnelError> {
    let wrong = |what: String| TunnelError::Identity { path: path.to_owned(), what };
    let mut file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let data = file.metadata().map_err(|error| wrong(error.to_string()))?;
    if !data.is_file() {
        return Err(wrong("it is not a file".into()));
    }
    if data.mode() & OTHERS != 0 {
        let mode = data.mode() & 0o777;
        return Err(wrong(format!(
            "its mode is {mode:03o}, so others can read or change it: chmod 600 it, and think of \
             whether it is still secret"
        )));
    }
    let mut text = String::new();
    (&mut file)
        .take(MAX_KEY_BYTES)
        .read_to_string(&mut text)
        .map_err(|_| wrong("it is no private key in the format of OpenSSH".into()))?;
    let key = decode_secret_key(&text, None).map_err(|error| {
        wrong(match error {
            russh::keys::Error::KeyIsEncrypted => {
                "it has a passphrase, and nobody is here to type it: take a key without one, that \
                 can do nothing but this"
                    .into()
            }
            // What it says of the file may have a part of the key in it.
            _ => "it is no private key in the format of OpenSSH".to_owned(),
        })
    })?;
    if key.algorithm().is_rsa() {
        return Err(wrong("it is an RSA key, which is not used here: make one of ed25519".into()));
    }
    Ok(key)
}
