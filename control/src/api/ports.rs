//! `/nbd/ports`: leases of ports.

use std::str::FromStr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{ApiJson, ApiPath, ApiQuery};
use super::error::{ApiError, ErrorBody};
use super::shared::Shared;
use crate::catalog::{DiskName, VmName};
use crate::hub::{Holder, PortLease};

pub(super) fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(allocate))
        .routes(routes!(release))
        .routes(routes!(release_job))
        .routes(routes!(list))
        .routes(routes!(metrics))
}

/// A port that is asked for. Its patterns are the rules of `catalog::{VmName, DiskName}` and
/// `hub::Holder`, for programs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Allocation {
    /// A job of this hub, or a name of the caller's own choice, under which a job is kept then.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[!-~]+$", example = "nightly-db1")]
    job_id: String,
    /// The VM, in at most 200 bytes. A job is of one VM.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\s.\-/\\\u0000-\u001f\u007f-\u009f]([^/\\\u0000-\u001f\u007f-\u009f]*[^\s/\\\u0000-\u001f\u007f-\u009f])?$",
        example = "db1"
    )]
    vm: String,
    /// The disk, in at most 200 bytes. The same job and disk get the port again that they have.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\s.\-/\\\u0000-\u001f\u007f-\u009f]([^/\\\u0000-\u001f\u007f-\u009f]*[^\s/\\\u0000-\u001f\u007f-\u009f])?$",
        example = "root"
    )]
    disk: String,
    /// The node that may reach the port through its tunnel; none without it.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 64, pattern = r"^[a-z0-9_-]+$", example = "esx-rack2")]
    node: Option<String>,
}

/// A leased port. It is bound on 127.0.0.1 of the hub.
#[derive(Debug, Serialize, ToSchema)]
struct Port {
    /// The port.
    #[schema(example = 10_100)]
    port: u16,
    /// Name of the export on it, which no other has.
    #[schema(example = "01k2z3a4b5c6d7e8f9.root")]
    export_name: String,
    /// The job, as its caller calls it.
    job_id: String,
    /// The id of that job.
    job: String,
    /// The VM.
    vm: String,
    /// The disk.
    disk: String,
    /// The node that may reach it through its tunnel.
    node: Option<String>,
    /// Since when: milliseconds since 1970.
    since_ms: u64,
}

impl From<PortLease> for Port {
    fn from(lease: PortLease) -> Self {
        Self {
            port: lease.port,
            export_name: lease.export_name(),
            job_id: lease.holder().to_string(),
            job: lease.job.to_string(),
            vm: lease.vm.to_string(),
            disk: lease.disk.to_string(),
            node: lease.node.map(String::from),
            since_ms: lease.since.get(),
        }
    }
}

/// Leased ports.
#[derive(Debug, Serialize, ToSchema)]
struct PortList {
    /// By port.
    ports: Vec<Port>,
}

/// Ports that were released.
#[derive(Debug, Serialize, ToSchema)]
struct Released {
    /// Which; none where the job had none.
    released: Vec<u16>,
}

/// How many ports there are, and what became of them.
#[derive(Debug, Serialize, ToSchema)]
struct PortCounts {
    /// Ports of the range.
    total: usize,
    /// Leased ones of the range.
    in_use: usize,
    /// Leased ones that are not in the range: it was another one when they were leased.
    beyond: usize,
    /// Those that could be leased now.
    free: usize,
    /// The most that were leased at once, since the start of the hub.
    peak: usize,
    /// Calls that found no port free, since the start of the hub.
    waits: u64,
    /// Ports of the range that a process outside of the hub has.
    outside: Vec<u16>,
}

/// Who releases a port.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Owner {
    /// The job that has the port, as in the call that leased it, or the id of that job.
    #[param(min_length = 1, max_length = 255, pattern = r"^[!-~]+$")]
    job_id: String,
}

/// Leases a port, and binds it at once.
#[utoipa::path(
    post,
    path = "/nbd/ports/allocate",
    tag = "ports",
    request_body = Allocation,
    responses(
        (status = 200, description = "The port, also when the job had it before", body = Port),
        (status = 400, description = "The body is not JSON, or was cut", body = ErrorBody),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 409, description = "The job is over, or of another VM, or the port is for another node", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "The body is not said to be JSON", body = ErrorBody),
        (status = 422, description = "A field is wrong", body = ErrorBody),
        (status = 500, description = "The hub failed", body = ErrorBody),
        (status = 503, description = "All ports are taken, or the storage is", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn allocate(
    State(shared): State<Arc<Shared>>,
    ApiJson(asked): ApiJson<Allocation>,
) -> Result<Json<Port>, ApiError> {
    let holder = Holder::from_str(&asked.job_id)?;
    let (vm, disk) = (VmName::from_str(&asked.vm)?, DiskName::from_str(&asked.disk)?);
    let node = shared.node(asked.node.as_deref())?;
    let lease = shared
        .blocking(move |hub| Ok(hub.ports().lease_for(&holder, &vm, &disk, node.as_ref())?))
        .await?;
    Ok(Json(lease.into()))
}

/// Releases one port of a job.
#[utoipa::path(
    delete,
    path = "/nbd/ports/{port}",
    tag = "ports",
    params(("port" = u16, Path, description = "The port", minimum = 0, maximum = 65535), Owner),
    responses(
        (status = 200, description = "It is free", body = Released),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 404, description = "Nobody has it", body = ErrorBody),
        (status = 409, description = "Another job has it, or an export runs on it",
         body = ErrorBody),
        (status = 422, description = "No port, or no job_id", body = ErrorBody),
        (status = 500, description = "The hub failed", body = ErrorBody),
        (status = 503, description = "The storage is busy or full", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn release(
    State(shared): State<Arc<Shared>>,
    ApiPath(port): ApiPath<u16>,
    ApiQuery(owner): ApiQuery<Owner>,
) -> Result<Json<Released>, ApiError> {
    let holder = Holder::from_str(&owner.job_id)?;
    let lease = shared.blocking(move |hub| Ok(hub.ports().release(port, &holder)?)).await?;
    Ok(Json(Released { released: vec![lease.port] }))
}

/// Releases all ports of a job.
#[utoipa::path(
    delete,
    path = "/nbd/ports/job/{jobId}",
    tag = "ports",
    params(
        ("jobId" = String, Path, description = "The job, or the name that its caller gave it",
         min_length = 1, max_length = 255, pattern = r"^[!-~]+$")
    ),
    responses(
        (status = 200, description = "They are free; none the second time", body = Released),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 409, description = "An export runs on one of them; all stay", body = ErrorBody),
        (status = 422, description = "No name of a job", body = ErrorBody),
        (status = 500, description = "The hub failed", body = ErrorBody),
        (status = 503, description = "The storage is busy or full", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn release_job(
    State(shared): State<Arc<Shared>>,
    ApiPath(job): ApiPath<String>,
) -> Result<Json<Released>, ApiError> {
    let holder = Holder::from_str(&job)?;
    let leases = shared.blocking(move |hub| Ok(hub.ports().release_all(&holder)?)).await?;
    Ok(Json(Released { released: leases.iter().map(|lease| lease.port).collect() }))
}

/// The leased ports.
#[utoipa::path(
    get,
    path = "/nbd/ports",
    tag = "ports",
    responses(
        (status = 200, description = "The leases", body = PortList),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 422, description = "It has no query fields", body = ErrorBody),
        (status = 500, description = "The hub failed", body = ErrorBody),
    )
)]
async fn list(State(shared): State<Arc<Shared>>) -> Json<PortList> {
    // In memory: nothing that waits.
    Json(PortList { ports: shared.hub.ports().leases().into_iter().map(Port::from).collect() })
}

/// Counts of ports.
#[utoipa::path(
    get,
    path = "/nbd/ports/metrics",
    tag = "ports",
    responses(
        (status = 200, description = "The counts", body = PortCounts),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 422, description = "It has no query fields", body = ErrorBody),
        (status = 500, description = "The hub failed", body = ErrorBody),
    )
)]
async fn metrics(State(shared): State<Arc<Shared>>) -> Json<PortCounts> {
    let counts = shared.hub.ports().metrics();
    Json(PortCounts {
        total: counts.total,
        in_use: counts.in_use,
        beyond: counts.beyond,
        free: counts.free,
        peak: counts.peak,
        waits: counts.waits,
        outside: counts.outside,
    })
}
