//! Options that all commands have which move data by themselves.

use std::time::Duration;

use blockferry_dataplane::units::{UnitError, parse_duration, parse_size};
use blockferry_dataplane::{EngineChoice, LaneSettings, MoverSettings};
use clap::Args;
use indicatif::BinaryBytes;

use crate::copy::ProgressChoice;
use crate::exit::Refusal;

const SPEED: &str = "Speed and faults";
const OUTPUT: &str = "Output";
/// Connections a side at most: each is a thread of the server, and takes descriptors here.
pub(crate) const MAX_CONNECTIONS: i64 = 64;

/// How data is moved.
#[derive(Args, Debug)]
pub(crate) struct LaneOptions {
    /// Connections a side at most; more than one only where both sides offer multi-conn
    #[arg(
        short = 'C', long, value_name = "N", default_value = "1", help_heading = SPEED,
        value_parser = clap::value_parser!(u16).range(1..=MAX_CONNECTIONS)
    )]
    connections: u16,

    /// auto, uring (io_uring), or poll (epoll, where io_uring is forbidden)
    #[arg(long, value_name = "ENGINE", default_value = "auto", help_heading = SPEED)]
    engine: EngineChoice,

    /// Bytes a second at most, of all disks together
    #[arg(long, value_name = "SIZE", value_parser = positive_size, help_heading = SPEED)]
    rate_limit: Option<u64>,

    /// A side that gives no answer for this long is connected again by then, or has failed
    #[arg(
        long, value_name = "TIME", default_value = "30s", value_parser = positive_duration,
        help_heading = SPEED
    )]
    deadline: Duration,

    /// Attempts to connect again before a disk fails
    #[arg(long, value_name = "N", default_value = "5", help_heading = SPEED)]
    retries: u32,
}

impl LaneOptions {
    /// Refuses what was chosen here and is not done here: a hub has settings of its own.
    ///
    /// # Errors
    /// Wrong usage, where one is not what it is by itself.
    pub(crate) fn refuse_for_hub(&self) -> anyhow::Result<()> {
        let plain = LaneSettings::default();
        let is_plain = self.connections == plain.connections
            && self.engine == EngineChoice::Auto
            && self.rate_limit.is_none()
            && (self.deadline, self.retries) == (plain.deadline, plain.retries);
        if is_plain {
            return Ok(());
        }
        Err(Refusal::usage(
            "--connections, --engine, --rate-limit, --deadline and --retries are about data that \
             this command moves, and with --hub the hub moves it",
        ))
    }

    /// As settings of each lane.
    pub(crate) fn lane(&self) -> LaneSettings {
        LaneSettings {
            connections: self.connections,
            deadline: self.deadline,
            retries: self.retries,
            ..LaneSettings::default()
        }
    }

    /// As settings of all lanes together.
    pub(crate) fn mover(&self) -> MoverSettings {
        MoverSettings {
            engine: self.engine,
            rate_limit: self.rate_limit,
            ..MoverSettings::default()
        }
    }
}

/// What is shown.
#[derive(Args, Debug)]
pub(crate) struct OutputOptions {
    /// Show no progress bar; without a terminal there is none anyway
    #[arg(short, long, help_heading = OUTPUT)]
    quiet: bool,

    /// Say what is done and why, and what was connected again
    #[arg(short, long, help_heading = OUTPUT)]
    pub(crate) verbose: bool,

    /// Print one JSON object to standard output at the end, also of a failure
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,
}

impl OutputOptions {
    /// The progress display: a bar, on a terminal only.
    pub(crate) fn progress(&self) -> Option<ProgressChoice> {
        use std::io::IsTerminal;
        (!self.quiet && std::io::stderr().is_terminal()).then_some(ProgressChoice::Bar)
    }
}

/// A size that is not 0.
pub(crate) fn positive_size(text: &str) -> Result<u64, String> {
    positive(parse_size(text), 0)
}

/// A time that is not 0.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    positive(parse_duration(text), Duration::ZERO)
}

/// A window of an SSH channel: a packet at least.
pub(crate) fn window(text: &str) -> Result<u32, String> {
    within(text, 32 << 10, 1 << 30)
}

/// What passes under one session key: RFC 4253 wants no more than a gigabyte.
pub(crate) fn rekey(text: &str) -> Result<usize, String> {
    within(text, 1 << 20, 1 << 30)
}

fn within<T: TryFrom<u64>>(text: &str, least: u64, most: u64) -> Result<T, String> {
    let size = parse_size(text).map_err(|error| error.to_string())?;
    let within = Some(size).filter(|size| (least..=most).contains(size));
    within
        .and_then(|size| T::try_from(size).ok())
        .ok_or_else(|| format!("it has to be from {} to {}", BinaryBytes(least), BinaryBytes(most)))
}

fn positive<T: PartialEq>(parsed: Result<T, UnitError>, zero: T) -> Result<T, String> {
    match parsed {
        Ok(value) if value == zero => Err("it must be more than 0".into()),
        other => other.map_err(|error| error.to_string()),
    }
}
