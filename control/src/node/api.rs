//! The node over HTTP, for its hub alone: connections come through the node's tunnel.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use blake3::Hash;
use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tempfile::NamedTempFile;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::jobs::{JobRefusal, Jobs};
use super::pass::PassId;
use super::wire::{
    BaseRecord, ChangedAnswer, Done, FindAnswer, FindAsked, HealthRecord, JobAsked, JobProgress,
    JobsRecord, LookAnswer, LookAsked, MAX_ASKED_BYTES, SnapshotAnswer, SnapshotAsked,
};
use crate::api::{ApiError, ApiJson, ApiPath, ApiQuery, HEADER_DEADLINE, bearer, of_file};
use crate::catalog::JobId;
use crate::proc::own_pss_bytes;

/// How long a hub that asks how a job gets on waits for a word: progress comes in this rhythm.
const PROGRESS_PERIOD: Duration = Duration::from_millis(500);
/// For the next bytes of a body.
const BODY_SILENCE: Duration = Duration::from_secs(30);

/// The paths of a node; with a token, for who has it alone.
pub(super) fn router(jobs: &Arc<Jobs>, token: Option<&NodeToken>) -> Router {
    let paths = Router::new()
        .route("/health", get(health))
        .route("/look", post(look))
        .route("/jobs", get(list))
        .route("/jobs/{job}", post(start).get(progress).delete(end))
        .route("/vms/find", post(find))
        .route("/jobs/{job}/snapshot", post(hold).delete(release))
        .route("/jobs/{job}/snapshot/disks/{disk}/changed", post(changed))
        .route("/jobs/{job}/disks/{place}/base", put(base))
        .route("/jobs/{job}/disks/{place}/manifest", get(manifest));
    let router = Router::new().nest("/api/v1", paths).with_state(Arc::clone(jobs));
    match token {
        None => router,
        Some(NodeToken(hash)) => router.layer(from_fn_with_state(*hash, check)),
    }
}

/// What a hub has to show where others could ask, too. A hash of it: two are compared in constant
/// time.
#[derive(Clone, Copy, Debug)]
pub struct NodeToken(Hash);

impl NodeToken {
    /// Of what `hub enroll --sshd-port` has printed.
    ///
    /// # Errors
    /// When it is empty.
    pub fn new(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" => Err("there is no token".into()),
            token => Ok(Self(blake3::hash(token.as_bytes()))),
        }
    }
}

fn unauthorized(why: &str) -> Response {
    let hint = "`hub enroll NODE --sshd-port PORT` makes a token that the hub and the node have";
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", why, hint).into_response()
}

async fn check(State(wanted): State<Hash>, request: Request, next: Next) -> Response {
    match bearer(&request).map(|token| blake3::hash(token.as_bytes())) {
        Ok(shown) if shown == wanted => next.run(request).await,
        Ok(_) => unauthorized("the token is not that of this node"),
        Err(why) => unauthorized(why),
    }
}

/// Answers one connection to its end.
pub(super) async fn serve(socket: UnixStream, router: Router) {
    let socket =
        socket.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(socket));
    // A socket that is made here and cannot be waited for is closed, which its hub sees.
    let Ok(socket) = socket else { return };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    // How it ends is the hub's business: it hung up, or was cut off.
    let _ended = served.await;
}

async fn health(State(jobs): State<Arc<Jobs>>) -> Json<HealthRecord> {
    let (version, jobs) = (env!("CARGO_PKG_VERSION").into(), jobs.ids().len());
    Json(HealthRecord { version, jobs, memory_bytes: own_pss_bytes() })
}

async fn look(
    State(jobs): State<Arc<Jobs>>,
    ApiJson(asked): ApiJson<LookAsked, MAX_ASKED_BYTES>,
) -> Result<Json<LookAnswer>, ApiError> {
    blocking(move || jobs.look(asked)).await.map(Json)
}

async fn list(State(jobs): State<Arc<Jobs>>) -> Json<JobsRecord> {
    Json(JobsRecord {
        jobs: jobs.ids().iter().map(PassId::to_string).collect(),
        snapshots: jobs.vms.jobs().iter().map(JobId::to_string).collect(),
    })
}

async fn start(
    State(jobs): State<Arc<Jobs>>,
    ApiPath(job): ApiPath<String>,
    ApiJson(asked): ApiJson<JobAsked, MAX_ASKED_BYTES>,
) -> Result<Json<Done>, ApiError> {
    let job = PassId::from_str(&job)?;
    blocking(move || jobs.start(job, asked)).await?;
    Ok(Json(Done {}))
}

#[derive(Deserialize)]
struct Seen {
    seen: usize,
}

async fn progress(
    State(jobs): State<Arc<Jobs>>,
    ApiPath(job): ApiPath<String>,
    ApiQuery(Seen { seen }): ApiQuery<Seen>,
) -> Result<Json<JobProgress>, ApiError> {
    let job = jobs.job(PassId::from_str(&job)?)?;
    // Subscribed before it is looked, so that nothing is missed in between.
    let mut happened = job.happened();
    let news = async {
        loop {
            let progress = job.progress(seen);
            if !progress.words.is_empty() || progress.end.is_some() {
                return progress;
            }
            // The job is held here, so there is always one who may tell.
            let _told = happened.changed().await;
        }
    };
    let news = timeout(PROGRESS_PERIOD, news).await;
    Ok(Json(news.unwrap_or_else(|_nothing| job.progress(seen))))
}

async fn end(
    State(jobs): State<Arc<Jobs>>,
    ApiPath(job): ApiPath<String>,
) -> Result<Json<Done>, ApiError> {
    let job = PassId::from_str(&job)?;
    blocking(move || jobs.end(job)).await?;
    Ok(Json(Done {}))
}

async fn find(
    State(jobs): State<Arc<Jobs>>,
    ApiJson(asked): ApiJson<FindAsked, MAX_ASKED_BYTES>,
) -> Result<Json<FindAnswer>, ApiError> {
    blocking(move || Ok(jobs.vms.find(&asked.vm))).await.map(Json)
}

async fn hold(
    State(jobs): State<Arc<Jobs>>,
    ApiPath(job): ApiPath<String>,
    ApiJson(asked): ApiJson<SnapshotAsked, MAX_ASKED_BYTES>,
) -> Result<Json<SnapshotAnswer>, ApiError> {
    let job = JobId::from_str(&job)?;
    blocking(move || jobs.vms.hold(job, &asked)).await.map(Json)
}

async fn changed(
    State(jobs): State<Arc<Jobs>>,
    ApiPath((job, disk)): ApiPath<(String, String)>,
    ApiJson(base): ApiJson<BaseRecord, MAX_ASKED_BYTES>,
) -> Result<Json<ChangedAnswer>, ApiError> {
    let job = JobId::from_str(&job)?;
    blocking(move || jobs.vms.changed(job, &disk, base)).await.map(Json)
}

async fn release(
    State(jobs): State<Arc<Jobs>>,
    ApiPath(job): ApiPath<String>,
) -> Result<Json<SnapshotAnswer>, ApiError> {
    let job = JobId::from_str(&job)?;
    blocking(move || jobs.vms.release(job)).await.map(Json)
}

async fn base(
    State(jobs): State<Arc<Jobs>>,
    ApiPath((job, place)): ApiPath<(String, usize)>,
    body: Body,
) -> Result<Json<Done>, ApiError> {
    let job = PassId::from_str(&job)?;
    blocking(move || {
        let path = jobs.base(job, place)?;
        let failed = |error: &dyn std::fmt::Display| {
            JobRefusal::System(format!("{}: {error}", path.display()))
        };
        let folder = path.parent().unwrap_or(&path);
        // Whoever sent it before, and was cut off, may still be written.
        let mut file = NamedTempFile::new_in(folder).map_err(|error| failed(&error))?;
        let mut body = body;
        // A body that is cut is an error of the frame, so a whole file is all that was sent.
        while let Some(frame) = Handle::current()
            .block_on(async { timeout(BODY_SILENCE, body.frame()).await })
            .map_err(|_late| failed(&"nothing came for too long"))?
        {
            let frame = frame.map_err(|error| failed(&error))?;
            // Digests of a large disk take longer than a job may go without a word.
            jobs.job(job)?;
            if let Some(bytes) = frame.data_ref() {
                file.write_all(bytes).map_err(|error| failed(&error))?;
            }
        }
        file.persist(&path).map_err(|error| failed(&error))?;
        Ok(())
    })
    .await?;
    Ok(Json(Done {}))
}

async fn manifest(
    State(jobs): State<Arc<Jobs>>,
    ApiPath((job, place)): ApiPath<(String, usize)>,
) -> Result<Response, ApiError> {
    let id = PassId::from_str(&job)?;
    let job = jobs.job(id)?;
    let (file, length) = blocking(move || {
        let file = job.finished_manifest(place)?;
        let metadata = file.metadata();
        let length = metadata.map_err(|error| JobRefusal::System(error.to_string()))?.len();
        // The job's folder stays as long as its digests are read.
        Ok(((file, job), length))
    })
    .await?;
    let (file, job) = file;
    let heard = move |part| {
        // Whoever takes them asks for nothing else meanwhile. One that is called off goes on.
        let _word_of_the_hub = jobs.job(id);
        part
    };
    Ok(of_file(file, length, job).map(|body| Body::new(body.map_frame(heard))))
}

/// Does what waits for the disk or for sources, on a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JobRefusal> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_panicked| ApiError::defect("a part of the node panicked"))?.map_err(Into::into)
}

impl From<JobRefusal> for ApiError {
    fn from(refusal: JobRefusal) -> Self {
        match refusal {
            JobRefusal::Unknown(job) => Self::new(
                StatusCode::NOT_FOUND,
                NO_SUCH_JOB,
                format!("there is no job {job} here"),
                "the node was started anew, or has forgotten it",
            ),
            JobRefusal::Unfit(what) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, UNFIT, what, "ask for something else")
            }
            JobRefusal::TooMany => Self::too_many("the node has too many jobs"),
            JobRefusal::Conflict(what) => {
                Self::new(StatusCode::CONFLICT, "conflict", what, "ask how the job gets on")
            }
            JobRefusal::System(what) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "system",
                what,
                "look at the machine of the node",
            ),
        }
    }
}

/// The code of a job that is not there.
pub(crate) const NO_SUCH_JOB: &str = "no_such_job";
/// The code of what cannot be asked for.
pub(crate) const UNFIT: &str = "wrong_field";
