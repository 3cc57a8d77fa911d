//! `blockferry node serve`.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Once, mpsc};

use blockferry_control::node::{Node, NodeFolder, NodeSettings, NodeToken, NodeVms, ServeError};
use blockferry_control::sources::vddk::{Settings, VddkSource};
use blockferry_control::tunnel::{
    LocalPorts, TunnelError, TunnelEvent, TunnelSettings, check_identity,
};
use blockferry_dataplane::{LaneSettings, MoverSettings};
use clap::Args;
use serde_json::json;

use super::options::ServeOptions;
use super::secret;
use crate::copy::{TunnelWords, raise_open_files, tunnel_settings};
use crate::exit::{About, Exit, Refusal};
use crate::hub::PortRange;
use crate::interrupt;
use crate::output::{Console, line, print_json};
use crate::vcenter::{self, SnapshotOptions, VddkOptions};

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
        let record = folder.record().map_err(|error| Refusal::usage(error.to_string()));
        let (record, tunnel) = (record.about("state")?, folder.tunnel().about("state")?);
        return Ok(Way { node: Some(record.name), tunnel, token: None });
    };
    let (identity, known_hosts) = (options.identity.as_deref(), options.known_hosts.as_deref());
    let tunnel = tunnel_settings(&TunnelWords { address, identity, known_hosts })?;
    let token = options.token_file.as_deref().map(token).transpose()?;
    Ok(Way { node: None, tunnel, token })
}

/// The long names of a group of options.
fn names_of<T: Args>() -> impl Iterator<Item = String> {
    let group = T::augment_args(clap::Command::new("group"));
    let names = group.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned));
    names.collect::<Vec<_>>().into_iter()
}

/// How it has disks of its vCenter served, if it has one. All that this needs is there.
fn vddk(options: &ServeOptions) -> anyhow::Result<Option<Settings>> {
    if !options.server.is_named() {
        if options.snapshot.is_plain() && options.vddk.is_plain() {
            return Ok(None);
        }
        let of_vms = names_of::<SnapshotOptions>().chain(names_of::<VddkOptions>());
        return Err(Refusal::usage(
            "--quiesce, --enable-cbt, --cbt-audit, the limits of snapshots and disks, --nbdkit, \
             --vddk-libdir and the like are about a vCenter: name it with --vcenter, or leave them out",
        ))
        .about_any(of_vms.collect());
    }
    // What is wrong with it is better known now.
    options.server.check()?;
    options.vddk.looked_at(Exit::Source).map(Some)
}

/// The VMs of its vCenter, whose disks are served so.
fn vms(options: &ServeOptions, vddk: Settings) -> anyhow::Result<NodeVms> {
    // What a dead node left there; its snapshots go when the server is asked.
    VddkSource::clean_up(&vddk);
    let ledger = vcenter::ledger_of(&options.state.folder()?).about("state")?;
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

/// Sees whether the files can be had that its options name.
fn files(options: &ServeOptions) -> anyhow::Result<()> {
    if let Some(path) = &options.identity {
        check_identity(path)
            .map_err(|error| Refusal::usage(error.to_string()))
            .about("identity")?;
    }
    if let Some(path) = &options.known_hosts {
        let wrong = |error| Refusal::usage(format!("--known-hosts {}: {error}", path.display()));
        File::open(path).map_err(wrong).about("known-hosts")?;
    }
    if let Some(path) = &options.token_file {
        token(path).about("token-file")?;
    }
    Ok(())
}

/// Why a node does not work, and which option that is about.
fn refused(error: ServeError, options: &ServeOptions) -> anyhow::Result<Node> {
    let of_sshd = options.tunnel.is_some();
    let option = match &error {
        ServeError::Node(_) => Some("state"),
        ServeError::Tunnel(TunnelError::Identity { .. }) if of_sshd => Some("identity"),
        ServeError::Tunnel(TunnelError::KnownHosts { .. }) if of_sshd => Some("known-hosts"),
        ServeError::Tunnel(error) if error.is_usage() => Some("state"),
        _ => None,
    };
    let error = match error {
        ServeError::Tunnel(error) => {
            let exit = if error.is_usage() { Exit::Usage } else { Exit::Target };
            Refusal::of(exit, error.to_string())
        }
        other => other.into(),
    };
    Err(error).about_any(option.map(str::to_owned).into_iter().collect())
}

/// Listens on ports of the hub that are to be here too.
fn listen(node: &Node, options: &ServeOptions) -> anyhow::Result<Vec<LocalPorts>> {
    let ports = options.ports.iter().map(|PortRange(ports)| ("ports", ports.clone()));
    let api = options.hub_api.map(|port| ("hub-api", port..=port));
    let listen = |(option, ports)| {
        node.listen(ports).map_err(|error| Refusal::usage(error.to_string())).about(option)
    };
    ports.chain(api).map(listen).collect()
}

/// `blockferry node serve`.
///
/// # Errors
/// What kept it from starting, in one line.
pub(super) fn command(options: &ServeOptions) -> anyhow::Result<Exit> {
    files(options)?;
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
    check_identity(&tunnel.identity)
        .map_err(|error| Refusal::usage(error.to_string()))
        .about(if options.tunnel.is_some() { "identity" } else { "state" })?;
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
    let node = node.or_else(|error| refused(error, options))?;
    // Closed at the end of this command.
    let _ports = listen(&node, options)?;
    // Only a signal ends it. Whoever would send none is gone with the process.
    let _signal = ended.recv();
    node.stop();
    Ok(Exit::Done)
}
