//! The places of connections that have logged in.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use crate::child::held;

/// Of so many places one is kept from the node that has all others: whoever has a node's key can dial
/// as often as he likes, and must not keep other nodes out.
const OTHERS: usize = 4;

/// All places.
#[derive(Debug)]
pub(super) struct NodePlaces {
    limit: usize,
    /// How many of them each node has.
    taken: Mutex<BTreeMap<String, usize>>,
}

/// What a node's connection holds.
#[derive(Debug)]
pub(super) struct NodePlace {
    places: Arc<NodePlaces>,
    node: String,
}

/// Why a node's connection has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// All nodes together have as many connections as there may be.
    Hub(usize),
    /// This one has as many as one node may have.
    Node(usize),
}

impl Full {
    /// What the node is told.
    pub(super) fn goodbye(self) -> &'static str {
        match self {
            Self::Hub(_) => "there are as many connections of nodes as there may be",
            Self::Node(_) => "there are as many connections of this node as there may be",
        }
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub(limit) => write!(f, "there are {limit} connections of nodes already"),
            Self::Node(limit) => write!(
                f,
                "it has {limit} connections already, and the other places are other nodes'"
            ),
        }
    }
}

impl NodePlaces {
    /// `limit` places.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::default() })
    }

    pub(super) fn take(self: &Arc<Self>, node: &str) -> Result<NodePlace, Full> {
        let mut taken = held(&self.taken);
        if taken.values().sum::<usize>() >= self.limit {
            return Err(Full::Hub(self.limit));
        }
        let limit = self.limit - self.limit / OTHERS;
        let own = taken.entry(node.to_owned()).or_default();
        if *own >= limit {
            return Err(Full::Node(limit));
        }
        *own += 1;
        Ok(NodePlace { places: Arc::clone(self), node: node.to_owned() })
    }
}

impl Drop for NodePlace {
    fn drop(&mut self) {
        let mut taken = held(&self.places.taken);
        if let Some(own) = taken.get_mut(&self.node) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.node);
            }
        }
    }
}
