//! `/points`: restore points.

use std::str::FromStr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::backups::limit;
use super::body::{ApiPath, ApiQuery};
use super::error::{ApiError, ErrorBody};
use super::shared::Shared;
use crate::catalog::{PointFilter, PointId, VmName};
use crate::hub::RepositoryName;
use crate::reading::{find_point, find_points};
use crate::record::PointRecord;

pub(super) fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show, delete))
}

/// Which points.
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
    /// Those in this repository.
    #[param(pattern = "^[a-z0-9_-]{1,64}$")]
    repository: Option<String>,
    /// The newest so many of each repository; 100 where nothing is said.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Those of the same repository that were published before this point: with the first one of
    /// an answer that has as many as `limit` says, the answer before it.
    #[param(pattern = "^[0-9a-hjkmnp-tv-z]{18}$")]
    before: Option<String>,
}

/// Points.
#[derive(Debug, Serialize, ToSchema)]
struct PointList {
    /// By repository, and there in the order in which they were published.
    points: Vec<PointRecord>,
}

/// A point that was deleted.
#[derive(Debug, Serialize, ToSchema)]
struct Deleted {
    /// Which.
    deleted: String,
}

/// Restore points, with their disks and chains. None where the hub has no repository.
#[utoipa::path(
    get,
    path = "/points",
    tag = "points",
    params(Wanted),
    responses(
        (status = 200, description = "The points", body = PointList),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 404, description = "There is no such point that others could be before",
         body = ErrorBody),
        (status = 422, description = "A filter is wrong, or there is no such repository",
         body = ErrorBody),
        (status = 500, description = "The hub failed", body = ErrorBody),
        (status = 503, description = "The storage is busy", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn list(
    State(shared): State<Arc<Shared>>,
    ApiQuery(wanted): ApiQuery<Wanted>,
) -> Result<Json<PointList>, ApiError> {
    let vm = wanted.vm.as_deref().map(VmName::from_str).transpose()?;
    let before = wanted.before.as_deref().map(PointId::from_str).transpose()?;
    let filter = PointFilter { vm, newest: Some(limit(wanted.limit)?), before };
    let name = wanted.repository.as_deref().map(RepositoryName::from_str).transpose();
    let name = name.map_err(ApiError::unfit)?;
    let Some(backups) = shared.backups.clone() else {
        return Ok(Json(PointList { points: Vec::new() }));
    };
    let points = shared.blocking(move |_hub| {
        let all = backups.repositories();
        let chosen: Vec<_> = match (&name, before) {
            (Some(name), _) => vec![all.named(Some(name))?],
            (None, Some(before)) => vec![all.with_point(before)?],
            (None, None) => all.iter().collect(),
        };
        let mut points = Vec::new();
        for (name, repository) in chosen {
            let found = find_points(repository, &filter)?;
            points.extend(found.iter().map(|point| in_repository(point.into(), name)));
        }
        Ok(points)
    });
    Ok(Json(PointList { points: points.await? }))
}

/// One point: its disks with their layers, what these stand on, and what they moved and take.
#[utoipa::path(
    get,
    path = "/points/{id}",
    tag = "points",
    params(("id" = String, Path, description = "The point", pattern = "^[0-9a-hjkmnp-tv-z]{18}$")),
    responses(
        (status = 200, description = "The point", body = PointRecord),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 404, description = "There is no such point", body = ErrorBody),
        (status = 409, description = "The hub has no repository", body = ErrorBody),
        (status = 422, description = "This is no id", body = ErrorBody),
        (status = 500, description = "The hub failed", body = ErrorBody),
        (status = 503, description = "The storage is busy", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn show(
    State(shared): State<Arc<Shared>>,
    ApiPath(id): ApiPath<String>,
) -> Result<Json<PointRecord>, ApiError> {
    let id = PointId::from_str(&id)?;
    let backups = shared.backups()?;
    let shown = shared.blocking(move |_hub| {
        let (name, repository) = backups.repositories().with_point(id)?;
        Ok(in_repository((&find_point(repository, id)?).into(), name))
    });
    Ok(Json(shown.await?))
}

/// Deletes a point with its files, if no other stands on it and nobody reads it.
#[utoipa::path(
    delete,
    path = "/points/{id}",
    tag = "points",
    params(("id" = String, Path, description = "The point", pattern = "^[0-9a-hjkmnp-tv-z]{18}$")),
    responses(
        (status = 200, description = "It is gone", body = Deleted),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 404, description = "There is no such point", body = ErrorBody),
        (status = 409, description = "Others stand on it, it is being read, or the hub has no \
                                      repository", body = ErrorBody),
        (status = 422, description = "This is no id", body = ErrorBody),
        (status = 500, description = "The hub failed", body = ErrorBody),
        (status = 503, description = "The storage is busy or full", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn delete(
    State(shared): State<Arc<Shared>>,
    ApiPath(id): ApiPath<String>,
) -> Result<Json<Deleted>, ApiError> {
    let id = PointId::from_str(&id)?;
    let backups = shared.backups()?;
    shared
        .blocking(move |_hub| {
            let (_, repository) = backups.repositories().with_point(id)?;
            Ok(repository.delete(id)?)
        })
        .await?;
    Ok(Json(Deleted { deleted: id.to_string() }))
}

fn in_repository(point: PointRecord, name: &RepositoryName) -> PointRecord {
    PointRecord { repository: Some(name.to_string()), ..point }
}
