//! What may follow on a question mark.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use axum::extract::{MatchedPath, Query, Request};
use axum::http::{Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::RefOr;
use utoipa::openapi::path::{Operation, ParameterIn};

use super::error::ApiError;
use super::router::{PREFIX, openapi};

/// The fields of each call, by its path and method, as it is described.
static FIELDS: LazyLock<BTreeMap<(String, Method), BTreeSet<String>>> = LazyLock::new(fields);

/// Refuses fields that a call does not have: one that is misspelled must not be taken for one that
/// was left out.
pub(super) async fn check(request: Request, next: Next) -> Response {
    match unknown(&request) {
        Some(refused) => refused.into_response(),
        None => next.run(request).await,
    }
}

fn unknown(request: &Request) -> Option<ApiError> {
    request.uri().query().filter(|query| !query.is_empty())?;
    // What has no path here is answered as such.
    let path = request.extensions().get::<MatchedPath>()?.as_str();
    let path = if path.starts_with(PREFIX) { path.into() } else { format!("{PREFIX}{path}") };
    let method = match *request.method() {
        Method::HEAD => Method::GET,
        ref other => other.clone(),
    };
    let known = FIELDS.get(&(path, method))?;
    let named = match named(request.uri()) {
        Ok(named) => named,
        Err(refused) => return Some(refused),
    };
    let unknown = named.into_iter().find(|field| !known.contains(field))?;
    let has = match known.iter().map(String::as_str).collect::<Vec<_>>() {
        none if none.is_empty() => "this call has none".to_owned(),
        some => format!("this call has {}", some.join(", ")),
    };
    Some(ApiError::unfit(format!("no field {unknown:?} can follow on the question mark; {has}")))
}

/// The names of the fields of a query.
fn named(uri: &Uri) -> Result<Vec<String>, ApiError> {
    let parsed = Query::<Vec<(String, String)>>::try_from_uri(uri);
    let Query(fields) = parsed.map_err(|error| ApiError::unfit(error.body_text()))?;
    Ok(fields.into_iter().map(|(name, _)| name).collect())
}

fn fields() -> BTreeMap<(String, Method), BTreeSet<String>> {
    let mut all = BTreeMap::new();
    for (path, item) in openapi().paths.paths {
        let calls = [
            (Method::GET, item.get),
            (Method::POST, item.post),
            (Method::PUT, item.put),
            (Method::PATCH, item.patch),
            (Method::DELETE, item.delete),
        ];
        for (method, operation) in calls {
            if let Some(operation) = operation {
                all.insert((path.clone(), method), of_call(operation));
            }
        }
    }
    all
}

/// Fields of the query; all are described in place.
fn of_call(operation: Operation) -> BTreeSet<String> {
    let parameters = operation.parameters.unwrap_or_default().into_iter();
    parameters
        .filter_map(|parameter| match parameter {
            RefOr::T(parameter) => Some(parameter),
            RefOr::Ref(_) => None,
        })
        .filter(|parameter| matches!(parameter.parameter_in, ParameterIn::Query))
        .map(|parameter| parameter.name)
        .collect()
}
