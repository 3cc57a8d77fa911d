//! Restoring a point of a hub: it serves the disks and lends their digests; what is read is compared
//! here, so that it is right where it is written.

use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use blockferry_dataplane::Endpoint;
use blockferry_dataplane::digest::DigestAlgorithm;
use blockferry_dataplane::manifest::Manifest;
use blockferry_dataplane::plan::AreaSet;
use tempfile::TempDir;

use super::error::ClientError;
use super::export::{Exporting, HubExport};
use super::http::HubClient;
use crate::backup::{Cancellation, Watch};
use crate::call::{CONNECT_DEADLINE, escaped};
use crate::catalog::{FailureKind, PointId, ValueError, VmName};
use crate::hub::{NodeName, RepositoryName};
use crate::reading::{
    ChainDigests, Opened, OpenedDisk, ReadError, ReadSettings, RestoreReport, RestoreRequest,
    Reviver, Scratch, notes_folder, restore_opened,
};

impl HubClient {
    /// Restores disks of a point of the hub, as [`restore`](crate::reading::restore) does those of a
    /// repository that is here; `repository` is that of the hub, if it is named, and `node` the one on
    /// whose machine this is, where its ports lead to the hub's.
    ///
    /// # Errors
    /// [`ReadError`] where nothing was restored.
    pub fn restore(
        &self,
        request: &RestoreRequest,
        repository: Option<RepositoryName>,
        node: Option<NodeName>,
        settings: &ReadSettings,
        watch: &Arc<dyn Watch>,
        cancellation: &Cancellation,
    ) -> Result<RestoreReport, ReadError> {
        let started = Instant::now();
        let asked = Exporting {
            point: request.point,
            repository,
            disks: request.disks.clone(),
            writable: false,
            connections: Some(settings.lane.connections),
            node,
        };
        let export = self.export(&asked, watch)?;
        // Images are written through exports of our own.
        let scratch = Scratch::make(&settings.folder)?;
        let settings = &settings.at_once(export.served().disks.len()).within(&scratch);
        let mut opened = OpenedByHub::open(self, request.point, export, settings, cancellation)?;
        let restored = restore_opened(&mut opened, &request.target, settings, watch, cancellation);
        let (point, vm) = (opened.point(), opened.vm().clone());
        if let Err(error) = opened.export.end(watch) {
            watch.detail(&error.to_string());
        }
        Ok(RestoreReport { point, vm, disks: restored?, into: None, elapsed: started.elapsed() })
    }

    /// What the chain of a disk of an export should hold, as a manifest at `path`.
    fn digests(
        &self,
        export: &HubExport,
        disk: &OpenedDisk,
        path: &Path,
        cancellation: &Cancellation,
    ) -> Result<ChainDigests, ReadError> {
        let name = escaped(disk.name.as_str());
        let call = format!("/exports/{}/disks/{name}/digests", export.served().job);
        let failed = |error: io::Error| {
            ReadError::system(path, "keeping the digests that the hub lends", error)
        };
        let mut file = File::create_new(path).map_err(failed)?;
        let mut written = Ok(());
        self.fetch(&call, Manifest::most_bytes(disk.size_bytes), &mut |bytes| {
            if !cancellation.is_cancelled() {
                written = file.write_all(bytes);
            }
            !cancellation.is_cancelled() && written.is_ok()
        })?;
        written.map_err(failed)?;
        if cancellation.is_cancelled() {
            return Err(ReadError::Cancelled);
        }
        let manifest = Manifest::open(path)?;
        if manifest.disk_size() != disk.size_bytes {
            let (other, size) = (manifest.disk_size(), disk.size_bytes);
            let what = format!(
                "its digests of disk {} are of {other} bytes, and the disk has {size}",
                disk.name
            );
            return Err(self.no_hub(what).into());
        }
        Ok(ChainDigests::of(manifest))
    }
}

/// A point that a hub serves.
struct OpenedByHub {
    point: PointId,
    vm: VmName,
    disks: Vec<OpenedDisk>,
    digests: Vec<ChainDigests>,
    export: HubExport,
    /// Has the digests.
    _lent: TempDir,
}

impl OpenedByHub {
    fn open(
        hub: &HubClient,
        point: PointId,
        export: HubExport,
        settings: &ReadSettings,
        cancellation: &Cancellation,
    ) -> Result<Self, ReadError> {
        let known = |error: ValueError| ReadError::from(hub.no_hub(error.to_string()));
        let served = export.served();
        let vm = served.vm.parse().map_err(known)?;
        let mut disks = Vec::with_capacity(served.disks.len());
        for disk in &served.disks {
            disks.push(OpenedDisk {
                name: disk.disk.parse().map_err(known)?,
                layer: disk.layer.parse().map_err(known)?,
                size_bytes: disk.size,
            });
        }
        reach(hub, &export)?;
        let lent = notes_folder(settings)?;
        let mut digests = Vec::with_capacity(disks.len());
        for (index, disk) in disks.iter().enumerate() {
            let path = lent.path().join(format!("{index}.manifest"));
            digests.push(hub.digests(&export, disk, &path, cancellation)?);
        }
        Ok(Self { point, vm, disks, digests, export, _lent: lent })
    }
}

/// Sees whether the hub's ports can be reached from here: that they cannot has one cause mostly, and
/// a lane would not know it.
fn reach(hub: &HubClient, export: &HubExport) -> Result<(), ReadError> {
    for disk in &export.served().disks {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, disk.port));
        if let Err(error) = TcpStream::connect_timeout(&address, CONNECT_DEADLINE) {
            let (name, port, hub) = (&disk.disk, disk.port, hub.address());
            let words = format!(
                "disk {name}: the hub at {hub} serves it on port {port} of its own 127.0.0.1, \
                 which cannot be reached from here: {error}; forward the ports of the hub under \
                 the same numbers, as with ssh -L {port}:127.0.0.1:{port}, or run this command on \
                 its machine"
            );
            return Err(ReadError::Remote { words, failure: FailureKind::Source });
        }
    }
    Ok(())
}

impl Opened for OpenedByHub {
    fn point(&self) -> PointId {
        self.point
    }

    fn vm(&self) -> &VmName {
        &self.vm
    }

    fn disks(&self) -> &[OpenedDisk] {
        &self.disks
    }

    fn endpoint(&self, disk: usize) -> Endpoint {
        Endpoint::nbd(HubExport::uri(&self.export.served().disks[disk]))
    }

    fn algorithm(&self, disk: usize) -> Option<DigestAlgorithm> {
        self.digests[disk].algorithm()
    }

    fn keep(&mut self, reviver: &mut Reviver<'_>) -> Result<(), ReadError> {
        // The hub starts exports anew that die, and says so.
        Ok(self.export.look(reviver.watch())?)
    }

    fn said(&self, _disk: usize) -> String {
        String::new()
    }

    fn compare(&self, disk: usize, read: &Manifest) -> Result<(), ReadError> {
        let differences = self.digests[disk].differences(read)?;
        let all = differences.values().fold(AreaSet::new(), |all, ranges| all.union(ranges));
        let Some(first) = all.as_slice().first() else { return Ok(()) };
        let (disk, first, bytes) = (self.disks[disk].name.clone(), *first, all.total());
        // Which layer it is would be told by its image, which the hub has.
        Err(ReadError::Differs { disk, at: None, first, bytes })
    }
}

impl From<ClientError> for ReadError {
    fn from(error: ClientError) -> Self {
        if error.is_cancelled() {
            return Self::Cancelled;
        }
        Self::Remote { failure: error.failure(), words: error.to_string() }
    }
}
