//! Who may ask.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::guests::Guest;
use super::router::is_open;
use super::shared::Shared;

/// Lets through who has a token. Without one, nobody learns which paths there are.
pub(super) async fn check(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    if is_open(request.uri().path()) {
        return next.run(request).await;
    }
    let admitted =
        bearer(&request).map_err(ApiError::unauthorized).and_then(|token| admit(&shared, token));
    match admitted {
        Ok(()) => {
            if let Some(guest) = request.extensions().get::<Arc<Guest>>() {
                guest.admit();
            }
            next.run(request).await
        }
        Err(refused) => refused.into_response(),
    }
}

/// The token that a request shows.
///
/// # Errors
/// Why it shows none.
pub(crate) fn bearer(request: &Request) -> Result<&str, &'static str> {
    let value =
        request.headers().get(header::AUTHORIZATION).ok_or("there is no token in the request")?;
    value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or("the authorization is no bearer token")
}

/// On the spot: it asks the kernel whether a file has changed, which a thread of its own would
/// take longer to be woken for, and reads those few lines when they have.
fn admit(shared: &Shared, token: &str) -> Result<(), ApiError> {
    if shared.hub.tokens().admits(token)? {
        Ok(())
    } else {
        Err(ApiError::unauthorized("the token is not one of this hub, or was revoked"))
    }
}
