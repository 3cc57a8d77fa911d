//! Which path leads where.

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, SecurityRequirement,
};
use utoipa_axum::router::OpenApiRouter;

use super::error::ApiError;
use super::shared::Shared;
use super::{auth, backups, events, nodes, points, ports, processes, query, reading, trace, watch};

pub(super) const PREFIX: &str = "/api/v1";
const TOKEN_SCHEME: &str = "token";

/// The paths that need no token.
pub(super) fn is_open(path: &str) -> bool {
    path.strip_prefix(PREFIX).unwrap_or(path) == "/health"
}

/// All groups of paths, with what they are documented as.
fn groups() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::with_openapi(described()).nest(
        PREFIX,
        OpenApiRouter::new()
            .merge(ports::routes())
            .merge(processes::routes())
            .merge(backups::routes())
            .merge(events::routes())
            .merge(nodes::routes())
            .merge(points::routes())
            .merge(reading::routes())
            .merge(watch::routes()),
    )
}

/// The API's description in the words of OpenAPI 3.1.
#[must_use]
pub fn openapi() -> OpenApi {
    groups().into_openapi()
}

pub(super) fn router(shared: &Arc<Shared>) -> Router {
    let (router, _documented) = groups().split_for_parts();
    router
        // Where people and Prometheus look first.
        .route("/health", get(watch::health))
        .route("/metrics", get(watch::metrics))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn(query::check))
        .layer(from_fn_with_state(Arc::clone(shared), auth::check))
        .layer(from_fn_with_state(Arc::clone(shared), trace::follow))
        .with_state(Arc::clone(shared))
}

fn described() -> OpenApi {
    let info = InfoBuilder::new()
        .title("blockferry hub")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Backups, restore points, ports and exports. Every error is \
             `{\"error\": {\"code\", \"message\", \"hint\"}}`; every answer has an x-request-id. \
             /health and /metrics are the same without the prefix.",
        ))
        .build();
    let token = SecurityScheme::Http(
        HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("Made by `blockferry hub token`."))
            .build(),
    );
    let components = ComponentsBuilder::new()
        .security_scheme(TOKEN_SCHEME, token)
        .schemas_from_iter(reading::streamed_schemas());
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components.build()))
        .security(Some([SecurityRequirement::new(TOKEN_SCHEME, [""; 0])]))
        .build()
}

async fn no_such_path(uri: Uri) -> Response {
    let message = format!("there is no {}", uri.path());
    let hint = "the paths are in /api/v1/openapi.json";
    ApiError::new(StatusCode::NOT_FOUND, "no_such_path", message, hint).into_response()
}

async fn no_such_method(method: Method, uri: Uri) -> Response {
    let message = format!("{} takes no {method}", uri.path());
    let hint = "the header Allow names what it takes";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message, hint).into_response()
}
