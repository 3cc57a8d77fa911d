//! The options of `node`.

use std::path::PathBuf;
use std::time::Duration;

use blockferry_dataplane::EngineChoice;
use blockferry_dataplane::units::parse_duration;
use clap::{Args, Subcommand};

use crate::exit::Refusal;
use crate::lane_options::{positive_duration, positive_size};
use crate::state;

/// Shown below the options.
pub(crate) const EXAMPLES: &str = "\
Examples:
  On the hub, then here, on the machine near the VMs:
    blockferry hub enroll esx-rack2
    blockferry node enroll --hub ssh://hub.example:10022      (and the code on its standard input)

  Copy a disk into an export of the hub that is leased for this node:
    blockferry copy --node nbd://esx/disk nbd://127.0.0.1:10100/NAME";

pub(crate) const SERVE_EXAMPLES: &str = "\
Examples:
  As a service, with sources that are Unix sockets of this machine:
    blockferry node serve --local-sources

  On a link that goes away for minutes now and then:
    blockferry node serve --deadline 10m        (and hub serve --node-deadline 15m)";

#[derive(Args, Debug)]
pub(crate) struct NodeOptions {
    #[command(subcommand)]
    pub(crate) command: NodeCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Make this machine a node of a hub, with a code that `hub enroll` printed there
    ///
    /// Makes a key that never leaves this machine, shows it and the code to the hub, and pins the
    /// key of the hub, which the code vouches for.
    #[command(after_help = EXAMPLES)]
    Enroll(EnrollOptions),
    /// Dial the hub, and read the disks that it asks for, until SIGTERM or Ctrl-C
    ///
    /// The hub has a backup read by this node where it is asked to (`backup --hub URL --node NAME`).
    /// Sources are opened from this machine, and what is read goes to the hub through the tunnel.
    /// Only the hub can ask, and only through the tunnel: nothing listens here.
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeOptions),
}

#[derive(Args, Debug)]
pub(crate) struct ServeOptions {
    #[command(flatten)]
    pub(crate) state: NodeState,

    /// Take sources that name files of this machine: Unix sockets, certificates
    ///
    /// Whoever may ask the hub for a backup can then have this node connect to every socket that
    /// its user can, and use every key.
    #[arg(long)]
    pub(crate) local_sources: bool,

    /// SSH connections at most, over which lanes are spread
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) tunnel_connections: u16,

    /// A source, or the way to the hub, that gives no answer for this long has failed
    ///
    /// So long a link may be away without a backup starting over.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = positive_duration)]
    pub(crate) deadline: Duration,

    /// Flush the exports of the hub at least this often: what came since then is sent again when a
    /// connection was lost
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = positive_duration)]
    pub(crate) flush_interval: Duration,

    /// Call off a job that the hub has not asked about for this long, and forget it
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = positive_duration)]
    pub(crate) forget: Duration,

    /// Bytes a second at most, of each job
    #[arg(long, value_name = "SIZE", value_parser = positive_size)]
    pub(crate) rate_limit: Option<u64>,

    /// auto, uring (io_uring), or poll (epoll, where io_uring is forbidden)
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub(crate) engine: EngineChoice,

    /// Print a JSON object on standard output when the hub can reach this node
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct EnrollOptions {
    #[command(flatten)]
    pub(crate) state: NodeState,

    /// Where the hub takes nodes (`hub serve --tunnel`)
    #[arg(long, value_name = "ssh://HOST[:PORT]")]
    pub(crate) hub: String,

    /// A file with the code, or - for standard input
    ///
    /// Not the code itself: a command line is read by everybody on the machine.
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) code: PathBuf,

    /// Give up after this time
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub(crate) deadline: Duration,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct NodeState {
    /// Folder of the node: its key, and that of its hub
    ///
    /// By default /var/lib/blockferry-node for root, and blockferry-node in $XDG_STATE_HOME or
    /// ~/.local/state for other users.
    #[arg(long = "state", value_name = "DIR")]
    state: Option<PathBuf>,
}

impl NodeState {
    /// The folder.
    ///
    /// # Errors
    /// When it was not named, and there is no home to have it in.
    pub(crate) fn folder(&self) -> anyhow::Result<PathBuf> {
        state::folder(self.state.as_deref(), state::NODE_FOLDER)
            .ok_or_else(|| Refusal::usage("there is no HOME: name the node's folder with --state"))
    }
}
