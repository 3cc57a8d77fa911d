//! The options of `node`.

use std::path::PathBuf;
use std::time::Duration;

use blockferry_dataplane::units::parse_duration;
use clap::{Args, Subcommand};

use crate::exit::Refusal;
use crate::state;

/// Shown below the options.
pub(crate) const EXAMPLES: &str = "\
Examples:
  On the hub, then here, on the machine near the VMs:
    blockferry hub enroll esx-rack2
    blockferry node enroll --hub ssh://hub.example:10022      (and the code on its standard input)

  Copy a disk into an export of the hub that is leased for this node:
    blockferry copy --node nbd://esx/disk nbd://127.0.0.1:10100/NAME";

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
