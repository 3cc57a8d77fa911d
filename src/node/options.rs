//! The options of `node`.

use std::path::PathBuf;
use std::time::Duration;

use blockferry_control::tunnel::TunnelSettings;
use blockferry_dataplane::EngineChoice;
use blockferry_dataplane::units::parse_duration;
use clap::{Args, Subcommand};

use crate::exit::Refusal;
use crate::hub::PortRange;
use crate::lane_options::{positive_duration, positive_size, rekey, window};
use crate::state;
use crate::vcenter::{ServerOptions, SnapshotOptions, SweepOptions, VddkOptions};

const SSHD: &str = "Through an sshd";

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

  Through an sshd of the hub's machine:
    blockferry node serve --tunnel ssh://blockferry@hub.example --identity node.key \\
        --known-hosts hub.keys --api-port 10301 --token-file node.token

  With the hub's ports on this machine, for nbdcopy or qemu-img:
    blockferry node serve --ports 10100-10200 --hub-api 10080

  With the VMs of a vCenter, whose password stays on this machine:
    blockferry node serve --vcenter vc.example --vcenter-user backup@vsphere.local \\
        --vcenter-password-file vc.password --vcenter-thumbprint AA:BB:... \\
        --vddk-libdir /opt/vmware-vix-disklib-distrib

  With what stands in a file, as deadline = '10m':
    blockferry node serve --config /etc/blockferry/node.toml

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
    /// Remove the snapshots of backups that are dead, and no others
    ///
    /// Snapshots are written down before they are made, in the repository of their backup: those
    /// that are not are left alone, whatever they are called. What such backups have left in the
    /// repository and of nbdkit goes too. Each backup of a VM does all of it for that VM.
    Sweep(Box<SweepOptions>),
    /// Dial the hub, and read the disks that it asks for, until SIGTERM or Ctrl-C
    ///
    /// The hub has a backup read by this node where it is asked to (`backup --hub URL --node NAME`).
    /// Sources are opened from this machine, and what is read goes to the hub through the tunnel.
    /// Only the hub can ask, and only through the tunnel: nothing listens here.
    #[command(args_override_self = true, after_help = SERVE_EXAMPLES)]
    Serve(Box<ServeOptions>),
}

#[derive(Args, Debug)]
pub(crate) struct ServeOptions {
    #[command(flatten)]
    pub(crate) state: NodeState,

    /// Go to the hub through an sshd of its machine, in place of the hub's own end
    ///
    /// This machine need not be enrolled then: the sshd knows its key, and the hub shows a token.
    /// `hub enroll NODE --sshd-port PORT` makes that, scripts/sshd-lines the lines of the sshd.
    #[arg(
        long, value_name = "ssh://USER@HOST[:PORT]", help_heading = SSHD,
        requires_all = ["api_port", "token_file"]
    )]
    pub(crate) tunnel: Option<String>,

    /// A private key for that, without a passphrase (~/.ssh/id_ed25519)
    #[arg(long, value_name = "FILE", requires = "tunnel", help_heading = SSHD)]
    pub(crate) identity: Option<PathBuf>,

    /// Where the key of the sshd has to stand (~/.ssh/known_hosts)
    #[arg(long, value_name = "FILE", requires = "tunnel", help_heading = SSHD)]
    pub(crate) known_hosts: Option<PathBuf>,

    /// The port of 127.0.0.1 on which the sshd is to listen for the hub
    #[arg(
        long, value_name = "PORT", requires = "tunnel", help_heading = SSHD,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub(crate) api_port: Option<u16>,

    /// A file with the token that the hub shows, which only its user can read
    #[arg(long, value_name = "FILE", requires = "tunnel", help_heading = SSHD)]
    pub(crate) token_file: Option<PathBuf>,

    /// Listen on these ports of 127.0.0.1 too, and lead other NBD clients to the same ports of the
    /// hub, as with 10100-10200
    ///
    /// They reach what is leased for this node. Every user of this machine can connect to them.
    #[arg(long, value_name = "A-B")]
    pub(crate) ports: Option<PortRange>,

    /// Listen on the port of the hub's API too, as 10080, and lead there: with --ports, all of
    /// `restore --hub http://127.0.0.1:10080 --node NAME` works on this machine
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) hub_api: Option<u16>,

    /// Take sources that name files of this machine: Unix sockets, certificates
    ///
    /// Whoever may ask the hub for a backup can then have this node connect to every socket that
    /// its user can, and use every key.
    #[arg(long)]
    pub(crate) local_sources: bool,

    #[command(flatten)]
    pub(crate) server: ServerOptions,

    #[command(flatten)]
    pub(crate) snapshot: SnapshotOptions,

    #[command(flatten)]
    pub(crate) vddk: VddkOptions,

    #[command(flatten)]
    pub(crate) link: LinkOptions,

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

    /// A file with options in place of the command line: TOML, with a key for each long option
    ///
    /// Paths in it begin where the file is. What is typed goes over what stands in it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print a JSON object on standard output when the hub can reach this node
    #[arg(long)]
    pub(crate) json: bool,
}

/// How the tunnel is made and kept. What is not set has a value that suits most links.
#[derive(Args, Debug)]
pub(crate) struct LinkOptions {
    /// SSH connections at most, over which lanes are spread
    #[arg(
        long, value_name = "N", default_value = "4",
        value_parser = clap::value_parser!(u16).range(1..=64)
    )]
    tunnel_connections: u16,

    /// How often the hub is asked for a sign of life (a sixth of --deadline, 5s at most)
    #[arg(long, value_name = "TIME", value_parser = positive_duration, hide_short_help = true)]
    tunnel_keepalive: Option<Duration>,

    /// So many unanswered questions end a connection (3)
    #[arg(
        long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..),
        hide_short_help = true
    )]
    tunnel_keepalive_limit: Option<u8>,

    /// Longest wait between two attempts to connect (1s)
    #[arg(long, value_name = "TIME", value_parser = positive_duration, hide_short_help = true)]
    tunnel_backoff: Option<Duration>,

    /// Bytes that the hub may send on a channel before it has to wait for this node (16M)
    #[arg(long, value_name = "SIZE", value_parser = window, hide_short_help = true)]
    tunnel_window: Option<u32>,

    /// Bytes that are sent, or received, under one session key at most (1G)
    #[arg(long, value_name = "SIZE", value_parser = rekey, hide_short_help = true)]
    tunnel_rekey: Option<usize>,
}

impl LinkOptions {
    /// The settings, with what was chosen here.
    pub(crate) fn over(&self, settings: TunnelSettings) -> TunnelSettings {
        let backoff_limit = self.tunnel_backoff.unwrap_or(settings.backoff_limit);
        TunnelSettings {
            connections: self.tunnel_connections.into(),
            keepalive: self.tunnel_keepalive.unwrap_or(settings.keepalive),
            keepalive_limit: self
                .tunnel_keepalive_limit
                .map_or(settings.keepalive_limit, usize::from),
            backoff: settings.backoff.min(backoff_limit),
            backoff_limit,
            window_bytes: self.tunnel_window.unwrap_or(settings.window_bytes),
            rekey_bytes: self.tunnel_rekey.unwrap_or(settings.rekey_bytes),
            ..settings
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct EnrollOptions {
    #[command(flatten)]
    pub(crate) state: NodeState,

    /// Where the hub takes nodes (`hub serve --tunnel`)
    #[arg(long, value_name = "ssh://HOST[:PORT]")]
    pub(crate) hub: String,

    /// A file with the code, which only its user can read, or - for standard input
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
