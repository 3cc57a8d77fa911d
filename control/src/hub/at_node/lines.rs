//! The ways to the nodes of a hub.

use std::fmt;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use hyper::header::HeaderValue;

use super::super::backups::SubmitError;
use super::super::nodes::{NodeCheck, NodeError, NodeFacts, NodeName, NodeWay};
use crate::call::{ANSWER_DEADLINE, CallError, Callee, Opens, Sent, Way};
use crate::child::each;
use crate::node::HealthRecord;
use crate::tunnel::endpoint::{DialError, Directory};

/// For a node to say that it is there.
pub(super) const HEALTH_DEADLINE: Duration = Duration::from_secs(2);

/// The lines to the nodes of a hub.
pub trait NodeLines: Send + Sync + fmt::Debug {
    /// A connection to what the node serves, within this time. Blocks.
    ///
    /// # Errors
    /// Why there is none, in words.
    fn dial(&self, node: &NodeName, deadline: Duration) -> Result<UnixStream, String>;

    /// How many connections each node has to the hub; none of those that have none.
    fn connections(&self) -> Vec<(String, usize)>;
}

impl NodeLines for Directory {
    fn dial(&self, node: &NodeName, deadline: Duration) -> Result<UnixStream, String> {
        // Whoever asks says which node it is.
        Self::dial(self, node.as_str(), deadline).map_err(|error| match error {
            DialError::NotConnected(_) => "it is not connected".to_owned(),
            DialError::Refused { why, .. } => format!("it refuses a connection: {why}"),
            DialError::Late { .. } => {
                format!("it did not take a connection within {} s", deadline.as_secs())
            }
            other => other.to_string(),
        })
    }

    fn connections(&self) -> Vec<(String, usize)> {
        self.connected().into_iter().map(|node| (node.node, node.connections)).collect()
    }
}

/// A node, and whether it is there.
#[derive(Debug)]
pub struct NodeStatus {
    /// Which.
    pub facts: NodeFacts,
    /// What it has answered just now, or why it has not.
    pub answer: Result<HealthRecord, String>,
    /// Its SSH connections to the hub; not known of one that comes through an sshd.
    pub connections: Option<usize>,
}

/// How a hub has disks read by its nodes.
#[derive(Clone, Debug)]
pub struct NodesAtWork {
    /// Which nodes there are.
    pub check: Arc<NodeCheck>,
    /// The lines to those that dial the hub; nothing where it takes none.
    pub lines: Option<Arc<dyn NodeLines>>,
    /// How long a node may be away before a job of it fails.
    pub deadline: Duration,
    /// How long a node that answers may move no byte of a job before that fails.
    pub stall: Duration,
}

impl NodesAtWork {
    /// All nodes, by name, each asked whether it is there.
    ///
    /// # Errors
    /// When it cannot be read which there are.
    pub fn list(&self) -> Result<Vec<NodeStatus>, NodeError> {
        let connections = self.lines.as_ref().map(|lines| lines.connections()).unwrap_or_default();
        let facts = self.check.list()?;
        each(&facts, |facts| {
            let due = Instant::now() + HEALTH_DEADLINE;
            let asked = self.callee(&facts.name).map_err(|error| error.to_string());
            let answer = asked.and_then(|callee| {
                let late = || Instant::now() >= due;
                let answer = callee.ask(&late, Method::GET, "/health", Sent::Nothing);
                answer.map_err(|error: CallError| error.to_string())
            });
            let count = connections.iter().find(|(node, _)| node == facts.name.as_str());
            let connections = match facts.way {
                NodeWay::Key { .. } => Some(count.map_or(0, |(_, count)| *count)),
                NodeWay::Sshd { .. } => None,
            };
            Ok(NodeStatus { facts: facts.clone(), answer, connections })
        })
    }

    /// Whom to call to have this node do something.
    ///
    /// # Errors
    /// [`SubmitError`]: why it cannot be asked.
    pub(in super::super) fn callee(&self, node: &NodeName) -> Result<Callee, SubmitError> {
        if !self.check.is_enrolled(node)? {
            return Err(SubmitError::UnknownNode(node.clone()));
        }
        let (way, authorization) = match (self.check.behind_sshd(node)?, &self.lines) {
            (Some((port, token)), _) => {
                // A token is hexadecimal.
                let mut bearer = HeaderValue::try_from(format!("Bearer {token}")).ok();
                bearer.iter_mut().for_each(|bearer| bearer.set_sensitive(true));
                (Way::Tcp(Ipv4Addr::LOCALHOST.to_string(), port), bearer)
            }
            (None, Some(lines)) => {
                let line = Line { lines: Arc::clone(lines), node: node.clone() };
                (Way::Opened(Arc::new(line)), None)
            }
            (None, None) => return Err(SubmitError::NoNodes),
        };
        let authority = node.to_string();
        let (prefix, patience) = (String::new(), ANSWER_DEADLINE);
        Ok(Callee { way, authority, prefix, authorization, patience })
    }
}

/// The line to one node.
#[derive(Debug)]
struct Line {
    lines: Arc<dyn NodeLines>,
    node: NodeName,
}

impl Opens for Line {
    fn open(&self, deadline: Duration) -> Result<UnixStream, String> {
        self.lines.dial(&self.node, deadline)
    }
}
