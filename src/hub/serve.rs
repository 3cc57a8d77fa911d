//! `blockferry hub serve`.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use blockferry_control::api::{ApiSettings, Log, MAX_CONNECTIONS, Server};
use blockferry_control::hub::{Hub, HubSettings};
use serde_json::json;

use super::options::ServeOptions;
use crate::copy::raise_open_files;
use crate::exit::{Exit, Refusal};
use crate::interrupt;
use crate::output::{Console, line, print_json};

/// Descriptors of a leased port with an export on it: the socket, the process, and its pipes.
const PER_PORT: u64 = 8;
/// For catalogs, the reactor and what libraries open now and then.
const SLACK: u64 = 64;

/// `blockferry hub serve`.
///
/// # Errors
/// What kept it from starting, in one line.
pub(super) fn command(options: &ServeOptions) -> anyhow::Result<Exit> {
    let address = options.listen;
    if !address.ip().is_loopback() {
        if !options.beyond_loopback {
            return Err(Refusal::usage(format!(
                "{address} can be reached by other machines; say --beyond-loopback as well if \
                 that is meant"
            )));
        }
        line(&format!(
            "warning: the API on {address} can be reached by other machines, and speaks HTTP \
             without TLS: put a proxy with TLS, or an SSH tunnel, before it"
        ));
    }
    let settings = HubSettings { state: options.state.folder()?, ports: options.ports.0.clone() };
    make_room(settings.ports.len());
    let (hub, recovery) = Hub::open(&settings)?;
    for undone in &recovery.undone {
        line(undone);
    }
    if !recovery.adopted.is_empty() {
        line(&format!("{} leased ports are bound again", recovery.adopted.len()));
    }
    // What else a hub does, with its repository first of all, is set up here, before the API.
    let hub = Arc::new(hub);
    let api = ApiSettings { log: Log::to(line), log_requests: options.verbose };
    let server = Server::bind(address, Arc::clone(&hub), api).with_context(|| {
        format!("cannot listen on {address}; end what listens there, or choose another --listen")
    })?;
    let stopper = server.stopper();
    interrupt::listen(Arc::new(Console::new(None, options.verbose)), move || {
        stopper.stop();
        true
    })?;
    tell(server.address()?, &hub, options)?;
    server.run().context("serving the API")?;
    for error in hub.exports().end_all() {
        line(&error.to_string());
    }
    Ok(Exit::Done)
}

/// Raises the limit on open files, as far as that is allowed.
fn make_room(ports: usize) {
    let open = fs::read_dir("/proc/self/fd").map_or(16, |folder| folder.count() as u64);
    let needed = open + u64::from(MAX_CONNECTIONS) + ports as u64 * PER_PORT + SLACK;
    let allowed = raise_open_files(needed);
    if allowed < needed {
        line(&format!(
            "{allowed} open files are allowed, and {needed} are needed with all ports in use: \
             raise ulimit -n"
        ));
    }
}

fn tell(address: SocketAddr, hub: &Hub, options: &ServeOptions) -> anyhow::Result<()> {
    let state = hub.folder().display();
    line(&format!(
        "the hub listens on http://{address}, ports {}, state in {state}",
        options.ports
    ));
    if !hub.tokens().has_any()? {
        line(&format!(
            "there is no token yet: make one with `blockferry hub token --state {state}`"
        ));
    }
    if options.json {
        print_json(&json!({ "url": format!("http://{address}"), "pid": std::process::id() }))?;
    }
    Ok(())
}
