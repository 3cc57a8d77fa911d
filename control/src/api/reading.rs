//! Points that are read through the hub: verified, or served to others. Each is a stream that lasts
//! as long as its caller listens.

use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{ApiJson, ApiPath, ApiQuery, Object};
use super::error::{ApiError, ErrorBody};
use super::events::KEEP_ALIVE;
use super::lend::of_file;
use super::points::{Place, named};
use super::shared::Shared;
use super::submission;
use crate::catalog::{DiskName, JobId, PointId};
use crate::hub::{ExportAsked, MAX_EXPORTS, Reading, RepositoryName, VerifyAsked};
use crate::record::ReadingRecord;

/// Between two events of progress: more is not seen by people.
const PROGRESS_PAUSE: Duration = Duration::from_millis(200);
/// Connections to each disk that is served: where nothing else is said, and at most.
const DEFAULT_CONNECTIONS: u16 = 16;
const MAX_CONNECTIONS: u16 = 64;
/// Clients that are lent digests at once: one for each export.
pub(super) const MAX_LENDERS: usize = MAX_EXPORTS;

pub(super) fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(verify))
        .routes(routes!(verify_all))
        .routes(routes!(export))
        .routes(routes!(end_export))
        .routes(routes!(digests))
}

/// What the events of a stream have as their data: OpenAPI sees text there.
pub(super) fn streamed_schemas() -> Vec<(String, RefOr<Schema>)> {
    let mut schemas =
        vec![(<ReadingRecord as ToSchema>::name().into_owned(), ReadingRecord::schema())];
    ReadingRecord::schemas(&mut schemas);
    schemas
}

/// What of a point is to be verified.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Verification {
    /// The repository that the point has to be in.
    #[schema(pattern = "^[a-z0-9_-]{1,64}$", example = "default")]
    repository: Option<String>,
    /// Only these disks.
    #[serde(default)]
    disks: Vec<String>,
    /// Live sources, each of which should hold the same as a disk of the point.
    #[serde(default)]
    #[schema(value_type = Vec<LiveSource>)]
    against: Vec<Object<LiveSource>>,
}

/// A source that is compared with a disk. It is read as a whole, and must not change meanwhile.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LiveSource {
    /// The disk.
    #[schema(min_length = 1, max_length = 200, example = "root")]
    disk: String,
    /// Where the hub reads it: an NBD URI over TCP, as nbd://HOST:PORT/EXPORT.
    #[schema(
        pattern = r"^nbds?://[a-z0-9.-]+(:[0-9]{1,5})?(/[!-~]*)?$",
        example = "nbd://127.0.0.1:10809/root"
    )]
    source: String,
}

/// Which points are to be verified.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct VerificationOfAll {
    /// The repository; where the hub has but one, it need not be named.
    #[schema(pattern = "^[a-z0-9_-]{1,64}$", example = "default")]
    repository: Option<String>,
}

/// What of a point is to be served, and how.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Exporting {
    /// The repository that the point has to be in.
    #[schema(pattern = "^[a-z0-9_-]{1,64}$", example = "default")]
    repository: Option<String>,
    /// Only these disks.
    #[serde(default)]
    disks: Vec<String>,
    /// Let clients write; what they write is thrown away at the end.
    #[serde(default)]
    writable: bool,
    /// Connections that each disk is served to at once; 16 where nothing is said.
    #[schema(minimum = 1, maximum = 64)]
    connections: Option<u16>,
    /// The node that is to reach the ports through its tunnel.
    #[schema(pattern = "^[a-z0-9_-]{1,64}$", example = "esx-rack2")]
    node: Option<String>,
}

/// An export that was taken back.
#[derive(Debug, Serialize, ToSchema)]
struct Ended {
    /// Its job.
    ended: String,
}

/// An event of a stream.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it is how the description shows what the stream has")]
struct ReadingEvent {
    /// note, detail, progress, served, verified or failed.
    #[schema(example = "progress")]
    event: String,
    /// JSON: a ReadingRecord, whose `type` is the name of the event.
    #[schema(example = r#"{"type":"note","text":"disk root: its export was started anew"}"#)]
    data: String,
}

/// Verifies a point: looks at every file of its chains, has qemu-img check the images, and compares
/// the content with its digests. The answer is a stream of server-sent events that ends with
/// `verified`, which has what was found, or with `failed`. Who leaves calls it off.
#[utoipa::path(
    post,
    path = "/points/{id}/verify",
    tag = "points",
    params(
        ("id" = String, Path, description = "The point", pattern = "^[0-9a-hjkmnp-tv-z]{18}$"),
        Place
    ),
    request_body = Verification,
    responses(
        (status = 200, description = "The events", body = ReadingEvent,
         content_type = "text/event-stream"),
        (status = 400, description = "The body is not JSON, or was cut", body = ErrorBody),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 404, description = "There is no such point", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 409, description = "Several repositories have it and none was named, or the hub \
                                      has no repository", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "The body is not said to be JSON", body = ErrorBody),
        (status = 422, description = "A field is wrong, or there is no such disk or repository",
         body = ErrorBody),
        (status = 429, description = "Too many verify", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
        (status = 500, description = "The hub failed", body = ErrorBody),
        (status = 503, description = "The hub is being stopped, or its storage is busy",
         body = ErrorBody, headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn verify(
    State(shared): State<Arc<Shared>>,
    ApiPath(id): ApiPath<String>,
    ApiQuery(place): ApiQuery<Place>,
    ApiJson(asked): ApiJson<Verification>,
) -> Result<Response, ApiError> {
    let asked = VerifyAsked {
        point: Some(PointId::from_str(&id)?),
        repository: repository(&place, asked.repository.as_deref())?,
        disks: disks(&asked.disks)?,
        against: asked
            .against
            .iter()
            .map(|Object(live)| live.check(shared.settings.local_sources))
            .collect::<Result<_, _>>()?,
    };
    follow(&shared, shared.readers()?.verify(asked)?).await
}

/// Verifies all points of a repository, each as a whole; each image is checked once. The answer is
/// a stream as that of `/points/{id}/verify`.
#[utoipa::path(
    post,
    path = "/points/verify",
    tag = "points",
    request_body = VerificationOfAll,
    responses(
        (status = 200, description = "The events", body = ReadingEvent,
         content_type = "text/event-stream"),
        (status = 400, description = "The body is not JSON, or was cut", body = ErrorBody),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 409, description = "The hub has no repository", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "The body is not said to be JSON", body = ErrorBody),
        (status = 422, description = "A field is wrong, or there is no such repository",
         body = ErrorBody),
        (status = 429, description = "Too many verify", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
        (status = 500, description = "The hub failed", body = ErrorBody),
        (status = 503, description = "The hub is being stopped, or its storage is busy",
         body = ErrorBody, headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn verify_all(
    State(shared): State<Arc<Shared>>,
    ApiJson(asked): ApiJson<VerificationOfAll>,
) -> Result<Response, ApiError> {
    let asked = VerifyAsked {
        point: None,
        repository: named(asked.repository.as_deref())?,
        disks: Vec::new(),
        against: Vec::new(),
    };
    follow(&shared, shared.readers()?.verify(asked)?).await
}

/// Serves disks of a point over NBD, read-only or to be written for a while, each on a leased port
/// of 127.0.0.1 of the hub. The answer is a stream of server-sent events: `served` says where, and
/// from then on they are served until the stream ends. Who leaves takes them back.
#[utoipa::path(
    post,
    path = "/points/{id}/exports",
    tag = "points",
    params(
        ("id" = String, Path, description = "The point", pattern = "^[0-9a-hjkmnp-tv-z]{18}$"),
        Place
    ),
    request_body = Exporting,
    responses(
        (status = 200, description = "The events", body = ReadingEvent,
         content_type = "text/event-stream"),
        (status = 400, description = "The body is not JSON, or was cut", body = ErrorBody),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 404, description = "There is no such point", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 409, description = "The point is damaged, several repositories have it and none \
                                      was named, or the hub has no repository",
         body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "The body is not said to be JSON", body = ErrorBody),
        (status = 422, description = "A field is wrong, there is no such disk or repository, or \
                                      there are more disks than ports", body = ErrorBody),
        (status = 429, description = "Too many points are served", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
        (status = 500, description = "The hub failed", body = ErrorBody),
        (status = 503, description = "All ports are taken, the hub is being stopped, or its \
                                      storage is busy or full", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn export(
    State(shared): State<Arc<Shared>>,
    ApiPath(id): ApiPath<String>,
    ApiQuery(place): ApiQuery<Place>,
    ApiJson(asked): ApiJson<Exporting>,
) -> Result<Response, ApiError> {
    let connections = asked.connections.unwrap_or(DEFAULT_CONNECTIONS);
    if !(1..=MAX_CONNECTIONS).contains(&connections) {
        let rule = format!("connections: it is from 1 to {MAX_CONNECTIONS}");
        return Err(ApiError::unfit(rule));
    }
    let asked = ExportAsked {
        point: PointId::from_str(&id)?,
        repository: repository(&place, asked.repository.as_deref())?,
        disks: disks(&asked.disks)?,
        writable: asked.writable,
        connections,
        node: shared.node(asked.node.as_deref())?,
    };
    follow(&shared, shared.readers()?.export(asked)?).await
}

/// Takes an export of a point back, whoever has asked for it: its stream ends a moment later, when
/// its ports are free.
#[utoipa::path(
    delete,
    path = "/exports/{job}",
    tag = "points",
    params(("job" = String, Path, description = "Its job", pattern = "^[0-9a-hjkmnp-tv-z]{18}$")),
    responses(
        (status = 200, description = "It ends", body = Ended),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 404, description = "No export has this job", body = ErrorBody),
        (status = 409, description = "The hub has no repository", body = ErrorBody),
        (status = 422, description = "This is no id", body = ErrorBody),
        (status = 500, description = "The hub failed", body = ErrorBody),
    )
)]
async fn end_export(
    State(shared): State<Arc<Shared>>,
    ApiPath(job): ApiPath<String>,
) -> Result<Json<Ended>, ApiError> {
    let job = JobId::from_str(&job)?;
    // In memory: nothing that waits.
    shared.readers()?.end_export(job)?;
    Ok(Json(Ended { ended: job.to_string() }))
}

/// What the chain of a disk that is exported should hold: the digests of its blocks of 64 KiB, as
/// a manifest of blockferry, for who reads the disk and wants to know whether that is what was
/// backed up.
#[utoipa::path(
    get,
    path = "/exports/{job}/disks/{disk}/digests",
    tag = "points",
    params(
        ("job" = String, Path, description = "Its job", pattern = "^[0-9a-hjkmnp-tv-z]{18}$"),
        ("disk" = String, Path, description = "The disk", min_length = 1, max_length = 200)
    ),
    responses(
        (status = 200, description = "The manifest, 33 bytes for each 64 KiB of data at most",
         body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 404, description = "No export has this job", body = ErrorBody),
        (status = 409, description = "The digests cannot be had, or the hub has no repository",
         body = ErrorBody),
        (status = 422, description = "This is no id, or no disk of it", body = ErrorBody),
        (status = 429, description = "Too many ask for digests", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
        (status = 500, description = "The hub failed", body = ErrorBody),
        (status = 503, description = "The hub's storage is full", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn digests(
    State(shared): State<Arc<Shared>>,
    ApiPath((job, disk)): ApiPath<(String, String)>,
) -> Result<Response, ApiError> {
    let (job, disk) = (JobId::from_str(&job)?, DiskName::from_str(&disk)?);
    let place = Arc::clone(&shared.lenders)
        .try_acquire_owned()
        .map_err(|_| ApiError::too_many("too many clients ask for digests already"))?;
    let ours = Arc::clone(&shared);
    let lending = shared.blocking(move |_hub| {
        let file = ours.readers()?.digests(job, &disk)?;
        let length = file.metadata().map_err(|error| ApiError::defect(error.to_string()))?.len();
        Ok((file, length))
    });
    let (file, length) = lending.await?;
    Ok(of_file(file, length, place))
}

impl LiveSource {
    fn check(
        &self,
        local_sources: bool,
    ) -> Result<(DiskName, blockferry_dataplane::Endpoint), ApiError> {
        let source = submission::source(&self.source, &self.disk, local_sources)?;
        Ok((self.disk.parse()?, source))
    }
}

/// The repository that the point has to be in, as the query says, or the body.
fn repository(place: &Place, field: Option<&str>) -> Result<Option<RepositoryName>, ApiError> {
    match (place.name()?, named(field)?) {
        (Some(query), Some(field)) if query != field => {
            Err(ApiError::unfit("the repository of the query and that of the body differ"))
        }
        (query, field) => Ok(query.or(field)),
    }
}

fn disks(names: &[String]) -> Result<Vec<DiskName>, ApiError> {
    Ok(names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?)
}

/// The events of a reading, once its point is open.
async fn follow(shared: &Shared, mut reading: Reading) -> Result<Response, ApiError> {
    reading.opened().await?;
    let telling = Telling { reading, stop: shared.stop.subscribe(), told: None };
    let events = unfold(telling, |mut telling| async move {
        let event = telling.next().await?;
        Some((event, telling))
    });
    let alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(events).keep_alive(alive).into_response())
}

/// What is told to the caller. Its end is that of the reading.
struct Telling {
    reading: Reading,
    stop: watch::Receiver<bool>,
    /// When progress was told last.
    told: Option<Instant>,
}

impl Telling {
    async fn next(&mut self) -> Option<Result<Event, Infallible>> {
        loop {
            let event = tokio::select! {
                biased;
                event = self.reading.next() => ReadingRecord::from(event?),
                _ = self.stop.wait_for(|stop| *stop) => return None,
            };
            if matches!(event, ReadingRecord::Progress { .. }) {
                if self.told.is_some_and(|told| told.elapsed() < PROGRESS_PAUSE) {
                    continue;
                }
                self.told = Some(Instant::now());
            }
            let told = Event::default().event(event.name()).json_data(&event);
            // Numbers and text become JSON whatever they are.
            return told.ok().map(Ok);
        }
    }
}
