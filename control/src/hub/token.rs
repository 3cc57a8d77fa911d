//! The tokens that open the API. Only their hashes are kept.
//!
//! ```text
//!  hub token ──▶ Tokens ──writes──▶ tokens.json (mode 0600) ◀──reads when it has changed── TokenCheck
//!                  └─ the token itself: shown once, kept nowhere
//! ```
//!
//! A token is 256 random bits, so a fast hash without salt is enough: there is nothing to guess.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use blake3::Hash;
use rustix::fs::{FlockOperation, flock};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use super::state;
use crate::catalog::UnixMillis;

const FILE: &str = "tokens.json";
const LOCK_FILE: &str = "tokens.lock";
/// What a token begins with, so that people and scanners of logs know one when they see it.
const PREFIX: &str = "blockferry_";
const TOKEN_BYTES: usize = 32;
const ID_BYTES: usize = 4;

/// Why tokens could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The file, or its folder.
    #[error("the tokens in {} cannot be used: {error}; look at the folder and its permissions", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Not what this program wrote.
    #[error("{} is damaged: {detail}; move it away, and make new tokens", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Somebody else changes them.
    #[error("another process changes the tokens in {} at this moment; try again", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// No random bytes.
    #[error("the system gave no random bytes: {0}")]
    Random(io::Error),
    /// No such token.
    #[error("there is no token {0}; list them to see which there are")]
    NoSuchToken(TokenId),
    /// Not an id.
    #[error("{0:?} is not the id of a token; list them to see the ids")]
    NotAnId(String),
}

/// What a token is called. It tells nothing of the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(String);

impl FromStr for TokenId {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let is_id = text.len() == 2 * ID_BYTES && text.bytes().all(|b| b.is_ascii_hexdigit());
        is_id
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| TokenError::NotAnId(text.chars().take(80).collect()))
    }
}

impl std::fmt::Display for TokenId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

/// A new token, to be shown to whoever asked for it and then forgotten. It has no `Debug`.
pub struct Token {
    /// Its id, for revoking it.
    pub id: TokenId,
    /// What opens the API.
    pub secret: String,
}

/// What is known of a token that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFacts {
    /// Its id.
    pub id: TokenId,
    /// When it was made.
    pub created: UnixMillis,
}

#[derive(Default, Serialize, Deserialize)]
struct Kept {
    tokens: Vec<KeptToken>,
}

#[derive(Serialize, Deserialize)]
struct KeptToken {
    id: TokenId,
    created_ms: u64,
    blake3: String,
}

/// The tokens of a state folder, to change them. A hub that runs on it sees changes at once.
#[derive(Clone, Debug)]
pub struct Tokens {
    folder: PathBuf,
}

impl Tokens {
    /// Those of this folder, which is made when the first token is.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`TokenError`]; nothing was made then.
    pub fn add(&self) -> Result<Token, TokenError> {
        state::make(&self.folder).map_err(|error| self.failed(error))?;
        let id = TokenId(hex(&random::<ID_BYTES>()?));
        let secret = format!("{PREFIX}{}", hex(&random::<TOKEN_BYTES>()?));
        self.change(|kept| {
            kept.tokens.push(KeptToken {
                id: id.clone(),
                created_ms: UnixMillis::now().get(),
                blake3: blake3::hash(secret.as_bytes()).to_hex().to_string(),
            });
            Ok(())
        })?;
        Ok(Token { id, secret })
    }

    /// Takes a token away: it opens nothing any more.
    ///
    /// # Errors
    /// [`TokenError::NoSuchToken`], or what kept it from being written.
    pub fn revoke(&self, id: &TokenId) -> Result<(), TokenError> {
        if !self.folder.join(FILE).exists() {
            return Err(TokenError::NoSuchToken(id.clone()));
        }
        self.change(|kept| {
            let before = kept.tokens.len();
            kept.tokens.retain(|token| &token.id != id);
            if kept.tokens.len() == before {
                return Err(TokenError::NoSuchToken(id.clone()));
            }
            Ok(())
        })
    }

    /// The tokens, oldest first.
    ///
    /// # Errors
    /// [`TokenError`] when they cannot be read.
    pub fn list(&self) -> Result<Vec<TokenFacts>, TokenError> {
        let kept = self.read()?.tokens.into_iter();
        Ok(kept
            .map(|token| TokenFacts {
                id: token.id,
                created: UnixMillis::new(token.created_ms).unwrap_or_default(),
            })
            .collect())
    }

    fn read(&self) -> Result<Kept, TokenError> {
        let path = self.folder.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
            Err(error) => return Err(TokenError::File { path, error }),
        };
        serde_json::from_slice(&text)
            .map_err(|error| TokenError::Damaged { path, detail: error.to_string() })
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Kept) -> Result<(), TokenError>,
    ) -> Result<(), TokenError> {
        let failed = |error| self.failed(error);
        let lock = state::lock_file(&self.folder.join(LOCK_FILE)).map_err(failed)?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            return Err(match io::Error::from(error) {
                error if error.kind() == io::ErrorKind::WouldBlock => {
                    TokenError::Busy { path: self.folder.clone() }
                }
                error => failed(error),
            });
        }
        let mut kept = self.read()?;
        change(&mut kept)?;
        self.write(&kept).map_err(failed)
    }

    /// Replaces the file as a whole, durably. A temporary file has mode 0600 from the start.
    fn write(&self, kept: &Kept) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        serde_json::to_writer(&mut file, kept)?;
        file.as_file().sync_all()?;
        file.persist(self.folder.join(FILE)).map_err(|error| error.error)?;
        File::open(&self.folder)?.sync_all()
    }

    fn failed(&self, error: io::Error) -> TokenError {
        TokenError::File { path: self.folder.clone(), error }
    }
}

/// Tells tokens that open the API from others.
#[derive(Debug)]
pub struct TokenCheck {
    tokens: Tokens,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    file: Option<FileState>,
    hashes: Vec<Hash>,
}

/// A file that was replaced has another number; its time and size are for one written by hand.
#[derive(Debug, PartialEq, Eq)]
struct FileState {
    number: u64,
    modified: Option<SystemTime>,
    size: u64,
}

impl TokenCheck {
    /// For the tokens of this folder.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { tokens: Tokens::of(folder), known: Mutex::default() }
    }

    /// Whether this token opens the API. The time that it takes tells nothing of the others.
    ///
    /// # Errors
    /// [`TokenError`] when the tokens cannot be read; then none opens it.
    pub fn admits(&self, token: &str) -> Result<bool, TokenError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&mut known)?;
        let hash = blake3::hash(token.as_bytes());
        // All of them, whichever it is; each comparison takes the same time (blake3::Hash).
        Ok(known.hashes.iter().fold(false, |found, other| found | (*other == hash)))
    }

    /// Whether there is any token.
    ///
    /// # Errors
    /// [`TokenError`] when they cannot be read.
    pub fn has_any(&self) -> Result<bool, TokenError> {
        Ok(!self.tokens.list()?.is_empty())
    }

    fn refresh(&self, known: &mut Known) -> Result<(), TokenError> {
        let path = self.tokens.folder.join(FILE);
        let file = match fs::metadata(&path) {
            Ok(facts) => Some(FileState {
                number: facts.ino(),
                modified: facts.modified().ok(),
                size: facts.len(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(TokenError::File { path, error }),
        };
        if file == known.file {
            return Ok(());
        }
        // Before the new ones are known, none is.
        *known = Known::default();
        let tokens = self.tokens.read()?.tokens;
        known.hashes = tokens
            .iter()
            .map(|token| Hash::from_hex(&token.blake3))
            .collect::<Result<_, _>>()
            .map_err(|error| TokenError::Damaged { path, detail: error.to_string() })?;
        known.file = file;
        Ok(())
    }
}

fn random<const N: usize>() -> Result<[u8; N], TokenError> {
    let mut bytes = [0; N];
    // So few come at once, or not at all (getrandom(2)).
    let had = getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|error| TokenError::Random(error.into()))?;
    if had < N {
        return Err(TokenError::Random(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
