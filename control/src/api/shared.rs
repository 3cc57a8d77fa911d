//! What all requests share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::{Semaphore, watch};

use super::error::ApiError;
use super::events::MAX_FOLLOWERS;
use super::reading::MAX_LENDERS;
use crate::hub::{Backups, Hub, NodeName, NodesAtWork, Readers, SubmitError};

/// Where a line of the log goes.
#[derive(Clone)]
pub struct Log(Arc<dyn Fn(&str) + Send + Sync>);

impl Log {
    /// To this function, from any thread.
    #[must_use]
    pub fn to(line: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(line))
    }

    pub(super) fn line(&self, text: &str) {
        (self.0)(text);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

/// How the API is served.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// Where lines go: what is wrong, always.
    pub log: Log,
    /// Whether each request has a line, too.
    pub log_requests: bool,
    /// Whether sources of backups may name files of this machine: Unix sockets, certificates.
    pub local_sources: bool,
}

/// A hub, and how it is served.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) hub: Arc<Hub>,
    /// Nothing where the hub has no repository.
    pub(super) backups: Option<Arc<Backups>>,
    /// Nothing where the hub has no repository.
    pub(super) readers: Option<Arc<Readers>>,
    /// Nothing where nodes are not told of.
    pub(super) nodes: Option<NodesAtWork>,
    /// Places for those who follow a job.
    pub(super) followers: Arc<Semaphore>,
    /// Places for those who are lent digests.
    pub(super) lenders: Arc<Semaphore>,
    pub(super) settings: ApiSettings,
    /// Set when the server stops; an answer that goes on for long has to end then.
    pub(super) stop: watch::Sender<bool>,
    /// Answers by the first digit of their status, from 1 to 5.
    answers: [AtomicU64; 5],
    /// Tells the ids of this process from those of the one before.
    id_prefix: u32,
    last_id: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        hub: Arc<Hub>,
        backups: Option<Arc<Backups>>,
        readers: Option<Arc<Readers>>,
        nodes: Option<NodesAtWork>,
        settings: ApiSettings,
    ) -> Self {
        let mut prefix = [0; 4];
        // Ids need not be secret, and without random bytes they are still apart in this process.
        let _ = getrandom(&mut prefix, GetRandomFlags::empty());
        Self {
            hub,
            backups,
            readers,
            nodes,
            followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
            lenders: Arc::new(Semaphore::new(MAX_LENDERS)),
            settings,
            stop: watch::Sender::new(false),
            answers: Default::default(),
            id_prefix: u32::from_le_bytes(prefix),
            last_id: AtomicU64::new(0),
        }
    }

    /// A node that is named, if there is one of this name.
    pub(super) fn node(&self, name: Option<&str>) -> Result<Option<NodeName>, ApiError> {
        let Some(name) = name else { return Ok(None) };
        let name: NodeName = name.parse().map_err(ApiError::unfit)?;
        let known = self.nodes.as_ref().map(|nodes| nodes.check.is_enrolled(&name)).transpose();
        match known.map_err(|error| ApiError::defect(error.to_string()))? {
            Some(false) => Err(SubmitError::UnknownNode(name).into()),
            Some(true) | None => Ok(Some(name)),
        }
    }

    /// The backups, for what needs a repository.
    pub(super) fn backups(&self) -> Result<Arc<Backups>, ApiError> {
        self.backups.clone().ok_or_else(|| SubmitError::NoRepository.into())
    }

    /// Who reads points, for what needs a repository.
    pub(super) fn readers(&self) -> Result<&Readers, ApiError> {
        self.readers.as_deref().ok_or_else(|| SubmitError::NoRepository.into())
    }

    /// Does what waits for the disk, on a thread that may.
    ///
    /// # Errors
    /// Those of `work`; and one that says that it is a defect, if it panicked.
    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Hub) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let hub = Arc::clone(&self.hub);
        let done = tokio::task::spawn_blocking(move || work(&hub)).await;
        done.unwrap_or_else(|_panicked| Err(ApiError::defect("a part of the hub panicked")))
    }

    pub(super) fn next_id(&self) -> String {
        let number = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        format!("{:08x}-{number:x}", self.id_prefix)
    }

    pub(super) fn count_answer(&self, status: u16) {
        if let Some(count) = self.answers.get(usize::from(status / 100).wrapping_sub(1)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Answers so far: first digit of the status, count.
    pub(super) fn answers(&self) -> impl Iterator<Item = (usize, u64)> {
        self.answers.iter().enumerate().map(|(i, count)| (i + 1, count.load(Ordering::Relaxed)))
    }
}
