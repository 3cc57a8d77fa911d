//! The options of `bench`.

use std::path::PathBuf;
use std::time::Duration;

use blockferry_control::bench::{SourceData, TargetKind, Way};
use blockferry_dataplane::{EngineChoice, LaneSettings, MoverSettings, PayloadChoice};
use clap::{Args, Subcommand};

use crate::copy::{DigestChoice, digest};
use crate::exit::Refusal;
use crate::lane_options::{MAX_CONNECTIONS, OutputOptions, positive_duration, positive_size};

/// Shown below the options.
pub(crate) const EXAMPLES: &str = "\
Examples:
  blockferry bench lane --dir /backup          one disk, into an image on that file system
  blockferry bench fleet                       101 disks at once
  blockferry bench tunnel --plot tunnel.svg    SSH on this machine: what its processors carry";

const LANE_EXAMPLES: &str = "\
Examples:
  What one disk makes, into an image on the storage that backups go to:
    blockferry bench lane --dir /backup --size 4G

  The same without a disk at its end, and with digests, as a picture too:
    blockferry bench lane --target null --digest blake3 --plot lane.svg

  For programs, with every sample:
    blockferry bench lane --json --csv lane.csv";

const FLEET_EXAMPLES: &str = "\
Examples:
  101 disks at once, into images on the storage that backups go to:
    blockferry bench fleet --dir /backup

  A few large ones, and what each of them made:
    blockferry bench fleet --disks 8 --size 2G --json";

const TUNNEL_EXAMPLES: &str = "\
Examples:
  What SSH costs here: our tunnel, the OpenSSH client and plain TCP, on servers of its own:
    blockferry bench tunnel --connections 1,2,4 --lanes 1,4,16 --plot tunnel.svg

  What the way to the hub carries, for half a minute, into an export that may be written over:
    blockferry bench tunnel --tunnel ssh://backup@hub --identity node.key --known-hosts hub.keys \\
        --target nbd://127.0.0.1:10100/scratch --overwrite --lanes 16 --connections 4 --seconds 30

  For programs, with every sample of every connection:
    blockferry bench tunnel --json --csv tunnel.csv";

const WHAT: &str = "What to measure";
const FAR: &str = "The far end";
const HOW: &str = "How data is moved";
const FILES: &str = "Files";

/// Disks at once at most: what a hub has ports for.
const MAX_DISKS: i64 = 101;
/// Bytes of a disk at most: nbdkit and qcow2 take no more.
const MAX_SIZE: u64 = 1 << 60;
/// Where systems keep temporary files that may be large; the other one often is memory.
const LARGE_TEMPORARY_FILES: &str = "/var/tmp";

#[derive(Args, Debug)]
pub(crate) struct BenchOptions {
    #[command(subcommand)]
    pub(crate) what: Bench,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Measure one disk, on servers that are started for it
    ///
    /// Needs nbdkit and, for images, qemu-nbd and qemu-img. Each round writes a fresh image.
    #[command(after_help = LANE_EXAMPLES)]
    Lane(LaneBenchOptions),
    /// Measure many disks at once, on servers that are started for them
    ///
    /// Needs nbdkit and, for images, qemu-nbd and qemu-img: two processes for each disk.
    #[command(after_help = FLEET_EXAMPLES)]
    Fleet(FleetBenchOptions),
    /// Measure what an SSH tunnel carries, beside ssh -L and plain TCP
    ///
    /// Without --tunnel, to an sshd and a server that forgets, both started for it on loopback:
    /// needs nbdkit and openssh-server. With it, into a real export, which is written over.
    #[command(after_help = TUNNEL_EXAMPLES)]
    Tunnel(Box<TunnelBenchOptions>),
}

#[derive(Args, Debug)]
pub(crate) struct LaneBenchOptions {
    /// Bytes of the disk
    #[arg(
        long, value_name = "SIZE", default_value = "1G", value_parser = disk_size,
        help_heading = WHAT
    )]
    pub(crate) size: u64,

    #[command(flatten)]
    pub(crate) disks: DiskOptions,

    #[command(flatten)]
    pub(crate) moving: MovingOptions,

    #[command(flatten)]
    pub(crate) files: FileOptions,

    #[command(flatten)]
    pub(crate) output: OutputOptions,
}

#[derive(Args, Debug)]
pub(crate) struct FleetBenchOptions {
    /// Disks at once
    #[arg(
        long, value_name = "N", default_value = "101", help_heading = WHAT,
        value_parser = clap::value_parser!(u16).range(1..=MAX_DISKS)
    )]
    pub(crate) disks: u16,

    /// Bytes of each disk
    #[arg(
        long, value_name = "SIZE", default_value = "32M", value_parser = disk_size,
        help_heading = WHAT
    )]
    pub(crate) size: u64,

    #[command(flatten)]
    pub(crate) each: DiskOptions,

    #[command(flatten)]
    pub(crate) moving: MovingOptions,

    #[command(flatten)]
    pub(crate) files: FileOptions,

    #[command(flatten)]
    pub(crate) output: OutputOptions,
}

#[derive(Args, Debug)]
pub(crate) struct TunnelBenchOptions {
    /// Numbers of connections, each of which is measured
    ///
    /// A lane is carried by one connection, so there are never more of them than lanes.
    #[arg(
        long, value_name = "N,...", default_value = "1,2,4", value_delimiter = ',',
        value_parser = clap::value_parser!(u16).range(1..=MAX_CONNECTIONS), help_heading = WHAT
    )]
    pub(crate) connections: Vec<u16>,

    /// Numbers of lanes, each of which is measured
    #[arg(
        long, value_name = "N,...", default_value = "1,4,16", value_delimiter = ',',
        value_parser = clap::value_parser!(u16).range(1..=MAX_DISKS), help_heading = WHAT
    )]
    pub(crate) lanes: Vec<u16>,

    /// Ways to compare: tunnel (ours), ssh (ssh -L), tcp (plain TCP, where the target can be
    /// reached so)
    #[arg(
        long, value_name = "WAY,...", default_value = "tunnel,ssh,tcp", value_delimiter = ',',
        value_parser = way, help_heading = WHAT
    )]
    pub(crate) ways: Vec<Way>,

    /// How long each run takes
    #[arg(
        long, value_name = "N", default_value = "5", conflicts_with = "size",
        value_parser = clap::value_parser!(u32).range(1..=86_400), help_heading = WHAT
    )]
    pub(crate) seconds: u32,

    /// How much each run moves, of all lanes together, however long it takes
    #[arg(long, value_name = "SIZE", value_parser = disk_size, help_heading = WHAT)]
    pub(crate) size: Option<u64>,

    /// What is sent: pattern (quickly made) or random (which takes the source more CPU)
    #[arg(
        long, value_name = "KIND", default_value = "pattern", value_parser = data,
        help_heading = WHAT
    )]
    pub(crate) data: SourceData,

    /// Measure the way to this SSH server; if not given, to one that is started on loopback
    #[arg(
        long, value_name = "ssh://[USER@]HOST[:PORT]", requires = "target", help_heading = FAR
    )]
    // Parsed later: clap would repeat a password that was written into it.
    pub(crate) tunnel: Option<String>,

    /// The private key for --tunnel, without a passphrase; ~/.ssh/id_ed25519 if not given
    #[arg(long, value_name = "KEY", requires = "tunnel", help_heading = FAR)]
    pub(crate) identity: Option<PathBuf>,

    /// Where the server's key stands already; ~/.ssh/known_hosts if not given
    #[arg(long, value_name = "FILE", requires = "tunnel", help_heading = FAR)]
    pub(crate) known_hosts: Option<PathBuf>,

    /// The export that is written over, as an NBD URI as seen from there
    #[arg(long, value_name = "URI", requires = "tunnel", help_heading = FAR)]
    pub(crate) target: Option<String>,

    /// Yes, what --target holds may be destroyed
    #[arg(long, requires = "target", help_heading = FAR)]
    pub(crate) overwrite: bool,

    /// The sshd that is started where there is no --tunnel, by name or path
    #[arg(
        long, value_name = "PROGRAM", default_value = "sshd", conflicts_with = "tunnel",
        help_heading = FAR
    )]
    pub(crate) sshd: String,

    #[command(flatten)]
    pub(crate) moving: MovingOptions,

    #[command(flatten)]
    pub(crate) files: FileOptions,

    #[command(flatten)]
    pub(crate) output: OutputOptions,
}

/// What `lane` and `fleet` have in common.
#[derive(Args, Debug)]
pub(crate) struct DiskOptions {
    /// How often it is measured
    #[arg(
        long, value_name = "N", default_value = "3", help_heading = WHAT,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    pub(crate) rounds: u32,

    /// qcow2 (an image and an export, as backups have them) or null (a server that forgets)
    #[arg(
        long, value_name = "KIND", default_value = "qcow2", value_parser = target,
        help_heading = WHAT
    )]
    pub(crate) target: TargetKind,

    /// Where the images go, in a private folder that is removed at the end
    ///
    /// If not given: TMPDIR, or /var/tmp, which should be a disk rather than memory.
    #[arg(long, value_name = "DIR", help_heading = WHAT)]
    dir: Option<PathBuf>,

    /// What is read: pattern (quickly made) or random (which takes the source more CPU)
    #[arg(
        long, value_name = "KIND", default_value = "pattern", value_parser = data,
        help_heading = WHAT
    )]
    pub(crate) data: SourceData,
}

impl DiskOptions {
    /// The folder that the private one is made in.
    pub(super) fn dir(&self) -> anyhow::Result<PathBuf> {
        let set = || std::env::var_os("TMPDIR").map(PathBuf::from);
        let dir = self.dir.clone().or_else(set).unwrap_or_else(|| LARGE_TEMPORARY_FILES.into());
        if !dir.is_dir() {
            return Err(Refusal::usage(format!(
                "{} is no folder: name one by --dir that the images can go to",
                dir.display()
            )));
        }
        Ok(dir)
    }
}

/// How data is moved.
#[derive(Args, Debug)]
pub(crate) struct MovingOptions {
    /// auto, splice (never in user space), or pooled (where zeros are found and digests made)
    #[arg(long, value_name = "PATH", default_value = "auto", help_heading = HOW)]
    pub(super) payload: PayloadChoice,

    /// auto, uring (io_uring), or poll (epoll, where io_uring is forbidden)
    #[arg(long, value_name = "ENGINE", default_value = "auto", help_heading = HOW)]
    engine: EngineChoice,

    /// Make a digest of each 64 KiB that is moved: none, crc32c, xxh3 or blake3
    #[arg(
        long, value_name = "NAME", default_value = "none", value_parser = digest,
        help_heading = HOW
    )]
    pub(super) digest: DigestChoice,

    /// A side that gives no answer for this long has failed
    #[arg(
        long, value_name = "TIME", default_value = "30s", value_parser = positive_duration,
        help_heading = HOW
    )]
    pub(super) deadline: Duration,
}

impl MovingOptions {
    /// As settings of each lane.
    ///
    /// # Errors
    /// What does not go together.
    pub(super) fn lane(&self) -> anyhow::Result<LaneSettings> {
        if self.digest.0.is_some() && self.payload == PayloadChoice::Splice {
            return Err(Refusal::usage(
                "--digest has to look at the payload, which --payload splice does not: take auto \
                 or pooled",
            ));
        }
        Ok(LaneSettings {
            payload: self.payload,
            digest: self.digest.0,
            deadline: self.deadline,
            ..LaneSettings::default()
        })
    }

    /// As settings of all lanes together.
    pub(super) fn mover(&self) -> MoverSettings {
        MoverSettings { engine: self.engine, ..MoverSettings::default() }
    }
}

/// What is written beside the table.
#[derive(Args, Debug)]
pub(crate) struct FileOptions {
    /// Write a line for each sample to this file
    #[arg(long, value_name = "FILE", help_heading = FILES)]
    pub(super) csv: Option<PathBuf>,

    /// Draw what was measured into this file, as SVG
    #[arg(long, value_name = "FILE.svg", help_heading = FILES)]
    pub(super) plot: Option<PathBuf>,

    /// Time between two samples
    #[arg(
        long, value_name = "TIME", default_value = "250ms", value_parser = sample_time,
        help_heading = FILES
    )]
    pub(super) sample: Duration,
}

impl FileOptions {
    /// Refuses what could not be written at the end.
    ///
    /// # Errors
    /// A folder that is not there, or a name that is one.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        for (option, path) in [("--csv", &self.csv), ("--plot", &self.plot)] {
            let Some(path) = path else { continue };
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            if path.is_dir() || folder.is_some_and(|folder| !folder.is_dir()) {
                return Err(Refusal::usage(format!(
                    "{option} {}: it has to be a file in a folder that is there",
                    path.display()
                )));
            }
        }
        if self.csv.is_some() && self.csv == self.plot {
            return Err(Refusal::usage("--csv and --plot name the same file: take two"));
        }
        Ok(())
    }
}

fn data(text: &str) -> Result<SourceData, String> {
    [SourceData::Pattern, SourceData::Random]
        .into_iter()
        .find(|data| data.word() == text)
        .ok_or_else(|| "write pattern or random".into())
}

fn target(text: &str) -> Result<TargetKind, String> {
    [TargetKind::Qcow2, TargetKind::Null]
        .into_iter()
        .find(|kind| kind.word() == text)
        .ok_or_else(|| "write qcow2 or null".into())
}

fn way(text: &str) -> Result<Way, String> {
    match text {
        "tunnel" => Ok(Way::Tunnel),
        "ssh" => Ok(Way::Ssh),
        "tcp" => Ok(Way::Tcp),
        _ => Err("write tunnel, ssh or tcp, or several of them with commas between".into()),
    }
}

/// Whole sectors, which is what images and exports have.
fn disk_size(text: &str) -> Result<u64, String> {
    match positive_size(text)? {
        size if size % 512 != 0 => Err("it must be a multiple of 512".into()),
        size if size > MAX_SIZE => Err("it must be 1E or less".into()),
        size => Ok(size),
    }
}

fn sample_time(text: &str) -> Result<Duration, String> {
    let (least, most) = (Duration::from_millis(10), Duration::from_secs(60));
    match positive_duration(text)? {
        time if (least..=most).contains(&time) => Ok(time),
        _ => Err("it must be from 10ms to 1m".into()),
    }
}
