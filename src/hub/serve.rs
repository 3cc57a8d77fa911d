//! `blockferry hub serve`.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use blockferry_control::api::{ApiSettings, Log, MAX_CONNECTIONS, Server};
use blockferry_control::backup::BackupSettings;
use blockferry_control::hub::{
    Backups, Gate, Hub, HubError, HubSettings, MAX_VERIFICATIONS, NodeCheck, NodeWay, NodesAtWork,
    OwnPorts, Readers, Repositories, host_key,
};
use blockferry_control::repository::RepositoryError;
use blockferry_control::tunnel::endpoint::{Directory, Endpoint, EndpointSettings};
use serde_json::json;

use super::options::ServeOptions;
use crate::copy::raise_open_files;
use crate::exit::{About, Exit, Refusal};
use crate::interrupt;
use crate::output::{Console, line, print_json};

/// Descriptors of a leased port with an export on it, and of the lane that writes to it: sockets,
/// the process, pipes, rings, files beside the copy, and folders of points that are held.
const PER_PORT: u64 = 32;
/// Disks of a point that is verified, which are on no ports.
const VERIFIED_DISKS: u64 = 8;
/// What the first signal makes of a hub.
const STOPPING: &str = "stopping: jobs are called off, exports ended; once more to stop at once";
/// Descriptors of an SSH connection: its socket, and the reactor of its thread.
const PER_TUNNEL: u64 = 6;
/// For catalogs, the reactor and what libraries open now and then.
const SLACK: u64 = 64;

/// `blockferry hub serve`.
///
/// # Errors
/// What kept it from starting, in one line.
pub(super) fn command(options: &ServeOptions) -> anyhow::Result<Exit> {
    let address = options.listen;
    meant(options)?;
    apart(options)?;
    let settings = HubSettings { state: options.state.folder()?, ports: options.ports.0.clone() };
    make_room(settings.ports.len(), options.tunnel.map(|_| options.link.settings()).as_ref());
    let (hub, recovery) = Hub::open(&settings).or_else(|error| match error {
        HubError::Ports(_) => Err(error.into()),
        in_folder => Err(in_folder).about("state"),
    })?;
    for undone in &recovery.undone {
        line(undone);
    }
    if !recovery.adopted.is_empty() {
        line(&format!("{} leased ports are bound again", recovery.adopted.len()));
    }
    let hub = Arc::new(hub);
    let directory = Directory::new();
    let nodes = NodesAtWork {
        check: Arc::new(NodeCheck::of(hub.folder())),
        lines: options.tunnel.map(|_| Arc::clone(&directory) as _),
        deadline: options.node_deadline,
        stall: options.node_stall,
    };
    let backups = backups(&hub, &nodes, options)?.map(Arc::new);
    let readers = backups.as_ref().map(|backups| Readers::start(&hub, Arc::clone(backups)));
    let readers = readers.transpose()?.map(Arc::new);
    let api = ApiSettings {
        log: Log::to(line),
        log_requests: options.verbose,
        local_sources: options.local_sources,
    };
    let (ours, backed, read) = (Arc::clone(&hub), backups.clone(), readers.clone());
    let server = Server::bind(address, ours, backed, read, Some(nodes), api);
    let server = server.with_context(|| {
        format!("cannot listen on {address}; end what listens there, or choose another --listen")
    });
    let server = server.about("listen")?;
    let stopper = server.stopper();
    let console = Arc::new(Console::new(None, options.verbose));
    interrupt::listen_and_say(console, STOPPING, move || {
        let stopper = stopper.clone();
        let (backups, readers) = (backups.clone(), readers.clone());
        // On a thread of its own, for a second signal has to be heard meanwhile. The API answers
        // until all jobs have ended, so that who follows one learns of that.
        let stop = move || {
            if let Some(backups) = backups {
                backups.stop();
            }
            if let Some(readers) = readers {
                readers.stop();
            }
            stopper.stop();
        };
        thread::Builder::new().name("stop".into()).spawn(stop).is_ok()
    })?;
    let api_at = server.address()?;
    let endpoint = options
        .tunnel
        .map(|at| endpoint(at, api_at, &hub, options.link.settings(), directory))
        .transpose()?;
    let tunnel_at = endpoint.as_ref().map(Endpoint::address);
    keep_apart(&hub, OwnPorts::new([api_at].into_iter().chain(tunnel_at), settings.ports))?;
    tell(api_at, tunnel_at, &hub, options)?;
    server.run().context("serving the API")?;
    for error in hub.exports().end_all() {
        line(&error.to_string());
    }
    Ok(Exit::Done)
}

/// Refuses an API that other machines can reach, unless that is said to be meant.
fn meant(options: &ServeOptions) -> anyhow::Result<()> {
    let address = options.listen;
    if !address.ip().is_loopback() {
        if !options.beyond_loopback {
            return Err(Refusal::usage(format!(
                "{address} can be reached by other machines; say --beyond-loopback as well if \
                 that is meant"
            )))
            .about("listen");
        }
        line(&format!(
            "warning: the API on {address} can be reached by other machines, and speaks HTTP \
             without TLS: put a proxy with TLS, or an SSH tunnel, before it"
        ));
    }
    Ok(())
}

/// Refuses addresses of the hub that are ports which it hands out.
fn apart(options: &ServeOptions) -> anyhow::Result<()> {
    let ports = &options.ports;
    let listeners = [("listen", Some(options.listen)), ("tunnel", options.tunnel)];
    for (option, address) in listeners {
        let Some(address) = address else { continue };
        let here = address.ip().is_loopback() || address.ip().is_unspecified();
        if here && ports.0.contains(&address.port()) {
            return Err(Refusal::usage(format!(
                "--{option} {address} is one of the ports that are handed out (--ports {ports}); \
                 choose another one"
            )))
            .about(option);
        }
    }
    Ok(())
}

/// Warns of nodes behind an sshd whose ports are the hub's own: it would call itself. No other will
/// be enrolled there while it runs.
fn keep_apart(hub: &Hub, own: OwnPorts) -> anyhow::Result<()> {
    for node in NodeCheck::of(hub.folder()).list().about("state")? {
        let NodeWay::Sshd { port } = node.way else { continue };
        if own.has(port) {
            let name = node.name;
            line(&format!(
                "warning: node {name} is to be reached on port {port}, which is one of this hub's \
                 own: enrol it anew with another --sshd-port"
            ));
        }
    }
    own.keep(hub.folder()).about("state")
}

/// The backups of a hub that has repositories.
fn backups(
    hub: &Arc<Hub>,
    nodes: &NodesAtWork,
    options: &ServeOptions,
) -> anyhow::Result<Option<Backups>> {
    if options.repository.is_empty() {
        return Ok(None);
    }
    for (index, named) in options.repository.iter().enumerate() {
        if options.repository[..index].iter().any(|earlier| earlier.name == named.name) {
            let name = &named.name;
            return Err(Refusal::usage(format!(
                "two repositories are called {name}; write --repository NAME=DIR"
            )))
            .about("repository");
        }
    }
    let folders = options.repository.iter();
    let folders = folders.map(|named| (named.name.clone(), named.folder.clone()));
    let failed =
        |error: RepositoryError| Refusal::of(Exit::of_repository(&error), error.to_string());
    let repositories = Repositories::open(folders).map_err(failed).about("repository")?;
    let ports = u16::try_from(options.ports.0.len()).unwrap_or(u16::MAX);
    let (catalog, exports) = (Arc::clone(hub.catalog()), Arc::clone(hub.exports()));
    let settings = BackupSettings::for_disks(ports);
    let ports = Arc::clone(hub.ports());
    let nodes = Some(nodes.clone());
    Ok(Some(Backups::start(catalog, ports, exports, repositories, settings, nodes)?))
}

/// Raises the limit on open files, as far as that is allowed.
fn make_room(ports: usize, end: Option<&EndpointSettings>) {
    let open = fs::read_dir("/proc/self/fd").map_or(16, |folder| folder.count() as u64);
    let exports = ports as u64 + MAX_VERIFICATIONS as u64 * VERIFIED_DISKS;
    let tunnels = end.map_or(0, |end| end.connections as u64 + 2 * end.strangers as u64);
    let needed =
        open + u64::from(MAX_CONNECTIONS) + tunnels * PER_TUNNEL + exports * PER_PORT + SLACK;
    let allowed = raise_open_files(needed);
    if allowed < needed {
        line(&format!(
            "{allowed} open files are allowed, and {needed} are needed with all ports in use: \
             raise ulimit -n"
        ));
    }
}

/// The end of tunnels that nodes dial.
fn endpoint(
    at: SocketAddr,
    api: SocketAddr,
    hub: &Arc<Hub>,
    settings: EndpointSettings,
    directory: Arc<Directory>,
) -> anyhow::Result<Endpoint> {
    if !api.ip().is_loopback() {
        line(
            "warning: nodes reach the API through their tunnels, and it listens on another address \
             as well",
        );
    }
    let listener = TcpListener::bind(at).with_context(|| {
        format!("cannot listen on {at}; end what listens there, or choose another --tunnel")
    });
    let listener = listener.about("tunnel")?;
    let key = host_key(hub.folder()).about("state")?;
    let gate = Gate::new(NodeCheck::of(hub.folder()), Arc::clone(hub.ports()), api);
    let settings = EndpointSettings { directory: Some(directory), ..settings };
    Endpoint::start(listener, key, Arc::new(gate), settings, |event| line(&event.to_string()))
        .context("starting the end of tunnels")
}

fn tell(
    address: SocketAddr,
    tunnel: Option<SocketAddr>,
    hub: &Hub,
    options: &ServeOptions,
) -> anyhow::Result<()> {
    let state = hub.folder().display();
    line(&format!(
        "the hub listens on http://{address}, ports {}, state in {state}",
        options.ports
    ));
    for named in &options.repository {
        line(&format!("repository {} is {}", named.name, named.folder.display()));
    }
    if !hub.tokens().has_any().about("state")? {
        line(&format!(
            "there is no token yet: make one with `blockferry hub token --state {state}`"
        ));
    }
    if let Some(tunnel) = tunnel {
        let fingerprint = host_key(hub.folder()).about("state")?.public().fingerprint();
        line(&format!("nodes dial ssh://{tunnel}, where they see the key {fingerprint}"));
    }
    if options.json {
        print_json(&json!({
            "url": format!("http://{address}"),
            "tunnel": tunnel.map(|tunnel| format!("ssh://{tunnel}")),
            "pid": std::process::id(),
        }))?;
    }
    Ok(())
}
