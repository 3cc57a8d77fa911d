//! What the options come to for the lanes and the mover.

use std::ops::RangeInclusive;
use std::path::Path;

use blockferry_control::node::NodeFolder;
use blockferry_control::tunnel::{TunnelAddress, TunnelSettings};
use blockferry_dataplane::{Extent, LaneSettings, MoverSettings};
use indicatif::BinaryBytes;

use super::options::{CopyOptions, LEAST_REQUEST, RequestSize};
use crate::exit::{About, Refusal};
use crate::state::{self, NODE_FOLDER};

/// Connections of one disk through a tunnel: sshd has 2 MiB of each on their way at most, which at
/// 50 ms is a third of a link of 1 Gbit/s.
const TUNNEL_CONNECTIONS: u16 = 4;

/// Many lanes are many connections already.
fn lane_connections(options: &CopyOptions) -> u16 {
    let tunnel = options.tunnel.is_some() || options.node.is_some();
    let usual = if tunnel && options.lanes.is_none() { TUNNEL_CONNECTIONS } else { 1 };
    options.connections.unwrap_or(usual)
}

/// The settings that all lanes share.
pub(super) fn lane_settings(options: &CopyOptions) -> LaneSettings {
    LaneSettings {
        extent: options.bitmap.as_deref().map_or(Extent::Whole, bitmap),
        source_bytes: None,
        expected_bytes: None,
        base: None,
        connections: lane_connections(options),
        request_bytes: options.request_size.fixed(),
        adapt_bytes: adapt_bytes(options),
        requests: options.requests,
        // One request must fit, however small the queue: nbdcopy takes 0 as well.
        in_flight_bytes: options.queue_size.max((*adapt_bytes(options).start()).into()),
        synchronous: options.synchronous,
        payload: options.payload,
        extents: !options.no_extents,
        target_is_zero: options.destination_is_zero,
        allocated: options.allocated,
        sparse_bytes: options.sparse,
        cluster_bytes: options.cluster_size,
        digest: options.digest.0,
        manifest: None,
        journal: None,
        keep_journal: false,
        flush_interval: options.flush_interval,
        deadline: options.deadline,
        least_rate: options.least_rate,
        retries: options.retries,
        backoff: options.backoff,
    }
}

/// Bytes between which requests adapt: no more than may be in flight, unless the one length of all of
/// them was given.
fn adapt_bytes(options: &CopyOptions) -> RangeInclusive<u32> {
    let RequestSize { least, most } = options.request_size;
    if least == most {
        return least..=most;
    }
    let queue = u32::try_from(options.queue_size).unwrap_or(u32::MAX).max(LEAST_REQUEST);
    let queue = 1 << queue.ilog2();
    least.min(queue)..=most.min(queue)
}

/// The bitmap of that name; what `nbdinfo` shows is the name behind a prefix.
fn bitmap(name: &str) -> Extent {
    Extent::Bitmap(name.strip_prefix("qemu:dirty-bitmap:").unwrap_or(name).to_owned())
}

/// The settings of the mover.
///
/// # Errors
/// Memory that is not enough for a single thread.
pub(super) fn mover_settings(options: &CopyOptions) -> anyhow::Result<MoverSettings> {
    let least = MoverSettings::least_pool_bytes(options.request_size.fixed());
    if options.memory < least {
        return Err(Refusal::usage(format!(
            "--memory {} is less than two requests, which is the least to move data with: give {} \
             or more, or a shorter --request-size",
            BinaryBytes(options.memory as u64),
            BinaryBytes(least as u64)
        )));
    }
    Ok(MoverSettings {
        engine: options.engine,
        threads: usize::try_from(options.threads).ok().filter(|&threads| threads > 0),
        max_lanes: options.max_lanes.into(),
        pool_bytes: options.memory,
        rate_limit: options.rate_limit,
    })
}

/// A tunnel, as a command line names it.
pub(crate) struct TunnelWords<'a> {
    pub(crate) address: &'a str,
    pub(crate) identity: Option<&'a Path>,
    pub(crate) known_hosts: Option<&'a Path>,
}

/// The settings of the tunnel, if one was asked for.
pub(super) fn wanted_tunnel(options: &CopyOptions) -> anyhow::Result<Option<TunnelSettings>> {
    if let Some(folder) = &options.node {
        let folder = state::folder(folder.as_deref(), NODE_FOLDER).ok_or_else(|| {
            Refusal::usage("there is no HOME: name the node's folder by --node=DIR")
        })?;
        let settings = NodeFolder::at(&folder).tunnel();
        let settings = settings.map_err(|error| Refusal::usage(error.to_string()))?;
        return Ok(Some(with_options(settings, options)));
    }
    let Some(address) = &options.tunnel else { return Ok(None) };
    let (identity, known_hosts) = (options.identity.as_deref(), options.known_hosts.as_deref());
    let settings = tunnel_settings(&TunnelWords { address, identity, known_hosts })?;
    Ok(Some(with_options(settings, options)))
}

/// The settings of a tunnel.
pub(crate) fn tunnel_settings(words: &TunnelWords<'_>) -> anyhow::Result<TunnelSettings> {
    let address: Result<TunnelAddress, String> = words.address.parse();
    let address =
        address.map_err(|what| Refusal::usage(format!("--tunnel: {what}"))).about("tunnel")?;
    let in_home = |given: Option<&Path>, name: &str, option: &str| match given {
        Some(path) => Ok(path.to_owned()),
        None => std::env::var_os("HOME")
            .map(|home| Path::new(&home).join(".ssh").join(name))
            .ok_or_else(|| Refusal::usage(format!("HOME is not set: name a file by {option}"))),
    };
    let named = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let user = address.user.clone().or(named).filter(|user| !user.is_empty());
    let nobody =
        || Refusal::usage("--tunnel: nobody knows as whom to go there: write ssh://USER@HOST");
    let user = user.ok_or_else(nobody).about("tunnel")?;
    let identity = in_home(words.identity, "id_ed25519", "--identity")?;
    let known_hosts = in_home(words.known_hosts, "known_hosts", "--known-hosts")?;
    Ok(TunnelSettings::new(address, user, identity, known_hosts))
}

fn with_options(settings: TunnelSettings, options: &CopyOptions) -> TunnelSettings {
    let connections = options.tunnel_connections.into();
    TunnelSettings { connections, ..settings }.with_deadline(options.deadline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitmap_may_be_named_as_nbdinfo_shows_it() {
        for name in ["daily", "qemu:dirty-bitmap:daily"] {
            assert!(matches!(bitmap(name), Extent::Bitmap(name) if name == "daily"), "{name}");
        }
    }
}
