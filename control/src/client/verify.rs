//! Verifying points of a hub.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::error::ClientError;
use super::http::HubClient;
use crate::backup::{Cancellation, Watch};
use crate::catalog::{DiskName, PointId};
use crate::hub::RepositoryName;
use crate::record::{ReadingRecord, VerifyRecord};

/// How often it is looked whether it was called off.
const TICK: Duration = Duration::from_millis(100);

/// What a hub is to verify.
#[derive(Clone, Debug, Default)]
pub struct Verification {
    /// The point; all of a repository where none is named.
    pub point: Option<PointId>,
    /// The repository of the hub, if it is named.
    pub repository: Option<RepositoryName>,
    /// Which disks of the point; all where none is named.
    pub disks: Vec<DiskName>,
    /// Live sources, by NBD URIs that the hub reads, each of which should hold the same as a disk.
    pub against: Vec<(DiskName, String)>,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    disks: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    against: Vec<LiveSource<'a>>,
}

#[derive(Serialize)]
struct LiveSource<'a> {
    disk: &'a str,
    source: &'a str,
}

impl HubClient {
    /// Has the hub verify points, and gives back what it found.
    ///
    /// # Errors
    /// [`ClientError`] where it was not found out. Called off, the hub stops too.
    pub fn verify(
        &self,
        asked: &Verification,
        watch: &Arc<dyn Watch>,
        cancellation: &Cancellation,
    ) -> Result<VerifyRecord, ClientError> {
        let call = match &asked.point {
            Some(point) => format!("/points/{point}/verify"),
            None => "/points/verify".to_owned(),
        };
        let against = asked.against.iter();
        let body = Body {
            repository: asked.repository.as_ref().map(RepositoryName::as_str),
            disks: asked.disks.iter().map(DiskName::as_str).collect(),
            against: against
                .map(|(disk, source)| LiveSource { disk: disk.as_str(), source })
                .collect(),
        };
        let mut reading = self.reading(&call, &body)?;
        loop {
            if cancellation.is_cancelled() {
                return Err(ClientError::NotAsked);
            }
            if let Some(ReadingRecord::Verified(found)) = reading.next(TICK, watch)? {
                return Ok(found);
            }
        }
    }
}
