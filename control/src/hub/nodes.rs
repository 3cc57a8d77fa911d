//! The nodes that may dial a hub: which keys they have, and the codes that enroll new ones.
//!
//! ```text
//!  hub enroll ──▶ Nodes ── code, kept as a hash, good once and for a while
//!                   ▲
//!  node enroll ─ SSH, with its new key ─ the code as its user ─▶ NodeCheck::enroll ─ the key is kept
//! ```
//!
//! A node that comes through an sshd of the hub's machine has no key here: the sshd knows it. What it
//! offers is at a port of its own, which all users of that machine can connect to; so it answers
//! only who has its token.
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

use super::own_ports::OwnPorts;
use super::secret::{self, NoRandom, hex, random};
use super::state_file::{StateFile, StateFileError, Watched};
use crate::catalog::UnixMillis;
use crate::tunnel::{EnrollmentCode, OwnKey, OwnKeyError, SshKey};

const FILE: &str = "nodes";
const HOST_KEY_FILE: &str = "ssh_host_key";
const SECRET_BYTES: usize = 16;
const TOKEN_BYTES: usize = 32;

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
    /// A port that is another node's.
    #[error("port {port} is that of node {node} already; choose another one")]
    PortTaken {
        /// The port.
        port: u16,
        /// Whose it is.
        node: NodeName,
    },
    /// A port that is the hub's.
    #[error("port {0} is one of this hub's own: it would call itself; choose another one")]
    PortOfHub(u16),
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
    /// How it comes here.
    pub way: NodeWay,
    /// When it was enrolled.
    pub enrolled: UnixMillis,
}

/// How a node comes to its hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeWay {
    /// It dials the hub's own end of tunnels.
    Key {
        /// Its key, as people compare it.
        fingerprint: String,
    },
    /// It dials an sshd of this machine.
    Sshd {
        /// Where that listens for it, on 127.0.0.1.
        port: u16,
    },
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Kept {
    nodes: Vec<KeptNode>,
    #[serde(default)]
    codes: Vec<KeptCode>,
    #[serde(default)]
    sshd: Vec<KeptSshd>,
}

impl Kept {
    /// Takes out all that is known of a node; whether there was anything.
    fn remove(&mut self, name: &NodeName) -> bool {
        let count = |kept: &Self| kept.nodes.len() + kept.codes.len() + kept.sshd.len();
        let before = count(self);
        self.nodes.retain(|node| &node.name != name);
        self.codes.retain(|code| &code.name != name);
        self.sshd.retain(|node| &node.name != name);
        count(self) < before
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct KeptNode {
    name: NodeName,
    /// In the format of `authorized_keys`.
    key: String,
    enrolled_ms: u64,
}

/// A node behind an sshd. The hub shows the token, so it is kept as it is.
#[derive(Clone, Serialize, Deserialize)]
struct KeptSshd {
    name: NodeName,
    port: u16,
    token: String,
    enrolled_ms: u64,
}

impl fmt::Debug for KeptSshd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptSshd")
            .field("name", &self.name)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
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
        self.file.change(|kept| if kept.remove(name) { Ok(()) } else { Err(missing()) })
    }

    /// Makes a node of this name that comes through an sshd of this machine, which listens for it
    /// on `port` of 127.0.0.1; and the token that the node takes from its hub. What was known of the
    /// name before is void.
    ///
    /// # Errors
    /// [`NodeError::PortTaken`], [`NodeError::PortOfHub`] where the hub runs, or what kept it from
    /// being written; nothing was made then.
    pub fn add_behind_sshd(&self, name: &NodeName, port: u16) -> Result<String, NodeError> {
        if OwnPorts::of_running(self.file.folder(), port)? {
            return Err(NodeError::PortOfHub(port));
        }
        let token = hex(&random::<TOKEN_BYTES>()?);
        self.file.change(|kept| {
            let others = kept.sshd.iter().find(|node| node.port == port && &node.name != name);
            if let Some(other) = others {
                return Err(NodeError::PortTaken { port, node: other.name.clone() });
            }
            kept.remove(name);
            let (name, token) = (name.clone(), token.clone());
            let enrolled_ms = UnixMillis::now().get();
            kept.sshd.push(KeptSshd { name, port, token, enrolled_ms });
            Ok(())
        })?;
        Ok(token)
    }

    /// The nodes, by name.
    ///
    /// # Errors
    /// [`NodeError`] when they cannot be read.
    pub fn list(&self) -> Result<Vec<NodeFacts>, NodeError> {
        let kept = self.file.read()?;
        let with_keys = kept.nodes.into_iter().map(|node| NodeFacts {
            way: NodeWay::Key {
                fingerprint: SshKey::parse(&node.key)
                    .map_or_else(|problem| problem, |key| key.fingerprint()),
            },
            enrolled: UnixMillis::new(node.enrolled_ms).unwrap_or_default(),
            name: node.name,
        });
        let behind_sshd = kept.sshd.into_iter().map(|node| NodeFacts {
            way: NodeWay::Sshd { port: node.port },
            enrolled: UnixMillis::new(node.enrolled_ms).unwrap_or_default(),
            name: node.name,
        });
        let mut nodes: Vec<NodeFacts> = with_keys.chain(behind_sshd).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(nodes)
    }

    /// Enrolls a node that showed a code and a key.
    fn enroll(&self, name: &NodeName, secret: &str, key: &SshKey) -> Result<(), NodeError> {
        let hash = blake3::hash(secret.as_bytes());
        let now = UnixMillis::now().get();
        self.file.change(|kept| {
            let is_good = |code: &KeptCode| {
                &code.name == name && code.blake3 == hash && code.expires_ms > now
            };
            if !kept.codes.iter().any(is_good) {
                return Err(NodeError::BadCode);
            }
            let key = key.openssh();
            if let Some(other) = kept.nodes.iter().find(|node| node.key == key)
                && &other.name != name
            {
                return Err(NodeError::KeyTaken(other.name.clone()));
            }
            kept.remove(name);
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

    /// The nodes, by name.
    ///
    /// # Errors
    /// [`NodeError`] when they cannot be read.
    pub fn list(&self) -> Result<Vec<NodeFacts>, NodeError> {
        self.nodes.list()
    }

    /// Whether there is a node of this name.
    ///
    /// # Errors
    /// [`NodeError`] when the nodes cannot be read; then there is none.
    pub fn is_enrolled(&self, name: &NodeName) -> Result<bool, NodeError> {
        let kept: Arc<Kept> = self.kept.get()?;
        Ok(kept.nodes.iter().any(|node| &node.name == name)
            || kept.sshd.iter().any(|node| &node.name == name))
    }

    /// Where an sshd listens for this node, and the token that the node takes; nothing of one that
    /// dials the hub itself.
    ///
    /// # Errors
    /// [`NodeError`] when the nodes cannot be read.
    pub fn behind_sshd(&self, name: &NodeName) -> Result<Option<(u16, String)>, NodeError> {
        let kept: Arc<Kept> = self.kept.get()?;
        let found = kept.sshd.iter().find(|node| &node.name == name);
        Ok(found.map(|node| (node.port, node.token.clone())))
    }

    /// Enrolls a node that showed a code and a key.
    ///
    /// # Errors
    /// [`NodeError::BadCode`], a key that another node has, or what kept it from being written.
    pub fn enroll(&self, name: &NodeName, secret: &str, key: &SshKey) -> Result<(), NodeError> {
        self.nodes.enroll(name, secret, key)
    }
}
