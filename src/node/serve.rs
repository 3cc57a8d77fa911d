//! `blockferry node serve`.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Once, mpsc};

use blockferry_control::node::{Node, NodeFolder, NodeSettings, NodeToken, NodeVms, ServeError};
use blockferry_control::sources::vddk::{Settings, VddkSource};
use blockferry_control::tunnel::{TunnelEvent, TunnelSettings, check_identity};
use blockferry_dataplane::{LaneSettings, MoverSettings};
use serde_json::json;

use super::options::ServeOptions;
use super::secret;
use crate::config::Configured;
use crate::copy::{TunnelWords, raise_open_files, tunnel_settings};
use crate::exit::{Exit, Refusal};
use crate::hub::PortRange;
use crate::interrupt;
use crate::output::{Console, line, print_json};
use crate::vcenter;

/// What the first signal makes of a node.
const STOPPING: &str = "stopping: jobs are called off; once more to stop at once";
/// Descriptors of as many lanes as a hub has ports, with their files, channels and rings.
const OPEN_FILES: u64 = 101 * 32 + 256;

/// How this machine comes to its hub.
struct Way {
    /// What the hub calls it, where that is known here.
    node: Option<String>,
    tunnel: TunnelSettings,
    token: Option<NodeToken>,
}

fn way(options: &ServeOptions, folder: &NodeFolder) -> anyhow::Result<Way> {
    let Some(address) = &options.tunnel else {
        let record = folder.record().map_err(|error| Refusal::usage(error.to_string()))?;
        return Ok(Way { node: Some(record.name), tunnel: folder.tunnel()?, token: None });
    };
    let (identity, known_hosts) = (options.identity.as_deref(), options.known_hosts.as_deref());
    let tunnel = tunnel_settings(&TunnelWords { address, identity, known_hosts })?;
    let token = options.token_file.as_deref().map(token).transpose()?;
    Ok(Way { node: None, tunnel, token })
}

/// How it has disks of its vCenter served, if it has one. All that this needs is there.
fn vddk(options: &ServeOptions) -> anyhow::Result<Option<Settings>> {
    if !options.server.is_named() {
        if options.snapshot.is_plain() && options.vddk.is_plain() {
            return Ok(None);
        }
        return Err(Refusal::usage(
            "--quiesce, --enable-cbt, --cbt-audit, the limits of snapshots and disks, --nbdkit, \
             --vddk-libdir and the like are about a vCenter: name it with --vcenter, or leave them out",
        ));
    }
    // What is wrong with it is better known now.
    options.server.check()?;
    options.vddk.looked_at(Exit::Source).map(Some)
}

/// The VMs of its vCenter, whose disks are served so.
fn vms(options: &ServeOptions, vddk: Settings) -> anyhow::Result<NodeVms> {
    // What a dead node left there; its snapshots go when the server is asked.
    VddkSource::clean_up(&vddk);
    let ledger = vcenter::ledger_of(&options.state.folder()?)?;
    let server = options.server.clone();
    Ok(NodeVms {
        settings: options.snapshot.settings(server.name(), ledger, vddk),
        connect: Box::new(move |called_off| {
            server.connect_unless(called_off).map_err(|error| format!("{error:#}"))
        }),
    })
}

/// The token in a file that nobody else can read.
fn token(path: &Path) -> anyhow::Result<NodeToken> {
    const OPTION: &str = "--token-file";
    let wrong = |what| Refusal::usage(format!("{OPTION} {}: {what}", path.display()));
    NodeToken::new(&secret::read(OPTION, path)?).map_err(wrong)
}

/// `blockferry node serve`.
///
/// # Errors
/// What kept it from starting, in one line.
pub(super) fn command(
    options: &ServeOptions,
    configured: Option<&Configured>,
) -> anyhow::Result<Exit> {
    if let Some(configured) = configured {
        configured.check("identity", options.identity.as_deref(), check_identity)?;
        configured.check("known-hosts", options.known_hosts.as_deref(), |path| {
            let known = File::open(path).map(drop);
            known.map_err(|error| format!("known-hosts {}: {error}", path.display()))
        })?;
        configured
            .check("token-file", options.token_file.as_deref(), |path| token(path).map(drop))?;
    }
    let folder = NodeFolder::at(&options.state.folder()?);
    // What its options say of VMs is wrong or right whatever the way to the hub is.
    let vddk = vddk(options)?;
    let Way { node: name, tunnel, token } = way(options, &folder)?;
    let tunnel = options.link.over(tunnel.with_deadline(options.deadline));
    raise_open_files(OPEN_FILES);
    let settings = NodeSettings {
        lane: LaneSettings {
            deadline: options.deadline,
            flush_interval: options.flush_interval,
            ..LaneSettings::default()
        },
        mover: MoverSettings {
            engine: options.engine,
            rate_limit: options.rate_limit,
            ..MoverSettings::default()
        },
        local_sources: options.local_sources,
        forget: options.forget,
        vms: vddk.map(|vddk| vms(options, vddk)).transpose()?,
        token,
    };
    let (told, ended) = mpsc::channel();
    let console = Arc::new(Console::new(None, false));
    interrupt::listen_and_say(console, STOPPING, move || told.send(()).is_ok())?;
    check_identity(&tunnel.identity).map_err(|error| Refusal::usage(error.to_string()))?;
    let hub = tunnel.address.to_string();
    line(&format!(
        "{} dials its hub at {hub}",
        name.as_deref().map_or_else(|| "this node".to_owned(), |name| format!("node {name}"),)
    ));
    let (json, reachable) = (options.json, Once::new());
    let ready = json!({ "node": name, "hub": hub, "pid": std::process::id() });
    let on_event = move |event: TunnelEvent| {
        line(&event.to_string());
        if json && matches!(event, TunnelEvent::Served { .. }) {
            reachable.call_once(|| {
                if let Err(error) = print_json(&ready) {
                    line(&error.to_string());
                }
            });
        }
    };
    let node =
        Node::serve(&folder, tunnel, options.api_port.unwrap_or(0), settings, on_event, line);
    let node = node.map_err(|error| match error {
        ServeError::Tunnel(error) => {
            let exit = if error.is_usage() { Exit::Usage } else { Exit::Target };
            Refusal::of(exit, error.to_string())
        }
        other => other.into(),
    })?;
    let api = options.hub_api.map(|port| port..=port);
    let ranges = options.ports.iter().map(|PortRange(ports)| ports.clone()).chain(api);
    let ports = ranges.map(|ports| node.listen(ports)).collect::<Result<Vec<_>, _>>();
    // Closed at the end of this command.
    let _ports = ports.map_err(|error| Refusal::usage(error.to_string()))?;
    // Only a signal ends it. Whoever would send none is gone with the process.
    let _signal = ended.recv();
    node.stop();
    Ok(Exit::Done)
}
