//! Points that a hub serves to us.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_dataplane::nbd::{Address, NbdUri, TlsParams};
use hyper::Method;
use serde::Serialize;
use serde_json::Value;

use super::error::ClientError;
use super::http::HubClient;
use super::reading::Reading;
use crate::backup::Watch;
use crate::call::ANSWER_DEADLINE;
use crate::catalog::{DiskName, PointId};
use crate::hub::{NodeName, RepositoryName};
use crate::record::{ExportRecord, ExportedDiskRecord, ReadingRecord};

/// How long a look at what has come takes when nothing has.
const GLANCE: Duration = Duration::from_millis(1);
/// For the hub to take its exports back, each of which it gives half a minute.
const END_DEADLINE: Duration = Duration::from_secs(60);

/// What a hub is to serve.
#[derive(Clone, Debug)]
pub struct Exporting {
    /// The point.
    pub point: PointId,
    /// The repository of the hub, if it is named.
    pub repository: Option<RepositoryName>,
    /// Which disks; all where none is named.
    pub disks: Vec<DiskName>,
    /// Whether clients may write; what they write is thrown away at the end.
    pub writable: bool,
    /// Connections to each disk, if that is to be another number than the hub's.
    pub connections: Option<u16>,
    /// The node of the hub through whose tunnel the disks are to be reached.
    pub node: Option<NodeName>,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    disks: Vec<&'a str>,
    writable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
}

/// Disks that a hub serves while this lives, and is looked at.
pub struct HubExport {
    reading: Reading,
    client: HubClient,
    served: ExportRecord,
}

impl std::fmt::Debug for HubExport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubExport").field("served", &self.served).finish_non_exhaustive()
    }
}

impl HubClient {
    /// Has the hub serve disks of a point. When this returns, all of them answer.
    ///
    /// # Errors
    /// [`ClientError`]. Nothing is served then.
    pub fn export(
        &self,
        asked: &Exporting,
        watch: &Arc<dyn Watch>,
    ) -> Result<HubExport, ClientError> {
        let body = Body {
            repository: asked.repository.as_ref().map(RepositoryName::as_str),
            disks: asked.disks.iter().map(DiskName::as_str).collect(),
            writable: asked.writable,
            connections: asked.connections,
            node: asked.node.as_ref().map(NodeName::as_str),
        };
        let mut reading = self.reading(&format!("/points/{}/exports", asked.point), &body)?;
        match reading.next(ANSWER_DEADLINE, watch)? {
            Some(ReadingRecord::Served(served)) => {
                Ok(HubExport { reading, client: self.clone(), served })
            }
            _ => Err(self.no_hub("it does not say where the point is served".into())),
        }
    }
}

impl HubExport {
    /// What is served.
    #[must_use]
    pub fn served(&self) -> &ExportRecord {
        &self.served
    }

    /// Where a disk is, as this machine sees it: a hub serves on its own 127.0.0.1, so from another
    /// machine its ports have to be forwarded, under the same numbers.
    #[must_use]
    pub fn uri(disk: &ExportedDiskRecord) -> NbdUri {
        NbdUri {
            tls: false,
            address: Address::Tcp { host: Ipv4Addr::LOCALHOST.to_string(), port: disk.port },
            export: disk.export_name.clone(),
            user: None,
            tls_params: TlsParams::default(),
            ignored: Vec::new(),
        }
    }

    /// Looks at what the hub says; has to be called now and then.
    ///
    /// # Errors
    /// Why the disks are served no more.
    pub fn look(&mut self, watch: &Arc<dyn Watch>) -> Result<(), ClientError> {
        self.reading.next(GLANCE, watch).map(|_nothing_that_matters| ())
    }

    /// Has the hub take them back, and waits until it has: its ports are free then.
    ///
    /// # Errors
    /// When that is not known. The hub takes them back anyway.
    pub fn end(mut self, watch: &Arc<dyn Watch>) -> Result<(), ClientError> {
        let call = format!("/exports/{}", self.served.job);
        match self.client.ask::<Value>(Method::DELETE, &call, None) {
            // Another one was faster.
            Ok(_) | Err(ClientError::Refused { status: 404, .. }) => {}
            Err(error) => return Err(error),
        }
        let until = Instant::now() + END_DEADLINE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.reading.next(left, watch) {
                Err(ClientError::ReadFailed { .. } | ClientError::Cut { .. }) => return Ok(()),
                Err(error) => return Err(error),
                Ok(None) if left.is_zero() => {
                    let waited_s = END_DEADLINE.as_secs();
                    let what = format!("it has not taken its exports back within {waited_s} s");
                    return Err(self.client.unreachable(what));
                }
                Ok(_) => {}
            }
        }
    }
}
