//! The tokens that open the API. Only their hashes are kept.
//!
//! ```text
//!  hub token ──▶ Tokens ──writes──▶ tokens.json (mode 0600) ◀──reads when it has changed── TokenCheck
//!                  └─ the token itself: shown once, kept nowhere
//! ```
//!
//! A token is 256 random bits, so a fast hash without salt is enough: there is nothing to guess.

use std::path::Path;
use std::str::FromStr;

use blake3::Hash;
use serde::{Deserialize, Serialize};

use super::secret::{self, NoRandom, hex, random};
use super::state_file::{StateFile, StateFileError, Watched};
use crate::catalog::UnixMillis;

const FILE: &str = "tokens";
/// What a token begins with, so that people and scanners of logs know one when they see it.
const PREFIX: &str = "blockferry_";
const TOKEN_BYTES: usize = 32;
const ID_BYTES: usize = 4;

/// Why tokens could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Their file.
    #[error("the tokens: {0}")]
    File(#[from] StateFileError),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] NoRandom),
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

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Kept {
    tokens: Vec<KeptToken>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct KeptToken {
    id: TokenId,
    created_ms: u64,
    #[serde(with = "secret::hash")]
    blake3: Hash,
}

/// The tokens of a state folder, to change them. A hub that runs on it sees changes at once.
#[derive(Clone, Debug)]
pub struct Tokens {
    file: StateFile<Kept>,
}

impl Tokens {
    /// Those of this folder, which is made when the first token is.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { file: StateFile::new(folder, FILE) }
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`TokenError`]; nothing was made then.
    pub fn add(&self) -> Result<Token, TokenError> {
        let id = TokenId(hex(&random::<ID_BYTES>()?));
        let secret = format!("{PREFIX}{}", hex(&random::<TOKEN_BYTES>()?));
        self.file.change(|kept| {
            kept.tokens.push(KeptToken {
                id: id.clone(),
                created_ms: UnixMillis::now().get(),
                blake3: blake3::hash(secret.as_bytes()),
            });
            Ok::<(), TokenError>(())
        })?;
        Ok(Token { id, secret })
    }

    /// Takes a token away: it opens nothing any more.
    ///
    /// # Errors
    /// [`TokenError::NoSuchToken`], or what kept it from being written.
    pub fn revoke(&self, id: &TokenId) -> Result<(), TokenError> {
        if !self.file.path().exists() {
            return Err(TokenError::NoSuchToken(id.clone()));
        }
        self.file.change(|kept| {
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
        let kept = self.file.read()?.tokens.into_iter();
        Ok(kept
            .map(|token| TokenFacts {
                id: token.id,
                created: UnixMillis::new(token.created_ms).unwrap_or_default(),
            })
            .collect())
    }
}

/// Tells tokens that open the API from others.
#[derive(Debug)]
pub struct TokenCheck {
    kept: Watched<Kept>,
}

impl TokenCheck {
    /// For the tokens of this folder.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { kept: Watched::new(StateFile::new(folder, FILE)) }
    }

    /// Whether this token opens the API. The time that it takes tells nothing of the others.
    ///
    /// # Errors
    /// [`TokenError`] when the tokens cannot be read; then none opens it.
    pub fn admits(&self, token: &str) -> Result<bool, TokenError> {
        let kept = self.kept.get()?;
        let hash = blake3::hash(token.as_bytes());
        // All of them, whichever it is; each comparison takes the same time (blake3::Hash).
        Ok(kept.tokens.iter().fold(false, |found, other| found | (other.blake3 == hash)))
    }

    /// Whether there is any token.
    ///
    /// # Errors
    /// [`TokenError`] when they cannot be read.
    pub fn has_any(&self) -> Result<bool, TokenError> {
        Ok(!self.kept.get()?.tokens.is_empty())
    }
}
