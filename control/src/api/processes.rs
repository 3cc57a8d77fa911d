//! `/nbd/processes`: the exports that run.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ErrorBody};
use super::shared::Shared;
use crate::hub::ExportFacts;

pub(super) fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new().routes(routes!(list))
}

/// A qemu-nbd process.
#[derive(Debug, Serialize, ToSchema)]
struct Process {
    /// Its process id.
    pid: u32,
    /// Its port on 127.0.0.1; none for a Unix socket.
    port: Option<u16>,
    /// Name of the export.
    export_name: String,
    /// The image that it serves.
    image: String,
    /// Since its start.
    uptime_ms: u64,
    /// Connections that are open; none known once it is gone, as with what follows.
    connections: Option<usize>,
    /// Processor time so far, user and system.
    cpu_ms: Option<u64>,
    /// Its memory, what it shares with others in proportion (PSS).
    memory_bytes: Option<u64>,
    /// What became of it, if it ended by itself.
    exited: Option<String>,
}

/// The processes.
#[derive(Debug, Serialize, ToSchema)]
struct ProcessList {
    /// Oldest first.
    processes: Vec<Process>,
}

impl From<ExportFacts> for Process {
    fn from(facts: ExportFacts) -> Self {
        let millis =
            |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            pid: facts.pid,
            port: facts.port,
            export_name: facts.name,
            image: facts.image.display().to_string(),
            uptime_ms: millis(facts.uptime),
            connections: facts.usage.map(|usage| usage.connections),
            cpu_ms: facts.usage.map(|usage| millis(usage.cpu)),
            memory_bytes: facts.usage.map(|usage| usage.pss_bytes),
            exited: facts.exited.map(|exited| exited.to_string()),
        }
    }
}

/// The qemu-nbd processes of the hub.
#[utoipa::path(
    get,
    path = "/nbd/processes",
    tag = "exports",
    responses(
        (status = 200, description = "The processes", body = ProcessList),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 422, description = "It has no query fields", body = ErrorBody),
        (status = 500, description = "The hub failed", body = ErrorBody),
    )
)]
async fn list(State(shared): State<Arc<Shared>>) -> Result<Json<ProcessList>, ApiError> {
    // The kernel adds up the pages of each.
    let facts = shared.blocking(|hub| Ok(hub.exports().list())).await?;
    Ok(Json(ProcessList { processes: facts.into_iter().map(Process::from).collect() }))
}
