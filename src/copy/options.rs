//! The options of `copy`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use blockferry_dataplane::digest::DigestAlgorithm;
use blockferry_dataplane::units::{parse_duration, parse_size};
use blockferry_dataplane::{EngineChoice, PayloadChoice};
use clap::Args;

/// Shown below the options.
pub(crate) const EXAMPLES: &str = "\
Examples:
  Download a disk, upload one, look at the speed of a server:
    blockferry copy nbd://server/disk disk.img
    blockferry copy -p /dev/vg/disk 'nbd+unix:///?socket=/run/nbd.sock'
    blockferry copy -v nbd://server/disk null:

  Run the servers for the time of the copy (after -- options are theirs in nbdcopy too):
    blockferry copy -- [ qemu-nbd -r -f qcow2 old.qcow2 ] [ qemu-nbd -f qcow2 new.qcow2 ]
    zcat disk.gz | blockferry copy -- - [ qemu-nbd -f qcow2 disk.qcow2 ]

  Copy what changed, with digests of what was moved, and go on after an interruption:
    blockferry copy --changed areas.json nbd://esx/disk nbd://hub:10100/disk
    blockferry copy --digest xxh3 --manifest disk.digests --resume disk.journal SOURCE TARGET

  Write only what differs from what the target holds, by the digests of the last copy to it:
    blockferry copy --digest blake3 --manifest monday.digests SOURCE TARGET
    blockferry copy --digest blake3 --base-manifest monday.digests --manifest tuesday.digests \
        SOURCE TARGET

  Copy into an export at the far end of an SSH connection, which only that end can see:
    blockferry copy --tunnel ssh://backup@hub --identity node.key --known-hosts hub.keys \
        nbd://esx/disk nbd://127.0.0.1:10100/disk

  Copy many disks at once, for a program:
    blockferry copy --lanes lanes.jsonl --json
  with a line for each disk in lanes.jsonl:
    {\"source\": \"nbd://esx/a\", \"target\": \"nbd://hub:10100/a\", \"changed\": \"a.json\"}";

/// Connections a side at most: each is a thread of the server, and takes descriptors here.
const MAX_CONNECTIONS: u16 = 64;

/// Bytes of the shortest request, as nbdcopy has it.
pub(crate) const LEAST_REQUEST: u32 = 4096;

const WHAT: &str = "What to copy";
const ZEROS: &str = "Zeros";
const TUNNEL: &str = "Through SSH";
const SPEED: &str = "Speed and memory";
const SAFETY: &str = "Safety";
const FAULTS: &str = "Faults";
const OUTPUT: &str = "Output";

#[derive(Args, Debug)]
pub(crate) struct CopyOptions {
    /// What is read: - (standard input), a file, a block device, an NBD URI, or [ COMMAND ... ]
    ///
    /// A command between brackets, which must be words of their own, is run as an NBD server for
    /// the time of the copy. It gets its socket by systemd's socket activation, as qemu-nbd and
    /// nbdkit know it.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: Option<OsString>,

    /// What is written: as SOURCE, or null: to throw everything away
    ///
    /// A regular file is created, or gets the size of the source: with --changed, --bitmap or
    /// --resume what it holds stays otherwise, and what lies behind that size is cut off. A block
    /// device must not be smaller than the source.
    #[arg(value_name = "TARGET")]
    pub(crate) target: Option<OsString>,

    /// Copy many disks at once: a JSON object a line, {"source", "target", "changed"?}
    ///
    /// "source" and "target" are written as SOURCE and TARGET, but for - and brackets; "changed"
    /// is the path of a file as --changed takes it. Paths are relative to the current folder. -
    /// reads the lines from standard input.
    #[arg(long, value_name = "FILE", help_heading = WHAT)]
    pub(crate) lanes: Option<PathBuf>,

    /// Copy only these areas: JSON, [{"start": bytes, "length": bytes}, ...]
    #[arg(long, value_name = "FILE", help_heading = WHAT, conflicts_with_all = ["bitmap", "lanes"])]
    pub(crate) changed: Option<PathBuf>,

    /// Copy only what this dirty bitmap of the source marks (qemu-nbd --bitmap=NAME)
    #[arg(long, value_name = "NAME", help_heading = WHAT)]
    pub(crate) bitmap: Option<String>,

    /// Bytes of the disk, where the source serves it rounded up, as qemu does to 512
    ///
    /// All that the source has behind this size is left out: a file as TARGET gets exactly it.
    #[arg(
        long, value_name = "SIZE", value_parser = positive_size, help_heading = WHAT,
        conflicts_with = "lanes"
    )]
    pub(crate) source_size: Option<u64>,

    /// Give [ COMMAND ... ] its connection as standard input and output, as nbdkit -s wants it
    #[arg(long, help_heading = WHAT)]
    pub(crate) server_stdio: bool,

    /// Reach TARGET through SSH connections to this server: TARGET is a URI as seen from there
    ///
    /// Nothing listens on this machine for it. A connection that is lost is made again, and the copy
    /// goes on with what was not safe.
    #[arg(long, value_name = "ssh://[USER@]HOST[:PORT]", group = "way", help_heading = TUNNEL)]
    // Parsed later: clap would repeat a password that was written into it.
    pub(crate) tunnel: Option<String>,

    /// Reach TARGET as the node that this machine is (`node enroll`), in place of --tunnel
    ///
    /// DIR is the node's folder, where it is not the usual one.
    #[arg(
        long, value_name = "DIR", num_args = 0..=1, require_equals = true, help_heading = TUNNEL,
        group = "way", conflicts_with_all = ["tunnel", "identity", "known_hosts"]
    )]
    pub(crate) node: Option<Option<PathBuf>>,

    /// The private key for --tunnel, without a passphrase; ~/.ssh/id_ed25519 if not given
    #[arg(long, value_name = "KEY", requires = "tunnel", help_heading = TUNNEL)]
    pub(crate) identity: Option<PathBuf>,

    /// Where the server's key stands already; ~/.ssh/known_hosts if not given
    ///
    /// The format is OpenSSH's. A server that is not in it is refused; nobody is asked.
    #[arg(long, value_name = "FILE", requires = "tunnel", help_heading = TUNNEL)]
    pub(crate) known_hosts: Option<PathBuf>,

    /// SSH connections at most; lanes, and the connections of a lane, are spread over them
    #[arg(
        long, value_name = "N", default_value = "4", value_parser = connections, requires = "way",
        help_heading = TUNNEL
    )]
    pub(crate) tunnel_connections: u16,

    /// Keep zeros allocated on the target: no holes
    #[arg(long, help_heading = ZEROS)]
    pub(crate) allocated: bool,

    /// Take it that the target reads as zeros already, and skip zeros
    ///
    /// Wrong content if that is not so. For a new image without a backing file it is so.
    #[arg(long, visible_alias = "target-is-zero", help_heading = ZEROS)]
    pub(crate) destination_is_zero: bool,

    /// Do not ask the source where it is zero: read everything
    #[arg(long, help_heading = ZEROS)]
    pub(crate) no_extents: bool,

    /// Find runs of zeros of this many bytes in what was read; a power of two from 512, or 0: never
    ///
    /// Without this option zeros are found, 4096 bytes at a time, where the payload passes through
    /// user space anyway.
    #[arg(short = 'S', long, value_name = "SIZE", value_parser = sparse, help_heading = ZEROS)]
    pub(crate) sparse: Option<u32>,

    /// Cluster of the target's image; areas are rounded out to it
    ///
    /// A power of two. A write that covers whole clusters never makes the server read the layer
    /// below.
    #[arg(
        long, value_name = "SIZE", default_value = "64k", value_parser = cluster, help_heading = ZEROS
    )]
    pub(crate) cluster_size: u32,

    /// Connections a side at most; more than one only where both sides offer multi-conn
    ///
    /// 4 for one disk through a tunnel, since what sshd lets one have on its way is little over a
    /// distance; else 1.
    #[arg(
        short = 'C', long, value_name = "N", value_parser = connections,
        allow_negative_numbers = true, help_heading = SPEED
    )]
    pub(crate) connections: Option<u16>,

    /// Requests in flight on a connection at most
    #[arg(
        short = 'R', long, value_name = "N", default_value = "16", value_parser = count,
        allow_negative_numbers = true, help_heading = SPEED
    )]
    pub(crate) requests: u16,

    /// Threads that move data; 0: one for each processor
    #[arg(
        short = 'T', long, value_name = "N", default_value = "0", value_parser = threads,
        allow_negative_numbers = true, help_heading = SPEED
    )]
    pub(crate) threads: u64,

    /// Bytes of a request, or between what it adapts to what is measured (as 64k-4M)
    ///
    /// Powers of two from 4096 to 32M. Without it, requests adapt between 256k and 2M.
    #[arg(
        long, value_name = "SIZE", default_value = "256k-2M", value_parser = request_size,
        help_heading = SPEED
    )]
    pub(crate) request_size: RequestSize,

    /// Bytes in flight on a lane at most; it starts with 8M and takes more where that is faster
    ///
    /// Requests that adapt are no longer than that. Of a given --request-size one is always in flight.
    #[arg(
        long, value_name = "SIZE", default_value = "16M", value_parser = parse_size,
        help_heading = SPEED
    )]
    pub(crate) queue_size: u64,

    /// One request at a time, in order, for servers that cannot do more
    #[arg(long, help_heading = SPEED)]
    pub(crate) synchronous: bool,

    /// auto, uring (io_uring), or poll (epoll, where io_uring is forbidden)
    #[arg(long, value_name = "ENGINE", default_value = "auto", help_heading = SPEED)]
    pub(crate) engine: EngineChoice,

    /// auto, splice (never in user space), or pooled (where zeros are found and digests made)
    #[arg(long, value_name = "PATH", default_value = "auto", help_heading = SPEED)]
    pub(crate) payload: PayloadChoice,

    /// Bytes a second at most, of all lanes together, which take turns
    ///
    /// Requests are then no longer than what comes in a sixteenth of a second, or a cluster.
    #[arg(long, value_name = "SIZE", value_parser = positive_size, help_heading = SPEED)]
    pub(crate) rate_limit: Option<u64>,

    /// Memory of all buffers together
    ///
    /// Each thread needs two requests of it, 1M at least: there are fewer threads where it is not
    /// enough for all.
    #[arg(
        long, value_name = "SIZE", default_value = "64M", value_parser = memory, help_heading = SPEED
    )]
    pub(crate) memory: usize,

    /// Lanes at work at once; the others wait in their order
    #[arg(long, value_name = "N", default_value = "128", value_parser = count, help_heading = SPEED)]
    pub(crate) max_lanes: u16,

    /// Flush the target at the end; done with or without this option, as nbdcopy does it with
    #[arg(long, help_heading = SAFETY)]
    pub(crate) flush: bool,

    /// Flush the target at least this often, which is what --resume can build on
    #[arg(
        long, value_name = "TIME", default_value = "30s", value_parser = parse_duration,
        help_heading = SAFETY
    )]
    pub(crate) flush_interval: Duration,

    /// Make a digest of each 64 KiB that is moved: none, crc32c, xxh3 or blake3
    #[arg(
        long, value_name = "NAME", default_value = "none", value_parser = digest,
        help_heading = SAFETY
    )]
    pub(crate) digest: DigestChoice,

    /// Write the digests to this file; with --lanes, to 0.manifest, 1.manifest ... in this folder
    ///
    /// An older manifest there is replaced at the end; any other file is left alone, and refused.
    #[arg(long, value_name = "FILE", help_heading = SAFETY)]
    pub(crate) manifest: Option<PathBuf>,

    /// Do not write blocks of 64 KiB that have the digest which this manifest has of them
    ///
    /// It says what the target holds already: TARGET itself, or what the image behind it stands
    /// on, as a new layer over the one that the manifest was written with. All is read that block
    /// status does not tell to be zero, and only what differs is sent. Wrong content if the target
    /// holds something else. Needs --digest blake3.
    #[arg(long, value_name = "FILE", help_heading = SAFETY, conflicts_with = "lanes")]
    pub(crate) base_manifest: Option<PathBuf>,

    /// Note in this file what is safe on the target, and do not move that again
    ///
    /// The same command goes on where the last run was stopped, with its --manifest too. A journal
    /// of another source or target is refused, and one of a file that was written since. Of devices
    /// and exports nobody can tell that: they must not change between the runs, as a snapshot does
    /// not. With --lanes, a folder with 0.journal, 1.journal ... in the order of the lanes, which are
    /// removed when all lanes are done.
    #[arg(long, value_name = "JOURNAL", help_heading = SAFETY)]
    pub(crate) resume: Option<PathBuf>,

    /// A side that gives no answer for this long is connected again by then, or has failed
    ///
    /// After half of this time a second connection is made beside the silent one, which is kept:
    /// a server that only takes its time is not given up. When the time is over the second one
    /// goes on if it was answered; else the lane fails. Bytes that pass count as an answer, unless
    /// they are fewer than --least-rate.
    #[arg(
        long, value_name = "TIME", default_value = "30s", value_parser = positive_duration,
        help_heading = FAULTS
    )]
    pub(crate) deadline: Duration,

    /// Bytes a second below which what passes is no sign of life
    ///
    /// A side that completes no answer and moves less than this within --deadline is treated as
    /// one that is silent. 0: any byte will do.
    #[arg(
        long, value_name = "SIZE", default_value = "4k", value_parser = parse_size,
        help_heading = FAULTS
    )]
    pub(crate) least_rate: u64,

    /// Attempts to connect again before a lane fails
    #[arg(long, value_name = "N", default_value = "5", help_heading = FAULTS)]
    pub(crate) retries: u32,

    /// Wait before the first such attempt; it doubles with each
    #[arg(
        long, value_name = "TIME", default_value = "100ms", value_parser = parse_duration,
        help_heading = FAULTS
    )]
    pub(crate) backoff: Duration,

    /// Show a progress bar, or write N/100 lines to a file descriptor
    ///
    /// The bar needs a terminal; elsewhere a plain line comes every ten seconds.
    #[arg(
        short, long, value_name = "FD", num_args = 0..=1, require_equals = true,
        default_missing_value = "bar", value_parser = progress, help_heading = OUTPUT
    )]
    pub(crate) progress: Option<ProgressChoice>,

    /// Say what was chosen and why, what was connected again, and how it went
    #[arg(short, long, help_heading = OUTPUT)]
    pub(crate) verbose: bool,

    /// Print a report as one JSON object to standard output at the end, also of a failure
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,
}

/// What `--progress` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgressChoice {
    /// For people, on standard error.
    Bar,
    /// For programs, on this descriptor.
    Descriptor(i32),
}

/// What `--digest` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DigestChoice(pub(crate) Option<DigestAlgorithm>);

fn progress(text: &str) -> Result<ProgressChoice, String> {
    match text {
        "bar" => Ok(ProgressChoice::Bar),
        number => match number.parse() {
            Ok(descriptor) if descriptor >= 0 => Ok(ProgressChoice::Descriptor(descriptor)),
            _ => Err("write the number of an open file descriptor".into()),
        },
    }
}

/// Reads what `--digest` asks for.
pub(crate) fn digest(text: &str) -> Result<DigestChoice, String> {
    DigestAlgorithm::parse_choice(text).map(DigestChoice).map_err(|error| error.to_string())
}

/// A number from 1; one that is larger than what could ever be used is as good as the largest, as
/// it is for nbdcopy.
fn count(text: &str) -> Result<u16, String> {
    match number(text) {
        Some(0) | None => Err("write a whole number, 1 or more".into()),
        Some(number) => Ok(u16::try_from(number).unwrap_or(u16::MAX)),
    }
}

fn threads(text: &str) -> Result<u64, String> {
    number(text).ok_or_else(|| "write a whole number".into())
}

/// A number as scanf(3) reads it for nbdcopy: blanks around it are nothing, and one below zero is a
/// very large one.
fn number(text: &str) -> Option<u64> {
    let text = text.trim_ascii();
    match text.strip_prefix('-') {
        Some(digits) => digits.parse().ok().map(|below: u64| below.wrapping_neg()),
        None => text.parse().ok(),
    }
}

fn connections(text: &str) -> Result<u16, String> {
    count(text).map(|number| number.min(MAX_CONNECTIONS))
}

fn positive_size(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Ok(0) => Err("it must be more than 0".into()),
        size => size.map_err(|error| error.to_string()),
    }
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be more than 0".into()),
        duration => duration.map_err(|error| error.to_string()),
    }
}

fn memory(text: &str) -> Result<usize, String> {
    usize::try_from(positive_size(text)?).map_err(|_| "more than this machine can address".into())
}

/// Bytes of a request: the least and the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestSize {
    pub(crate) least: u32,
    pub(crate) most: u32,
}

impl RequestSize {
    /// The one length, where nothing is left to be adapted.
    pub(crate) fn fixed(self) -> Option<u32> {
        (self.least == self.most).then_some(self.most)
    }
}

fn request_size(text: &str) -> Result<RequestSize, String> {
    let (least, most) = text.split_once('-').unwrap_or((text, text));
    let size = |text| power_of_two(text, LEAST_REQUEST, 32 << 20);
    match (size(least), size(most)) {
        (Some(least), Some(most)) if least <= most => Ok(RequestSize { least, most }),
        _ => Err("write a power of two from 4096 to 32M, which is the most that NBD servers \
                  take, or two of them with a dash between, the smaller first"
            .into()),
    }
}

fn sparse(text: &str) -> Result<u32, String> {
    match power_of_two(text, 512, 1 << 31) {
        Some(size) => Ok(size),
        None if parse_size(text) == Ok(0) => Ok(0),
        None => Err("write a power of two from 512, or 0 to find no zeros".into()),
    }
}

fn cluster(text: &str) -> Result<u32, String> {
    power_of_two(text, 512, 32 << 20)
        .ok_or_else(|| "write the cluster of the image: a power of two from 512 to 32M".into())
}

fn power_of_two(text: &str, smallest: u32, largest: u32) -> Option<u32> {
    let size = u32::try_from(parse_size(text).ok()?).ok()?;
    Some(size).filter(|size| size.is_power_of_two() && (smallest..=largest).contains(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_sizes_have_the_limits_of_nbdcopy() {
        for (text, size) in [("4096", 4096), ("64k", 65536), ("32M", 32 << 20)] {
            assert_eq!(request_size(text).unwrap().fixed(), Some(size));
        }
        for text in ["0", "512", "4095", "4097", "64M", "x", "", "-1", "100k"] {
            assert!(request_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sparse_is_a_power_of_two_or_off() {
        assert_eq!([sparse("0"), sparse("512"), sparse("1M")], [Ok(0), Ok(512), Ok(1 << 20)]);
        for text in ["1", "256", "4095", "4G", "x", ""] {
            assert!(sparse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_beyond_reason_are_the_largest() {
        assert_eq!([count("1"), count("1000000000000")], [Ok(1), Ok(u16::MAX)]);
        assert_eq!([count("-1"), count(" 4 "), count("+4")], [Ok(u16::MAX), Ok(4), Ok(4)]);
        for text in ["0", "-0", "x", "", " ", "-", "--1", "- 1", "4 5"] {
            assert!(count(text).is_err(), "{text}");
        }
        assert_eq!([threads("0"), threads("-1")], [Ok(0), Ok(u64::MAX)]);
    }

    #[test]
    fn progress_takes_a_descriptor() {
        assert_eq!(progress("3"), Ok(ProgressChoice::Descriptor(3)));
        for text in ["", "x", "-1", "99999999999"] {
            assert!(progress(text).is_err(), "{text}");
        }
    }
}
