//! Where a backup runs: alone, or in a hub.

use std::path::Path;
use std::sync::Arc;

use super::carrier::{Carrier, Here};
use super::error::BackupError;
use super::request::BackupSettings;
use super::run::Watch;
use crate::catalog::{JobId, SqliteCatalog};
use crate::export::Listener;
use crate::hub::{ExportAddress, Exports, Holder, PortLease, Ports};
use crate::repository::Repository;

/// What a backup stands on. The steps are the same everywhere; this is what differs.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    /// Where the point goes.
    pub(crate) repository: Repository,
    /// Where the job is kept: the repository's catalog, or that of a hub.
    pub(crate) jobs: Arc<SqliteCatalog>,
    /// The exports that run here.
    pub(crate) exports: Arc<Exports>,
    /// A leased port for each disk, in the order of the request. Without a hub there are none:
    /// exports are on Unix sockets that nobody else can reach.
    pub(crate) ports: Option<(Arc<Ports>, Vec<PortLease>)>,
    /// Who reads the sources.
    pub(crate) carrier: Arc<dyn Carrier>,
}

/// Its only clients are our own lanes.
const UNIX_EXPORT_NAME: &str = "disk";

impl Ground {
    /// The ground of a backup without a hub.
    pub(super) fn alone(repository: &Repository, settings: &BackupSettings) -> Self {
        Self {
            repository: repository.clone(),
            jobs: repository.catalog_shared(),
            exports: Arc::default(),
            ports: None,
            carrier: Arc::new(Here::with(settings)),
        }
    }

    /// Whether the job is kept where its point is, and is done by the transaction that publishes.
    pub(super) fn has_job_in_repository(&self) -> bool {
        std::ptr::eq(&raw const *self.jobs, self.repository.catalog())
    }

    /// Lets others have the ports of the job, whose exports have ended.
    pub(super) fn give_ports_back(&self, job: JobId, watch: &dyn Watch) {
        let Some((ports, _)) = &self.ports else { return };
        // What the catalog cannot note now is tried again when the job is over.
        if let Err(error) = ports.release_all(&Holder::from(job)) {
            watch.note(&format!("its ports are not free yet: {error}"));
        }
    }

    /// Where the export of a disk is to be; `folder` is for a socket.
    pub(super) fn address(&self, disk: usize, folder: &Path) -> Result<ExportAddress, BackupError> {
        Ok(match &self.ports {
            None => ExportAddress::Own {
                listener: Listener::unix(folder)?,
                name: UNIX_EXPORT_NAME.into(),
            },
            Some((ports, leases)) => ExportAddress::Port(Arc::clone(ports), leases[disk].clone()),
        })
    }
}
