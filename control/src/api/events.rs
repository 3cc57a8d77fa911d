//! What happens to a job, as server-sent events.
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html>

use std::collections::VecDeque;
use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::watch;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::backups::backup;
use super::body::ApiPath;
use super::error::{ApiError, ErrorBody};
use super::shared::Shared;
use crate::catalog::{JobId, Jobs};
use crate::hub::Follower;
use crate::record::EventRecord;

/// A comment is sent after so much silence, so that whatever is in between keeps the connection,
/// and a client that is gone is noticed.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Followers at once; each has a connection, and others have to get through too.
pub const MAX_FOLLOWERS: usize = 320;

/// Between two events of progress: more is not seen by people.
const PROGRESS_PAUSE: Duration = Duration::from_millis(200);

pub(super) fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new().routes(routes!(follow))
}

/// An event of a stream.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it is how the description shows what the stream has")]
struct StreamedEvent {
    /// state, plan, note, detail, progress or moved.
    #[schema(example = "state")]
    event: String,
    /// JSON: an object whose `type` is the name of the event. A state has `state`, `at_ms` and
    /// `reason`; a plan `disk`, `mode`, `reason` and `size`; note and detail `text`; progress
    /// `disks`, each with `disk` and `bytes`; moved, at the end, those with `seconds`.
    #[schema(example = r#"{"type":"state","state":"copying","at_ms":1,"reason":"ready"}"#)]
    data: String,
}

/// What has happened to a job, and then what happens, as server-sent events. The stream ends when
/// the job is over, or the hub stops. Each event is named by its `type`.
#[utoipa::path(
    get,
    path = "/backups/{id}/events",
    tag = "backups",
    params(("id" = String, Path, description = "The job", pattern = "^[0-9a-hjkmnp-tv-z]{18}$")),
    responses(
        (status = 200, description = "The events", body = StreamedEvent,
         content_type = "text/event-stream"),
        (status = 401, description = "No token, or a wrong one", body = ErrorBody),
        (status = 404, description = "There is no such job", body = ErrorBody),
        (status = 422, description = "This is no id", body = ErrorBody),
        (status = 429, description = "Too many follow jobs", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
        (status = 500, description = "The hub failed", body = ErrorBody),
        (status = 503, description = "The storage is busy", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds"))),
    )
)]
async fn follow(
    State(shared): State<Arc<Shared>>,
    ApiPath(id): ApiPath<String>,
) -> Result<Response, ApiError> {
    let id = JobId::from_str(&id)?;
    let place = Arc::clone(&shared.followers)
        .try_acquire_owned()
        .map_err(|_| ApiError::too_many("too many clients follow jobs already"))?;
    let backups = shared.backups.clone();
    let (past, follower) = shared
        .blocking(move |hub| {
            // A job that is not fed any more is over, and all of it is in the catalog.
            match backups.and_then(|backups| backups.feed(id)) {
                Some(feed) => Ok((VecDeque::new(), Some(feed.follow()))),
                None => {
                    backup(hub, id)?;
                    let steps = hub.catalog().steps(id)?;
                    Ok((steps.into_iter().map(EventRecord::from).collect(), None))
                }
            }
        })
        .await?;
    let stop = shared.stop.subscribe();
    let telling = Telling { past, follower, stop, told: None, _place: place };
    let events = unfold(telling, |mut telling| async move {
        let event = telling.next().await?;
        Some((event, telling))
    });
    let alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(events).keep_alive(alive).into_response())
}

/// What is told to one follower.
struct Telling {
    past: VecDeque<EventRecord>,
    follower: Option<Follower>,
    stop: watch::Receiver<bool>,
    /// When progress was told last.
    told: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

impl Telling {
    async fn next(&mut self) -> Option<Result<Event, Infallible>> {
        loop {
            let event = match self.past.pop_front() {
                Some(event) => event,
                None => {
                    let follower = self.follower.as_mut()?;
                    tokio::select! {
                        biased;
                        event = follower.next() => EventRecord::from(event?),
                        _ = self.stop.wait_for(|stop| *stop) => return None,
                    }
                }
            };
            if matches!(event, EventRecord::Progress { .. }) {
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
