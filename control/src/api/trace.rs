//! An id for each request, in its answer and in the log.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use blockferry_dataplane::nbd::without_passwords;

use super::error::Failure;
use super::shared::Shared;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of an id that is taken over.
const MAX_ID_CHARS: usize = 64;

/// Gives the request its id, counts its answer, and says how it went. Neither what follows on a
/// question mark nor any header or body comes into the log.
pub(super) async fn follow(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = taken_over(&request).unwrap_or_else(|| shared.next_id());
    let (method, path) = (request.method().clone(), without_passwords(request.uri().path()));
    let mut response = next.run(request).await;
    let status = response.status();
    shared.count_answer(status.as_u16());
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HEADER, value);
    }
    let failed = status.is_server_error();
    if failed || shared.settings.log_requests {
        let failure = response.extensions().get::<Failure>();
        let why = failure.map(|Failure(why)| format!(": {why}")).unwrap_or_default();
        let millis = started.elapsed().as_secs_f64() * 1000.0;
        let status = status.as_u16();
        shared.settings.log.line(&format!("{method} {path} {status} {millis:.1} ms {id}{why}"));
    }
    response
}

fn taken_over(request: &Request) -> Option<String> {
    let id = request.headers().get(HEADER)?.to_str().ok()?;
    let is_sane = (1..=MAX_ID_CHARS).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    is_sane.then(|| id.to_owned())
}
