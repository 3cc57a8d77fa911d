//! What comes in: bodies, parts of paths, and what follows on a question mark.

use std::error::Error as _;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::error::Category;

use super::error::ApiError;
use super::server::{BODY_DEADLINE, MAX_BODY_BYTES};

/// A body of JSON.
pub(crate) struct ApiJson<T, const MAX_BYTES: usize = MAX_BODY_BYTES>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned, const MAX_BYTES: usize> FromRequest<S>
    for ApiJson<T, MAX_BYTES>
{
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        if !is_json(&request) {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "not_json",
                "the body is not said to be JSON",
                "send it with `Content-Type: application/json`",
            ));
        }
        let deadline = deadline(request.body(), MAX_BYTES);
        let reading = axum::body::to_bytes(request.into_body(), MAX_BYTES);
        let bytes = tokio::time::timeout(deadline, reading)
            .await
            .map_err(|_late| {
                ApiError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "body_too_slow",
                    format!("the body did not come within {} s", deadline.as_secs()),
                    "send it at once",
                )
            })?
            .map_err(|error| unread(&error, MAX_BYTES))?;
        let object = serde_json::from_slice(&bytes);
        object.map(|Object(value)| Self(value)).map_err(|error| match error.classify() {
            Category::Data => ApiError::unfit(error.to_string()),
            _ => ApiError::new(
                StatusCode::BAD_REQUEST,
                "not_json",
                format!("the body is not JSON: {error}"),
                "send a JSON object",
            ),
        })
    }
}

/// How long a body may take that says how long it is: as long as one of a MiB, for each MiB.
fn deadline(body: &Body, max_bytes: usize) -> Duration {
    let told = body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
    let mibs = told.unwrap_or(0).min(max_bytes).div_ceil(1 << 20).max(1);
    BODY_DEADLINE.saturating_mul(u32::try_from(mibs).unwrap_or(u32::MAX))
}

fn is_json(request: &Request) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.and_then(|kind| kind.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn unread(error: &axum::Error, max_bytes: usize) -> ApiError {
    // Behind axum's error is that of the body that counts; nothing else ends in this way.
    let mut source = error.source();
    while let Some(inner) = source {
        if inner.to_string() == "length limit exceeded" {
            return ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                format!("the body has more than {max_bytes} bytes"),
                "merge what can be merged; this call takes no more",
            );
        }
        source = inner.source();
    }
    ApiError::new(
        StatusCode::BAD_REQUEST,
        "body_cut",
        format!("the body could not be read: {error}"),
        "send it in full",
    )
}

/// A JSON object. By itself serde takes an array as well, with the values of the fields in their
/// order, which nobody has described and a new field would change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OfFields(PhantomData)).map(Self)
    }
}

struct OfFields<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OfFields<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields))
    }
}

/// Parts of a path.
pub(crate) struct ApiPath<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for ApiPath<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(value)| Self(value))
            .map_err(|error: PathRejection| ApiError::unfit(error.body_text()))
    }
}

/// What follows on the question mark.
pub(crate) struct ApiQuery<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for ApiQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::from_request_parts(parts, state).await;
        query
            .map(|Query(value)| Self(value))
            .map_err(|error: QueryRejection| ApiError::unfit(error.body_text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_its_deadline_for_each_mib_and_none_that_it_does_not_have() {
        let of = |bytes: usize, most| deadline(&Body::from(vec![0; bytes]), most);
        for bytes in [0, 1, 1 << 20] {
            assert_eq!(of(bytes, 64 << 20), BODY_DEADLINE);
        }
        assert_eq!(of(3 << 20, 64 << 20), BODY_DEADLINE * 3);
        assert_eq!(of(3 << 20, 1 << 20), BODY_DEADLINE);
        let unsaid =
            Body::from_stream(futures_util::stream::empty::<Result<Vec<u8>, std::io::Error>>());
        assert_eq!(deadline(&unsaid, 64 << 20), BODY_DEADLINE);
    }
}
