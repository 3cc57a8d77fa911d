//! What a node does for its hub.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use blockferry_dataplane::nbd::NbdUri;
use blockferry_dataplane::{Endpoint, LaneSettings, MoverSettings};
use tokio::runtime::{self, Runtime};
use tokio::sync::Semaphore;

use super::api::{self, NodeToken};
use super::jobs::{JobSettings, Jobs};
use super::vms::NodeVms;
use crate::backup::Here;

/// Connections of the hub at once; more are closed. A hub has one or two for each job.
pub(super) const MAX_CONNECTIONS: usize = 512;
/// Threads that move bytes.
const REACTOR_THREADS: usize = 1;
/// Threads that wait for sources and for the disk.
const BLOCKING_THREADS: usize = 64;
/// How often it is looked whether jobs are still asked about.
const TIDY_PERIOD: Duration = Duration::from_secs(1);

/// How a node works.
#[derive(Debug)]
pub struct NodeSettings {
    /// What all lanes have in common. Digests and extents are the hub's to choose.
    pub lane: LaneSettings,
    /// How the lanes of a job are run. The memory of its buffers is that of all jobs, of which each
    /// takes a share when it begins.
    pub mover: MoverSettings,
    /// Whether sources may name files of this machine: Unix sockets, certificates.
    pub local_sources: bool,
    /// A job that the hub has not asked about for this long is called off, and forgotten.
    pub forget: Duration,
    /// The VMs whose disks the hub may ask for; nothing where there are none.
    pub vms: Option<NodeVms>,
    /// What the hub has to show, where others could ask too; nothing where only it can.
    pub token: Option<NodeToken>,
}

/// The jobs of a node, and the API that asks for them.
#[derive(Debug)]
pub struct NodeService {
    jobs: Arc<Jobs>,
    router: Router,
    places: Arc<Semaphore>,
    /// Taken when this is dropped.
    runtime: Option<Runtime>,
}

impl NodeService {
    /// Takes the folder of jobs, which is removed first if it is there. `reach` makes the end of a
    /// lane of an export of the hub, and `log` hears what concerns whoever runs the node.
    ///
    /// # Errors
    /// What the system says of the folder, or of threads.
    pub fn start(
        folder: PathBuf,
        settings: NodeSettings,
        reach: impl Fn(&NbdUri) -> Result<Endpoint, String> + Send + Sync + 'static,
        log: impl Fn(&str) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let NodeSettings { lane, mover, local_sources, forget, vms, token } = settings;
        let settings = JobSettings {
            lanes: Here { lane, mover },
            local_sources,
            forget,
            reach: Box::new(reach),
            log: Arc::new(log),
        };
        let jobs = Jobs::take(folder, settings, vms)?;
        let swept = Arc::downgrade(&jobs);
        // A vCenter that is away for long keeps nobody.
        thread::Builder::new().name("sweep".into()).spawn(move || {
            if let Some(jobs) = swept.upgrade() {
                jobs.sweep();
            }
        })?;
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(REACTOR_THREADS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("node-api")
            .enable_io()
            .enable_time()
            .build()?;
        let tidied = Arc::downgrade(&jobs);
        runtime.spawn(async move {
            let mut period = tokio::time::interval(TIDY_PERIOD);
            loop {
                period.tick().await;
                let Some(jobs) = tidied.upgrade() else { return };
                // It looks, and lets threads know; where there can be none, it does their work.
                let _told_itself = tokio::task::spawn_blocking(move || jobs.tidy()).await;
            }
        });
        let router = api::router(&jobs, token.as_ref());
        Ok(Self {
            jobs,
            router,
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            runtime: Some(runtime),
        })
    }

    /// Answers a connection of the hub. Returns at once.
    pub fn accept(&self, socket: UnixStream) {
        // One too many is closed.
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return };
        let router = self.router.clone();
        let Some(runtime) = &self.runtime else { return };
        runtime.spawn(async move {
            api::serve(socket, router).await;
            drop(place);
        });
    }

    /// Calls off all jobs, and waits for their ends.
    pub fn stop(&self) {
        self.jobs.stop();
    }
}

impl Drop for NodeService {
    fn drop(&mut self) {
        // The last one to have it may be a thread of the tunnel, which must not wait here.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
