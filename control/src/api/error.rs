//! Answers that are errors.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use blockferry_dataplane::manifest::ManifestError;
use blockferry_dataplane::nbd::without_passwords;
use serde::Serialize;
use utoipa::ToSchema;

use crate::catalog::{CatalogError, StorageError, ValueError};
use crate::hub::{PortError, ReaderError, SubmitError, TokenError};
use crate::reading::ReadError;
use crate::repository::RepositoryError;

/// When to ask again for a port, in seconds: a job holds one for as long as a copy takes, and
/// 101 clients that ask in this rhythm are no load.
const PORT_RETRY_S: u64 = 5;
/// When to ask again after the catalog was held by others or its disk was full.
const STORAGE_RETRY_S: u64 = 15;
/// When to ask again where too many ask: jobs take a while.
const CROWD_RETRY_S: u64 = 10;

/// The code of what cannot be done for the files of a point are not as they should be: the fault of
/// the source, for who reads it.
pub(crate) const DAMAGED: &str = "damaged";

/// The code of a point that several repositories have, where none was named: the caller has to say
/// which.
pub(crate) const WHICH_REPOSITORY: &str = "which_repository";

/// What is wrong, as JSON.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    error: ErrorDetail,
}

/// What is wrong.
#[derive(Debug, Serialize, ToSchema)]
struct ErrorDetail {
    /// A word for programs, which stays the same.
    #[schema(example = "no_free_port")]
    code: &'static str,
    /// What went wrong.
    message: String,
    /// What to do.
    hint: String,
}

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    hint: String,
    retry_after_s: Option<u64>,
}

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        // What a client wrote may be in it, and a password in that.
        let (message, hint) = (without_passwords(&message.into()), hint.into());
        Self { status, code, message, hint, retry_after_s: None }
    }

    fn after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// Something that is ours.
    pub(crate) fn defect(message: impl Into<String>) -> Self {
        let hint = "look into the hub's log; if this is a defect of blockferry, please report it";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message, hint)
    }

    pub(super) fn unauthorized(message: &str) -> Self {
        let hint = "make a token with `blockferry hub token` and send it as \
                    `Authorization: Bearer TOKEN`";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message, hint)
    }

    fn conflict(code: &'static str, message: String, hint: &str) -> Self {
        Self::new(StatusCode::CONFLICT, code, message, hint)
    }

    /// Others have to go first.
    pub(crate) fn too_many(message: impl Into<String>) -> Self {
        let hint = "ask again after the seconds of Retry-After";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many", message, hint).after(CROWD_RETRY_S)
    }

    /// A value that does not fit.
    pub(crate) fn unfit(message: impl Into<String>) -> Self {
        let hint = "the fields and what they may hold are in /api/v1/openapi.json";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "wrong_field", message, hint)
    }
}

/// What the log says of an answer that is an error.
#[derive(Clone, Debug)]
pub(super) struct Failure(pub(super) String);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let failure = Failure(format!("{}: {}", self.code, self.message));
        let detail = ErrorDetail { code: self.code, message: self.message, hint: self.hint };
        let mut response = (self.status, Json(ErrorBody { error: detail })).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"blockferry\"");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        if matches!(self.status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            // What is left of the body is not read.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(failure);
        response
    }
}

impl From<ValueError> for ApiError {
    fn from(error: ValueError) -> Self {
        Self::unfit(error.to_string())
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        Self::defect(error.to_string())
    }
}

impl From<PortError> for ApiError {
    fn from(error: PortError) -> Self {
        let message = error.to_string();
        match error {
            PortError::AllTaken { .. } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no_free_port",
                message,
                "ask again after the seconds of Retry-After; GET /api/v1/nbd/ports shows who has \
                 them",
            )
            .after(PORT_RETRY_S),
            PortError::NotLeased(_) => Self::new(
                StatusCode::NOT_FOUND,
                "not_leased",
                message,
                "it was released before, or never leased; GET /api/v1/nbd/ports shows the leases",
            ),
            PortError::NotOwner(_) => {
                Self::conflict("not_owner", message, "only the job that has it can release it")
            }
            PortError::ExportRuns(_) => Self::conflict(
                "export_runs",
                message,
                "cancel the job that runs it, or take it back with DELETE /api/v1/exports/{job} if \
                 it serves a point, or wait",
            ),
            PortError::OtherVm { .. } | PortError::OtherNode { .. } => {
                Self::conflict("other_vm", message, "use a job_id of its own for each VM")
            }
            PortError::Stuck { .. } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                message,
                "look at the disk of the hub's state folder, and ask again",
            )
            .after(STORAGE_RETRY_S),
            PortError::Value(error) => error.into(),
            PortError::Catalog(error) => error.into(),
            PortError::Listen(_) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "cannot_listen",
                message,
                "ports below 1024 are root's; choose others with `hub serve --ports`",
            ),
        }
    }
}

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> Self {
        let message = error.to_string();
        match error {
            CatalogError::Value(error) => error.into(),
            CatalogError::NoSuchJob(_) => {
                Self::new(StatusCode::NOT_FOUND, "no_such_job", message, "is the id right?")
            }
            CatalogError::NoSuchPoint(_) => {
                let hint = "GET /api/v1/points shows which there are";
                Self::new(StatusCode::NOT_FOUND, "no_such_point", message, hint)
            }
            CatalogError::StoodOn { .. } => {
                Self::conflict("stood_on", message, "delete those that stand on it first")
            }
            CatalogError::KeyReused { .. } => {
                Self::conflict("key_reused", message, "use another key for another backup")
            }
            CatalogError::IllegalStep { from, .. } if from.is_over() => {
                Self::conflict("job_over", message, "there is nothing to call off")
            }
            CatalogError::JobOver { .. } => {
                Self::conflict("job_over", message, "a job that is over takes nothing any more")
            }
            CatalogError::Storage(StorageError::Busy { .. } | StorageError::Full { .. }) => {
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "storage",
                    message,
                    "mend what the message says, and ask again",
                )
                .after(STORAGE_RETRY_S)
            }
            _ => Self::defect(message),
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::NoRepository => {
                Self::conflict("no_repository", message, "it has ports, and nothing else")
            }
            SubmitError::UnknownRepository { .. } | SubmitError::WhichRepository { .. } => {
                let hint = "name one of those that the message names";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_repository", message, hint)
            }
            SubmitError::WhichCopy { .. } => {
                let hint = "say which with ?repository=NAME";
                Self::conflict(WHICH_REPOSITORY, message, hint)
            }
            SubmitError::NoNodes => {
                Self::conflict("no_nodes", message, "or let the hub read the disks itself")
            }
            SubmitError::UnknownNode(_) => Self::unfit(message),
            SubmitError::Nodes(_) => Self::defect(message),
            SubmitError::NoVm(_) => {
                let hint = "`blockferry vms` lists those of a vCenter";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "no_such_vm", message, hint)
            }
            SubmitError::VmsAway(_) => {
                let hint = "GET /api/v1/nodes tells how the nodes are";
                Self::conflict("vms_away", message, hint)
            }
            // Nobody hears it.
            SubmitError::HungUp => Self::conflict("hung_up", message, "ask again"),
            SubmitError::TooManyDisks { .. } => {
                let hint = "start the hub with more --ports";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "too_many_disks", message, hint)
            }
            SubmitError::QueueFull { .. } => Self::too_many(message),
            SubmitError::Stopping => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "stopping",
                message,
                "ask again after the seconds of Retry-After",
            )
            .after(STORAGE_RETRY_S),
            SubmitError::Request(_) => Self::unfit(message),
            SubmitError::Over { .. } => {
                Self::conflict("job_over", message, "what it has left is in the points")
            }
            SubmitError::Catalog(error) => error.into(),
            SubmitError::Repository(error) => error.into(),
        }
    }
}

impl From<RepositoryError> for ApiError {
    fn from(error: RepositoryError) -> Self {
        let message = error.to_string();
        match error {
            RepositoryError::Catalog(error) => error.into(),
            RepositoryError::InUse { .. } => {
                Self::conflict("in_use", message, "ask again when that has ended")
            }
            RepositoryError::AtWork { .. } => {
                Self::conflict("at_work", message, "ask again when that has ended")
            }
            RepositoryError::NoSuchDisk { .. } => {
                let hint = "name one of those that the message names, or none for all";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "no_such_disk", message, hint)
            }
            RepositoryError::LayerMissing { .. }
            | RepositoryError::LayerCut { .. }
            | RepositoryError::PointUnknown { .. } => {
                Self::conflict(DAMAGED, message, "POST /api/v1/points/{id}/verify finds all of it")
            }
            RepositoryError::Busy { .. } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                message,
                "look at what else works in the repository, and ask again",
            )
            .after(STORAGE_RETRY_S),
            _ => Self::defect(message),
        }
    }
}

impl From<ReaderError> for ApiError {
    fn from(error: ReaderError) -> Self {
        let message = error.to_string();
        match error {
            ReaderError::TooMany { .. } => Self::too_many(message),
            ReaderError::TooManyDisks { .. } => {
                let hint = "name some of its disks, or start the hub with more --ports";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "too_many_disks", message, hint)
            }
            ReaderError::NoSuchExport(_) => {
                let hint = "it has ended before; GET /api/v1/nbd/ports shows who has ports";
                Self::new(StatusCode::NOT_FOUND, "no_such_export", message, hint)
            }
            ReaderError::Repository(error) => error.into(),
            ReaderError::Port(error) => error.into(),
            ReaderError::Read(ReadError::Repository(error)) => error.into(),
            // The storage below the hub's own folder.
            ReaderError::Read(
                ReadError::System { .. } | ReadError::Manifest(ManifestError::Io { .. }),
            )
            | ReaderError::System { .. } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "storage",
                message,
                "mend what the message says, and ask again",
            )
            .after(STORAGE_RETRY_S),
            ReaderError::Read(
                ReadError::Export { .. } | ReadError::Digests { .. } | ReadError::Manifest(_),
            ) => {
                Self::conflict(DAMAGED, message, "POST /api/v1/points/{id}/verify finds all of it")
            }
            ReaderError::Read(_) => Self::defect(message),
        }
    }
}
