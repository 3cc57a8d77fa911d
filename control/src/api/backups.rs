//! `/backups`: jobs.

use std::str::FromStr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{ApiJson, ApiPath, ApiQuery};
use super::error::{ApiError, ErrorBody};
use super::server::MAX_BACKUP_BODY_BYTES;
use super::shared::Shared;
use super::submission::{Asked, Submission, What};
use crate::backup::Cancellation;
use crate::catalog::{
    Admission, CatalogError, Job, JobFilter, JobId, JobKind, JobState, Jobs, Points, VmName,
};
use crate::hub::{Backups, Hub, RepositoryName};
use crate::record::{JobRecord, ProgressRecord, QueueRecord, SaidRecord, StepRecord};

/// Things of a list where nothing else is said.
pub(super) const DEFAULT_LIMIT: u32 = 100;
/// Things of a list at most.
pub(super) const MAX_LIMIT: u32 = 1000;

pub(super) fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new().routes(routes!(submit, list)).routes(routes!(show)).routes(routes!(cancel))
}

/// Which jobs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// Those of this VM.
    #[param(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\s.\-/\\\u0000-\u001f\u007f-\u009f]([^/\\\u0000-\u001f\u007f-\u009f]*[^\s/\\\u0000-\u001f\u007f-\u009f])?$"
    )]
    vm: Option<String>,
    /// Those in this state.
    #[param(pattern = "^(queued|planning|copying|publishing|done|failed|cancelled)$")]
    state: Option<String>,
    /// The newest so many of them; 100 where nothing is said.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Jobs.
#[derive(Debug, Serialize, ToSchema)]
struct JobList {
    /// In the order in which they were asked for.
    backups: Vec<JobRecord>,
}

/// Asks for a backup: all disks of a VM, copied at once, into one restore point or none. Jobs run
/// in their order, each as soon as there is a port for each of its disks.
#[utoipa::path(
    post,
    path = "/backups",
    tag = "backups",
    request_body = Submission,
    params(
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
         pattern = r"^[!-~]+$", description = "Asking again with the same key gives the same job")
    ),
    responses(
        (status = 200, description = "The job that the same key gave before", body = JobRecord,
         headers(("Location" = String, description = "The job"))),
        (status = 202, description = "The job, which waits for its turn", body = JobRecord,
         headers(("Location" = String, description = "The job"))),
        (status = 400, description = "The body is not JSON, or was cut", body = ErrorBody),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 409, description = "The key is that of another request, the node or its vCenter cannot \
                                      be asked for the VM, or the hub has no \
                                      repository", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "The body is not said to be JSON", body = ErrorBody),
        (status = 422, description = "A field is wrong, there is no such repository, or there are \
                                      more disks than ports", body = ErrorBody),
        (status = 429, description = "Too many jobs wait", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
        (status = 500, description = "The hub failed", body = ErrorBody),
        (status = 503, description = "The hub is being stopped, or its storage is busy or full",
         body = ErrorBody, headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn submit(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    ApiJson(asked): ApiJson<Submission, MAX_BACKUP_BODY_BYTES>,
) -> Result<Response, ApiError> {
    let mut keys = headers.get_all("idempotency-key").iter();
    let key = keys.next().map(|value| value.to_str());
    if keys.next().is_some() {
        return Err(ApiError::unfit("there is more than one header Idempotency-Key"));
    }
    let key = key.transpose().map_err(|_| ApiError::unfit("Idempotency-Key: it is not ASCII"))?;
    let asked = asked.check(key, shared.settings.local_sources)?;
    let backups = shared.backups()?;
    // Dropped with the call, if whoever asked hangs up.
    let hung_up = CallOff::default();
    let called_off = hung_up.0.clone();
    let (status, record) = shared
        .blocking(move |_hub| {
            let Asked { what, repository, key } = asked;
            let repository = repository.as_ref();
            let admission = match what {
                What::Vm(vm, node) => backups.submit_vm(&vm, repository, node, key, &called_off)?,
                What::Disks(request, node) => backups.submit(request, repository, node, key)?,
            };
            let status = match &admission {
                Admission::New(_) => StatusCode::ACCEPTED,
                Admission::Known(_) => StatusCode::OK,
            };
            Ok((status, record(Some(&backups), &admission.into_job())?))
        })
        .await?;
    let location = format!("/api/v1/backups/{}", record.id);
    Ok((status, [(header::LOCATION, location)], Json(record)).into_response())
}

/// Calls off what is done for a call when that is over.
#[derive(Default)]
struct CallOff(Cancellation);

impl Drop for CallOff {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Jobs, of which there are those of earlier runs of the hub too.
#[utoipa::path(
    get,
    path = "/backups",
    tag = "backups",
    params(Wanted),
    responses(
        (status = 200, description = "The jobs", body = JobList),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 422, description = "A filter is wrong", body = ErrorBody),
        (status = 500, description = "The hub failed", body = ErrorBody),
        (status = 503, description = "The storage is busy", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn list(
    State(shared): State<Arc<Shared>>,
    ApiQuery(wanted): ApiQuery<Wanted>,
) -> Result<Json<JobList>, ApiError> {
    let filter = JobFilter {
        kind: Some(JobKind::Backup),
        vm: wanted.vm.as_deref().map(VmName::from_str).transpose()?,
        states: wanted.state.as_deref().map(JobState::from_str).transpose()?.into_iter().collect(),
        newest: Some(limit(wanted.limit)?),
    };
    let backups = shared.backups.clone();
    let listed = shared.blocking(move |hub| {
        let jobs = hub.catalog().jobs(&filter)?;
        let backups = backups.as_deref();
        jobs.iter().map(|job| record(backups, job)).collect::<Result<_, _>>()
    });
    Ok(Json(JobList { backups: listed.await? }))
}

/// One job: how far it is, where it stands in the queue, and its point when it is done.
#[utoipa::path(
    get,
    path = "/backups/{id}",
    tag = "backups",
    params(("id" = String, Path, description = "The job", pattern = "^[0-9a-hjkmnp-tv-z]{18}$")),
    responses(
        (status = 200, description = "The job", body = JobRecord),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 404, description = "There is no such job", body = ErrorBody),
        (status = 422, description = "This is no id", body = ErrorBody),
        (status = 500, description = "The hub failed", body = ErrorBody),
        (status = 503, description = "The storage is busy", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn show(
    State(shared): State<Arc<Shared>>,
    ApiPath(id): ApiPath<String>,
) -> Result<Json<JobRecord>, ApiError> {
    let id = JobId::from_str(&id)?;
    let backups = shared.backups.clone();
    let shown = shared.blocking(move |hub| {
        let feed = backups.as_ref().and_then(|backups| backups.feed(id));
        let mut shown = record(backups.as_deref(), &backup(hub, id)?)?;
        shown.steps = hub.catalog().steps(id)?.into_iter().map(StepRecord::from).collect();
        let progress = feed.map(|feed| feed.progress()).unwrap_or_default();
        shown.disks = progress.iter().map(ProgressRecord::from).collect();
        Ok(shown)
    });
    Ok(Json(shown.await?))
}

/// Calls a job off, whatever its state. One that runs ends a moment later; nothing of it is left.
#[utoipa::path(
    post,
    path = "/backups/{id}/cancel",
    tag = "backups",
    params(("id" = String, Path, description = "The job", pattern = "^[0-9a-hjkmnp-tv-z]{18}$")),
    responses(
        (status = 200, description = "The job as it is now, called off before or not",
         body = JobRecord),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 404, description = "There is no such job", body = ErrorBody),
        (status = 409, description = "It is done or has failed, or the hub has no repository",
         body = ErrorBody),
        (status = 422, description = "This is no id", body = ErrorBody),
        (status = 500, description = "The hub failed", body = ErrorBody),
        (status = 503, description = "The storage is busy or full", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn cancel(
    State(shared): State<Arc<Shared>>,
    ApiPath(id): ApiPath<String>,
) -> Result<Json<JobRecord>, ApiError> {
    let id = JobId::from_str(&id)?;
    let backups = shared.backups()?;
    let cancelled = shared.blocking(move |hub| {
        backup(hub, id)?;
        let job = backups.cancel(id)?;
        record(Some(&backups), &job)
    });
    Ok(Json(cancelled.await?))
}

/// A job that makes a point, or made one: those that serve one are none of the backups.
pub(super) fn backup(hub: &Hub, id: JobId) -> Result<Job, ApiError> {
    let job = hub.catalog().job(id)?;
    match job.kind {
        JobKind::Backup => Ok(job),
        JobKind::Export => Err(CatalogError::NoSuchJob(id).into()),
    }
}

/// A number of things that a list may have.
pub(super) fn limit(asked: Option<u32>) -> Result<u32, ApiError> {
    match asked.unwrap_or(DEFAULT_LIMIT) {
        limit if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
        _ => Err(ApiError::unfit(format!("limit: it is from 1 to {MAX_LIMIT}"))),
    }
}

/// A job, with what a hub knows of it.
fn record(backups: Option<&Backups>, job: &Job) -> Result<JobRecord, ApiError> {
    let mut told = JobRecord::of(job);
    let Some(backups) = backups else { return Ok(told) };
    if !job.state.is_over() {
        told.queue = backups.place(job.id).map(QueueRecord::from);
        told.repository = backups.repository_of(job.id).map(|name| name.to_string());
        let said = backups.feed(job.id).and_then(|feed| feed.last_note());
        told.said = said.map(|(at, text)| SaidRecord { at_ms: at.get(), text });
        // It may have ended between the two looks; then the next look tells.
        return Ok(told);
    }
    if job.state == JobState::Done {
        let found = point_of(backups, job.id)?;
        if let Some((repository, point)) = found {
            (told.repository, told.point) = (Some(repository.to_string()), Some(point));
        }
    }
    Ok(told)
}

fn point_of(backups: &Backups, job: JobId) -> Result<Option<(&RepositoryName, String)>, ApiError> {
    for (name, repository) in backups.repositories().iter() {
        if let Some(point) = repository.catalog().point_of(job)? {
            return Ok(Some((name, point.id.to_string())));
        }
    }
    Ok(None)
}
