//! The options of `hub`.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use blockferry_control::hub::{DEFAULT_PORTS, NodeName, RepositoryName};
use blockferry_control::tunnel::endpoint::EndpointSettings;
use blockferry_dataplane::units::parse_duration;
use clap::{Args, Subcommand};

use crate::exit::Refusal;
use crate::lane_options::{positive_duration, rekey, window};
use crate::state;

/// Shown below the options.
pub(crate) const EXAMPLES: &str = "\
Examples:
  Start a hub, make a token, ask for a port:
    blockferry hub serve &
    TOKEN=$(blockferry hub token)
    curl -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: application/json' \\
         -d '{\"job_id\": \"nightly-db1\", \"vm\": \"db1\", \"disk\": \"root\"}' \\
         http://127.0.0.1:10080/api/v1/nbd/ports/allocate";

pub(crate) const SERVE_EXAMPLES: &str = "\
Examples:
  As a service, with its state on a disk of its own and a line for each request:
    blockferry hub serve -v --state /srv/hub

  With a repository that backups go to, and another one called weekly:
    blockferry hub serve --repository /backup --repository weekly=/srv/weekly

  With what stands in a file, as repository = ['/backup', 'weekly=/srv/weekly']:
    blockferry hub serve --config /etc/blockferry/hub.toml

  With an SSH endpoint for nodes on all addresses:
    blockferry hub serve --repository /backup --tunnel 0.0.0.0:10022

  With other ports, reachable from other machines (through a proxy that speaks TLS):
    blockferry hub serve --ports 20100-20120 --listen 10.0.0.5:10080 --beyond-loopback";

pub(crate) const ENROLL_EXAMPLES: &str = "\
Examples:
  On the hub, then on the machine that becomes a node of it:
    blockferry hub enroll esx-rack2
    blockferry node enroll --hub ssh://hub.example:10022      (and the code on its standard input)

  blockferry hub enroll --list                 which there are
  blockferry hub enroll --remove esx-rack2     from now on that one reaches nothing";

pub(crate) const TOKEN_EXAMPLES: &str = "\
Examples:
  blockferry hub token > node.token            a new one; nobody can show it again
  blockferry hub token --list                  which there are
  blockferry hub token --revoke 5f1c09ab       from now on that one opens nothing";

/// What a repository is called that was given no name.
const DEFAULT_REPOSITORY: &str = "default";
const DEFAULT_ADDRESS: &str = "127.0.0.1:10080";

#[derive(Args, Debug)]
pub(crate) struct HubOptions {
    #[command(subcommand)]
    pub(crate) command: HubCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HubCommand {
    /// Run the hub, and its API over HTTP, until SIGTERM or Ctrl-C
    ///
    /// The API is described by /api/v1/openapi.json. It takes requests with a token that `hub
    /// token` made. Without other options it listens on this machine only.
    #[command(args_override_self = true, after_help = SERVE_EXAMPLES)]
    Serve(Box<ServeOptions>),
    /// Print a code that makes a machine a node of this hub; or list nodes, or take one away
    ///
    /// The code is good once, and for a while. On the machine near the VMs it goes into
    /// `blockferry node enroll`, which makes a key there and pins the key of this hub.
    #[command(after_help = ENROLL_EXAMPLES)]
    Enroll(EnrollOptions),
    /// Make a token for the API, and print it; or list tokens, or take one away
    ///
    /// Only a hash of it is kept. A hub that runs learns of new and revoked tokens at once.
    #[command(after_help = TOKEN_EXAMPLES)]
    Token(TokenOptions),
}

#[derive(Args, Debug)]
pub(crate) struct ServeOptions {
    #[command(flatten)]
    pub(crate) state: StateOption,

    /// Address and port of the API
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADDRESS)]
    pub(crate) listen: SocketAddr,

    /// Allow --listen an address that other machines can reach
    ///
    /// The API speaks HTTP without TLS: whoever can listen in on the way reads the tokens.
    #[arg(long)]
    pub(crate) beyond_loopback: bool,

    /// A repository that backups go to; an empty or new folder becomes one. Repeat it for more
    ///
    /// Without a name it is called default. Without any the hub hands out ports, and no more.
    #[arg(long, value_name = "[NAME=]DIR")]
    pub(crate) repository: Vec<NamedFolder>,

    /// Take sources of backups that name files of this machine: Unix sockets, certificates
    ///
    /// Whoever has a token can then have the hub connect to every socket that its user can, and
    /// use every key. Without it a token opens what is the hub's, and nothing else of the machine.
    #[arg(long)]
    pub(crate) local_sources: bool,

    /// Ports to hand out, on 127.0.0.1
    #[arg(long, value_name = "A-B", default_value_t = PortRange(DEFAULT_PORTS))]
    pub(crate) ports: PortRange,

    /// Take SSH connections of nodes here: an address and a port, as 0.0.0.0:10022
    ///
    /// A node with an enrolled key (`hub enroll`) reaches the ports that are leased for it and the
    /// API, and nothing else; there is no shell and no command. Other machines may reach this
    /// address: it is what it is for.
    #[arg(long, value_name = "ADDR")]
    pub(crate) tunnel: Option<SocketAddr>,

    /// A node that cannot be reached for this long fails the backups that it reads for
    ///
    /// Its lanes have a deadline of their own, --deadline of `node serve`.
    #[arg(
        long, value_name = "TIME", default_value = "3m", value_parser = positive_duration
    )]
    pub(crate) node_deadline: Duration,

    /// A node that answers, and moves no byte of a backup for this long, fails it
    ///
    /// Snapshots that are made or removed, and turns that are waited for, are no part of it.
    #[arg(
        long, value_name = "TIME", default_value = "30m", value_parser = positive_duration
    )]
    pub(crate) node_stall: Duration,

    #[command(flatten)]
    pub(crate) link: EndOptions,

    /// A file with options in place of the command line: TOML, with a key for each long option
    ///
    /// Paths in it begin where the file is. What is typed goes over what stands in it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print a JSON object with the API's address on standard output when it can be used
    #[arg(long)]
    pub(crate) json: bool,

    /// Print a line for each request
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

/// How connections of nodes are kept. What is not set has a value that suits most links.
#[derive(Args, Debug)]
pub(crate) struct EndOptions {
    /// How often a node is asked for a sign of life (5s)
    #[arg(long, value_name = "TIME", value_parser = positive_duration, hide_short_help = true)]
    tunnel_keepalive: Option<Duration>,

    /// So many unanswered questions end a connection (3)
    #[arg(
        long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..),
        hide_short_help = true
    )]
    tunnel_keepalive_limit: Option<u8>,

    /// SSH connections of nodes at most, and of one node three quarters of them; a node beyond them
    /// is hung up on after its login (64)
    #[arg(
        long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..),
        hide_short_help = true
    )]
    tunnel_connections: Option<u16>,

    /// Channels of a connection at most; more are refused (256)
    #[arg(
        long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..),
        hide_short_help = true
    )]
    tunnel_channels: Option<u16>,

    /// How long a connection may take to log in (20s)
    #[arg(long, value_name = "TIME", value_parser = positive_duration, hide_short_help = true)]
    tunnel_login_deadline: Option<Duration>,

    /// Bytes that a node may send on a channel before it has to wait for the hub (16M)
    #[arg(long, value_name = "SIZE", value_parser = window, hide_short_help = true)]
    tunnel_window: Option<u32>,

    /// Bytes that are sent, or received, under one session key at most (1G)
    #[arg(long, value_name = "SIZE", value_parser = rekey, hide_short_help = true)]
    tunnel_rekey: Option<usize>,
}

impl EndOptions {
    /// The settings of the hub's own end of tunnels.
    pub(crate) fn settings(&self) -> EndpointSettings {
        let plain = EndpointSettings::default();
        EndpointSettings {
            connections: self.tunnel_connections.map_or(plain.connections, usize::from),
            channels: self.tunnel_channels.map_or(plain.channels, usize::from),
            login_deadline: self.tunnel_login_deadline.unwrap_or(plain.login_deadline),
            keepalive: self.tunnel_keepalive.unwrap_or(plain.keepalive),
            keepalive_limit: self.tunnel_keepalive_limit.map_or(plain.keepalive_limit, usize::from),
            window_bytes: self.tunnel_window.unwrap_or(plain.window_bytes),
            rekey_bytes: self.tunnel_rekey.unwrap_or(plain.rekey_bytes),
            ..plain
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct EnrollOptions {
    #[command(flatten)]
    pub(crate) state: StateOption,

    /// What the node is called: 1 to 64 of a-z, 0-9, - and _. One that is there gets a new key
    #[arg(value_name = "NODE", required_unless_present_any = ["list", "remove"])]
    pub(crate) node: Option<NodeName>,

    /// The node comes through an sshd of this machine, which listens for it on this port of
    /// 127.0.0.1 (permitlisten); print the token for `node serve --token-file` in place of a code
    ///
    /// scripts/sshd-lines makes the lines for the sshd.
    #[arg(
        long, value_name = "PORT", requires = "node",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub(crate) sshd_port: Option<u16>,

    /// How long the code is good
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    pub(crate) expires: Duration,

    /// List the nodes, and the fingerprints of their keys
    #[arg(long, conflicts_with_all = ["remove", "node"])]
    pub(crate) list: bool,

    /// Take a node away: its connections end, and its key opens nothing any more
    #[arg(long, value_name = "NODE", conflicts_with = "node")]
    pub(crate) remove: Option<NodeName>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TokenOptions {
    #[command(flatten)]
    pub(crate) state: StateOption,

    /// List the ids of the tokens, and when they were made
    #[arg(long, conflicts_with = "revoke")]
    pub(crate) list: bool,

    /// Take the token of this id away
    #[arg(long, value_name = "ID")]
    pub(crate) revoke: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct StateOption {
    /// Folder of the hub's state: who holds which port, and hashes of tokens
    ///
    /// By default /var/lib/blockferry for root, and blockferry in $XDG_STATE_HOME or
    /// ~/.local/state for other users.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl StateOption {
    /// The folder.
    ///
    /// # Errors
    /// When it was not named, and there is no home to have it in.
    pub(crate) fn folder(&self) -> anyhow::Result<PathBuf> {
        state::folder(self.state.as_deref(), state::HUB_FOLDER)
            .ok_or_else(|| Refusal::usage("there is no HOME: name the hub's folder with --state"))
    }
}

/// A repository, as `[NAME=]DIR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedFolder {
    pub(crate) name: RepositoryName,
    pub(crate) folder: PathBuf,
}

impl std::str::FromStr for NamedFolder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, folder) = match text.split_once('=') {
            // A folder may have an equals sign in its name.
            Some((name, _)) if name.contains('/') => (DEFAULT_REPOSITORY, text),
            Some(named) => named,
            None => (DEFAULT_REPOSITORY, text),
        };
        if folder.is_empty() {
            return Err("it is a folder, or a name, an equals sign and a folder".to_owned());
        }
        Ok(Self { name: name.parse()?, folder: folder.into() })
    }
}

/// The first and the last port.
#[derive(Clone, Debug)]
pub(crate) struct PortRange(pub(crate) RangeInclusive<u16>);

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

impl std::str::FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ends = text.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match ends {
            Some((first, last)) if 0 < first && first <= last => Ok(Self(first..=last)),
            _ => Err("it is two ports, the lower one first, as 10100-10200".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_a_folder_with_or_without_a_name() {
        let of = |text: &str| {
            text.parse::<NamedFolder>()
                .map(|named| (named.name.to_string(), named.folder.display().to_string()))
        };
        let named = |name: &str, folder: &str| Ok((name.to_owned(), folder.to_owned()));
        assert_eq!(of("/backup"), named("default", "/backup"));
        assert_eq!(of("weekly=/srv/w"), named("weekly", "/srv/w"));
        assert_eq!(of("weekly=a=b"), named("weekly", "a=b"));
        assert_eq!(of("/srv/a=b"), named("default", "/srv/a=b"));
        for wrong in ["", "=", "weekly=", "Weekly=/srv", "../x"] {
            assert_eq!(of(wrong).is_err(), wrong != "../x", "{wrong}");
        }
    }

    #[test]
    fn a_range_of_ports_is_two_ports_the_lower_one_first() {
        let range: PortRange = "10100-10200".parse().unwrap();
        assert_eq!(range.0, 10_100..=10_200);
        assert_eq!(range.to_string(), "10100-10200");
        for wrong in ["", "10100", "2-1", "0-5", "1-65536", "a-b", "1-2-3"] {
            assert!(wrong.parse::<PortRange>().is_err(), "{wrong}");
        }
    }
}
