//! `/nodes`: the machines that read for the hub.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ErrorBody};
use super::shared::Shared;
use crate::hub::{NodeStatus, NodeWay};

pub(super) fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new().routes(routes!(list))
}

/// A node.
#[derive(Debug, Serialize, ToSchema)]
struct Node {
    /// Its name.
    node: String,
    /// When it was enrolled: milliseconds since 1970.
    enrolled_ms: u64,
    /// Its key, of one that dials the hub's own end of tunnels.
    fingerprint: Option<String>,
    /// The port on 127.0.0.1 that leads to it, of one that comes through an sshd.
    sshd_port: Option<u16>,
    /// Whether it has answered just now.
    reachable: bool,
    /// Why not.
    reason: Option<String>,
    /// Its version.
    version: Option<String>,
    /// Backups that it reads for now.
    jobs: Option<usize>,
    /// Its memory in bytes, what it shares with others in proportion (PSS).
    memory_bytes: Option<u64>,
    /// Its SSH connections to the hub.
    connections: Option<usize>,
}

/// The nodes.
#[derive(Debug, Serialize, ToSchema)]
struct NodeList {
    /// By name.
    nodes: Vec<Node>,
}

impl From<NodeStatus> for Node {
    fn from(status: NodeStatus) -> Self {
        let NodeStatus { facts, answer, connections } = status;
        let (fingerprint, sshd_port) = match facts.way {
            NodeWay::Key { fingerprint } => (Some(fingerprint), None),
            NodeWay::Sshd { port } => (None, Some(port)),
        };
        let (answer, reason) = match answer {
            Ok(answer) => (Some(answer), None),
            Err(reason) => (None, Some(reason)),
        };
        Self {
            node: facts.name.to_string(),
            enrolled_ms: facts.enrolled.get(),
            fingerprint,
            sshd_port,
            reachable: answer.is_some(),
            reason,
            jobs: answer.as_ref().map(|answer| answer.jobs),
            memory_bytes: answer.as_ref().map(|answer| answer.memory_bytes),
            version: answer.map(|answer| answer.version),
            connections,
        }
    }
}

/// The nodes of the hub, each of which is asked whether it is there.
#[utoipa::path(
    get,
    path = "/nodes",
    tag = "nodes",
    responses(
        (status = 200, description = "The nodes", body = NodeList),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 422, description = "It has no query fields", body = ErrorBody),
        (status = 500, description = "The hub failed", body = ErrorBody),
    )
)]
async fn list(State(shared): State<Arc<Shared>>) -> Result<Json<NodeList>, ApiError> {
    let Some(nodes) = shared.nodes.clone() else { return Ok(Json(NodeList { nodes: Vec::new() })) };
    let asked = shared
        .blocking(move |_hub| nodes.list().map_err(|error| ApiError::defect(error.to_string())));
    Ok(Json(NodeList { nodes: asked.await?.into_iter().map(Node::from).collect() }))
}
