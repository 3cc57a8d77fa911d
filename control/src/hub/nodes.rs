//! The nodes that may dial a hub: which keys they have, and the codes that enroll new ones.
//!
//! ```text
//!  hub enroll ──▶ Nodes ── code, kept as a hash, good once and for a while
//!                   ▲
//!  node enroll ─ SSH, with its new key ─ the code as its user ─▶ NodeCheck::enroll ─ the key is kept
//! ```
//!
//! A code has 128 random bits and the beginning of the host key's fingerprint, so that the node
//! knows the hub at its first connection, and nobody is asked whether a key looks right.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use blake3::Hash;
use serde::{Deserialize, Serialize};

use super::secret::{self, NoRandom, hex, random};
use super::state_file::{StateFile, StateFileError, Watched};
use crate::catalog::UnixMillis;
use crate::tunnel::{EnrollmentCode, OwnKey, OwnKeyError, SshKey};

const FILE: &str = "nodes";
const HOST_KEY_FILE: &str = "ssh_host_key";
const SECRET_BYTES: usize = 16;

/// The key that a hub with this folder is known by; it is made where it is missing.
///
/// # Errors
/// [`OwnKeyError`].
pub fn host_key(folder: &Path) -> Result<OwnKey, OwnKeyError> {
    let path = folder.join(HOST_KEY_FILE);
    super::state::make(folder)
        .map_err(|error| OwnKeyError::NotMade { path: path.clone(), error })?;
    OwnKey::load_or_make(&path)
}

/// Why nodes could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// Their file.
    #[error("the nodes: {0}")]
    File(#[from] StateFileError),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] NoRandom),
    /// No such node.
    #[error("there is no node {0}; list them to see which there are")]
    NoSuchNode(NodeName),
    /// A code that enrolls nobody.
    #[error("the code is unknown, used or too old; make a new one with `blockferry hub enroll`")]
    BadCode,
    /// A key that is somebody else's.
    #[error("the key is that of node {0} already")]
    KeyTaken(NodeName),
}

/// What a node is called: 1 to 64 of a-z, 0-9, - and _.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

impl NodeName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const MAX_BYTES: usize = 64;
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        if (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err("the name of a node is 1 to 64 of a-z, 0-9, - and _".into())
        }
    }
}

impl TryFrom<String> for NodeName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A node that may dial the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// What it is called.
    pub name: NodeName,
    /// Its key, as people compare it.
    pub fingerprint: String,
    /// When it was enrolled.
    pub enrolled: UnixMillis,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Kept {
    nodes: Vec<KeptNode>,
    #[serde(default)]
    codes: Vec<KeptCode>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct KeptNode {
    name: NodeName,
    /// In the format of `authorized_keys`.
    key: String,
    enrolled_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct KeptCode {
    name: NodeName,
    expires_ms: u64,
    #[serde(with = "secret::hash")]
    blake3: Hash,
}

/// The nodes of a state folder, to change them. A hub that runs on it sees changes at once.
#[derive(Clone, Debug)]
pub struct Nodes {
    file: StateFile<Kept>,
}

impl Nodes {
    /// Those of this folder, which is made when the first code is.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { file: StateFile::new(folder, FILE) }
    }

    /// Makes a code that enrolls a node of this name once, for as long as `lifetime`. The node may
    /// be there already: it gets a new key then. An older code for the same name is void.
    ///
    /// # Errors
    /// [`NodeError`]; nothing was made then.
    pub fn invite(
        &self,
        name: &NodeName,
        lifetime: Duration,
        hub: &SshKey,
    ) -> Result<EnrollmentCode, NodeError> {
        let secret = hex(&random::<SECRET_BYTES>()?);
        let now = UnixMillis::now().get();
        let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        self.file.change(|kept| {
            kept.codes.retain(|code| &code.name != name && code.expires_ms > now);
            kept.codes.push(KeptCode {
                name: name.clone(),
                expires_ms: now.saturating_add(lifetime_ms),
                blake3: blake3::hash(secret.as_bytes()),
            });
            Ok::<(), NodeError>(())
        })?;
        Ok(EnrollmentCode::new(name.as_str(), &secret, hub))
    }

    /// Makes the code of this name void, if there is one.
    ///
    /// # Errors
    /// What kept it from being written.
    pub fn withdraw(&self, name: &NodeName) -> Result<(), NodeError> {
        self.file.change(|kept| {
            kept.codes.retain(|code| &code.name != name);
            Ok(())
        })
    }

    /// Takes a node away: its connections end, and its key opens nothing any more. A code for it
    /// is void, too.
    ///
    /// # Errors
    /// [`NodeError::NoSuchNode`], or what kept it from being written.
    pub fn remove(&self, name: &NodeName) -> Result<(), NodeError> {
        let missing = || NodeError::NoSuchNode(name.clone());
        if !self.file.path().exists() {
            return Err(missing());
        }
        self.file.change(|kept| {
            let before = kept.nodes.len() + kept.codes.len();
            kept.nodes.retain(|node| &node.name != name);
            kept.codes.retain(|code| &code.name != name);
            if kept.nodes.len() + kept.codes.len() == before { Err(missing()) } else { Ok(()) }
        })
    }

    /// The nodes, by name.
    ///
    /// # Errors
    /// [`NodeError`] when they cannot be read.
    pub fn list(&self) -> Result<Vec<NodeFacts>, NodeError> {
        let mut nodes: Vec<NodeFacts> = self
            .file
            .read()?
            .nodes
            .into_iter()
            .map(|node| NodeFacts {
                fingerprint: SshKey::parse(&node.key)
                    .map_or_else(|problem| problem, |key| key.fingerprint()),
                enrolled: UnixMillis::new(node.enrolled_ms).unwrap_or_default(),
                name: node.name,
            })
            .collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(nodes)
    }

    /// Enrolls a node that showed a code and a key.
    fn enroll(&self, name: &NodeName, secret: &str, key: &SshKey) -> Result<(), NodeError> {
        let hash = blake3::hash(secret.as_bytes());
        let now = UnixMillis::now().get();
        self.file.change(|kept| {
            let code = kept.codes.iter().position(|code| {
                &code.name == name && code.blake3 == hash && code.expires_ms > now
            });
            let code = code.ok_or(NodeError::BadCode)?;
            let key = key.openssh();
            if let Some(other) = kept.nodes.iter().find(|node| node.key == key)
                && &other.name != name
            {
                return Err(NodeError::KeyTaken(other.name.clone()));
            }
            kept.codes.remove(code);
            kept.nodes.retain(|node| &node.name != name);
            kept.nodes.push(KeptNode { name: name.clone(), key, enrolled_ms: now });
            Ok(())
        })
    }
}

/// Tells nodes from others, for a hub that runs.
#[derive(Debug)]
pub struct NodeCheck {
    nodes: Nodes,
    kept: Watched<Kept>,
}

impl NodeCheck {
    /// For the nodes of this folder.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { nodes: Nodes::of(folder), kept: Watched::new(StateFile::new(folder, FILE)) }
    }

    /// Whether the node of this name has this key.
    ///
    /// # Errors
    /// [`NodeError`] when the nodes cannot be read; then there is none.
    pub fn knows(&self, name: &NodeName, key: &SshKey) -> Result<bool, NodeError> {
        let kept: Arc<Kept> = self.kept.get()?;
        let key = key.openssh();
        Ok(kept.nodes.iter().any(|node| &node.name == name && node.key == key))
    }

    /// Whether there is a node of this name.
    ///
    /// # Errors
    /// [`NodeError`] when the nodes cannot be read; then there is none.
    pub fn is_enrolled(&self, name: &NodeName) -> Result<bool, NodeError> {
        Ok(self.kept.get()?.nodes.iter().any(|node| &node.name == name))
    }

    /// Enrolls a node that showed a code and a key.
    ///
    /// # Errors
    /// [`NodeError::BadCode`], a key that another node has, or what kept it from being written.
    pub fn enroll(&self, name: &NodeName, secret: &str, key: &SshKey) -> Result<(), NodeError> {
        self.nodes.enroll(name, secret, key)
    }
}
