//! `blockferry node serve`.

use std::sync::Arc;
use std::sync::Once;
use std::sync::mpsc;

use blockferry_control::node::{Node, NodeFolder, NodeSettings, ServeError};
use blockferry_control::tunnel::TunnelEvent;
use blockferry_dataplane::{LaneSettings, MoverSettings};
use serde_json::json;

use super::options::ServeOptions;
use crate::copy::raise_open_files;
use crate::exit::{Exit, Refusal};
use crate::interrupt;
use crate::output::{Console, line, print_json};

/// What the first signal makes of a node.
const STOPPING: &str = "stopping: jobs are called off; once more to stop at once";
/// Descriptors of as many lanes as a hub has ports, with their files, channels and rings.
const OPEN_FILES: u64 = 101 * 32 + 256;

/// `blockferry node serve`.
///
/// # Errors
/// What kept it from starting, in one line.
pub(super) fn command(options: &ServeOptions) -> anyhow::Result<Exit> {
    let folder = NodeFolder::at(&options.state.folder()?);
    let record = folder.record().map_err(|error| Refusal::usage(error.to_string()))?;
    let mut tunnel = folder.tunnel()?.with_deadline(options.deadline);
    tunnel.connections = options.tunnel_connections.into();
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
    };
    let (told, ended) = mpsc::channel();
    let console = Arc::new(Console::new(None, false));
    interrupt::listen_and_say(console, STOPPING, move || told.send(()).is_ok())?;
    line(&format!("node {} dials its hub at {}", record.name, record.hub));
    let (json, reachable) = (options.json, Once::new());
    let ready = json!({ "node": record.name, "hub": record.hub, "pid": std::process::id() });
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
    let node = Node::serve(&folder, tunnel, 0, settings, on_event, line);
    let node = node.map_err(|error| match error {
        ServeError::Tunnel(error) if !error.is_usage() => {
            Refusal::of(Exit::Target, error.to_string())
        }
        other => other.into(),
    })?;
    // Only a signal ends it. Whoever would send none is gone with the process.
    let _signal = ended.recv();
    node.stop();
    Ok(Exit::Done)
}
