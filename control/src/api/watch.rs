//! `/health`, `/metrics` and the API's own description.

use std::sync::{Arc, LazyLock};

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ErrorBody};
use super::metrics::exposition;
use super::router::openapi;
use super::shared::Shared;

/// It is the same for the life of the process.
static DESCRIPTION: LazyLock<Result<String, String>> =
    LazyLock::new(|| openapi().to_json().map_err(|error| error.to_string()));

pub(super) fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(health))
        .routes(routes!(metrics))
        .routes(routes!(description))
}

/// That the hub answers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// Always `ok`: a hub that is not does not answer.
    status: &'static str,
    /// Its version.
    version: &'static str,
}

/// Whether the hub answers. Needs no token, and tells nothing of what it does.
#[utoipa::path(
    get,
    path = "/health",
    tag = "watch",
    security(()),
    responses(
        (status = 200, description = "It does", body = Health),
        (status = 422, description = "It has no query fields", body = ErrorBody),
    )
)]
pub(super) async fn health() -> Json<Health> {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// Figures for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "watch",
    responses(
        (status = 200, description = "The text format of Prometheus", body = String,
         content_type = "text/plain"),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 422, description = "It has no query fields", body = ErrorBody),
        (status = 500, description = "The tokens cannot be read", body = ErrorBody),
    )
)]
pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, exposition(&shared)).into_response()
}

/// This description.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "watch",
    responses(
        (status = 200, description = "OpenAPI 3.1", body = serde_json::Value),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 422, description = "It has no query fields", body = ErrorBody),
        (status = 500, description = "The hub failed", body = ErrorBody),
    )
)]
async fn description() -> Result<Response, ApiError> {
    let text = DESCRIPTION.as_ref().map_err(|error| ApiError::defect(error.as_str()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text.as_str()).into_response())
}
