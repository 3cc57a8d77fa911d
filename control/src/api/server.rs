//! Connections: accepted, bounded, timed, and ended in order.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::{listen, sockopt};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::guests::{Guest, Guests};
use super::router::router;
use super::shared::{ApiSettings, Shared};
use crate::hub::{Backups, Hub, NodesAtWork, Readers};

/// Bytes of a body: the largest that most calls need is a few hundred.
pub const MAX_BODY_BYTES: usize = 64 << 10;
/// Bytes of a body that asks for a backup: some 20,000 changed areas of all disks together.
pub const MAX_BACKUP_BODY_BYTES: usize = 1 << 20;
/// From the connection, or the answer before, to the end of a request's headers. It is also how
/// long an idle connection is kept.
pub const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// From the headers to the end of the body.
pub const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// Connections at once; more wait in the kernel until one ends, or a stranger makes room (see
/// [`MAX_STRANGERS`](super::MAX_STRANGERS)). A task and a few KiB each.
pub const MAX_CONNECTIONS: u32 = 512;
/// From the wish to stop to the end of what is being answered. The catalog waits up to 15 s for
/// other processes, and all else takes less.
pub const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// For what was sent to be acknowledged by the other machine. Streams send something every
/// `KEEP_ALIVE`.
const GONE_DEADLINE: Duration = Duration::from_secs(60);
/// Connections that the kernel keeps until they are accepted: more than all that can have a place. It
/// has a limit of its own (net.core.somaxconn), which holds then.
const BACKLOG: i32 = 1024;
/// Bytes of a request's line and headers.
const MAX_HEADER_BYTES: usize = 16 << 10;
/// Threads that move bytes; what waits for the disk has threads of its own.
const REACTOR_THREADS: usize = 2;
/// Threads that wait for the disk: one for each of 64 clients at once, and some for others.
const BLOCKING_THREADS: usize = 96;
/// After a connection could not be accepted, for want of descriptors mostly: until one is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two looks for room among strangers that have just come.
const ROOM_PAUSE: Duration = Duration::from_millis(20);

/// The API on an address.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
}

/// Stops a server, from any thread.
#[derive(Clone, Debug)]
pub struct Stopper(watch::Sender<bool>);

impl Stopper {
    /// No connection is accepted from now on; what is being answered is answered. Once is enough.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Server {
    /// Binds the address; without `backups` and `readers` the hub has no repository.
    /// Nothing is answered before [`run`](Self::run).
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(
        address: SocketAddr,
        hub: Arc<Hub>,
        backups: Option<Arc<Backups>>,
        readers: Option<Arc<Readers>>,
        nodes: Option<NodesAtWork>,
        settings: ApiSettings,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        // The standard library has 128 wait, and has clients beyond try again after a second.
        listen(&listener, BACKLOG)?;
        let shared = Arc::new(Shared::new(hub, backups, readers, nodes, settings));
        Ok(Self { listener, shared })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What stops it.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(self.shared.stop.clone())
    }

    /// Serves until it is stopped, and all that was being answered is answered. The hub goes on:
    /// its exports are the caller's to end.
    ///
    /// # Errors
    /// When the threads cannot be had.
    pub fn run(self) -> io::Result<()> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(REACTOR_THREADS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("api")
            .enable_io()
            .enable_time()
            .build()?;
        runtime.block_on(self.serve())?;
        runtime.shutdown_timeout(STOP_DEADLINE);
        Ok(())
    }

    async fn serve(self) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let router = router(&self.shared);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
        let guests = Arc::default();
        let mut stop = self.shared.stop.subscribe();
        loop {
            let accepted = tokio::select! {
                // Who comes after the stop is not served, however both are noticed.
                biased;
                () = stopped(&mut stop) => break,
                accepted = accept(&listener, &places, &guests) => accepted,
            };
            match accepted {
                Ok((stream, place)) => {
                    let asking = Asking {
                        guest: guests.arrive(),
                        router: TowerToHyperService::new(router.clone()),
                    };
                    tokio::spawn(connection(stream, asking, self.shared.stop.subscribe(), place));
                }
                Err(error) => {
                    let line = format!("a connection could not be accepted: {error}");
                    self.shared.settings.log.line(&line);
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        // All places are free when all connections have ended.
        if timeout(STOP_DEADLINE, places.acquire_many(MAX_CONNECTIONS)).await.is_err() {
            let waited_s = STOP_DEADLINE.as_secs();
            let line =
                format!("connections were cut: they had not ended {waited_s} s after the stop");
            self.shared.settings.log.line(&line);
        }
        Ok(())
    }
}

/// A connection, and a place for it. Where there is none, strangers make room that ask for nothing,
/// and those who have shown a token are waited for.
async fn accept(
    listener: &tokio::net::TcpListener,
    places: &Arc<Semaphore>,
    guests: &Arc<Guests>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let (stream, _peer) = listener.accept().await?;
    loop {
        let wait = guests.make_room(places.available_permits() == 0);
        if wait.is_zero() {
            break;
        }
        // Some may go by themselves before.
        sleep(wait.min(ROOM_PAUSE)).await;
    }
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    Ok((stream, place))
}

/// What answers one connection.
struct Asking {
    guest: Arc<Guest>,
    router: TowerToHyperService<Router>,
}

impl Service<Request<Incoming>> for Asking {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.guest.asks();
        request.extensions_mut().insert(Arc::clone(&self.guest));
        self.router.call(request)
    }
}

/// Returns when the server is to stop, also when nobody is left to say so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(
    stream: TcpStream,
    asking: Asking,
    mut stop: watch::Receiver<bool>,
    place: OwnedSemaphorePermit,
) {
    let guest = Arc::clone(&asking.guest);
    // Answers are short; only speed is lost where the kernel refuses.
    let _as_allowed = stream.set_nodelay(true);
    // Who is gone without a word holds what was opened for it no longer than this.
    let gone_ms = u32::try_from(GONE_DEADLINE.as_millis()).unwrap_or(u32::MAX);
    let _as_allowed = sockopt::set_tcp_user_timeout(&stream, gone_ms);
    let mut served = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_DEADLINE)
            .max_buf_size(MAX_HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), asking)
    );
    // How a connection ends is its client's business: it hung up, was too slow, or spoke no HTTP.
    tokio::select! {
        // The stop is looked at first, so that nothing new is begun after it.
        biased;
        () = stopped(&mut stop) => {
            served.as_mut().graceful_shutdown();
            let _ = served.await;
        }
        _ = served.as_mut() => {}
        () = guest.sent_away() => {}
    }
    guest.goes();
    drop(place);
}
