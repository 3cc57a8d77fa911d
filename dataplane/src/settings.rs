//! Settings of lanes and of the mover, with their defaults and units.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::digest::DigestAlgorithm;
use crate::engine::EngineChoice;
use crate::manifest::Manifest;
use crate::plan::AreaSet;

/// How the payload travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PayloadChoice {
    /// `splice` where nothing has to be looked at and both sides are sockets; else `pooled`.
    #[default]
    Auto,
    /// Socket to pipe to socket, never in user space.
    Splice,
    /// Through pooled buffers, where zeros can be found and digests made.
    Pooled,
}

impl FromStr for PayloadChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "splice" => Ok(Self::Splice),
            "pooled" => Ok(Self::Pooled),
            _ => Err(format!("no payload path is called '{text}': use auto, splice or pooled")),
        }
    }
}

/// Which bytes of the source a lane moves.
#[derive(Clone, Debug, Default)]
pub enum Extent {
    /// All.
    #[default]
    Whole,
    /// These areas; they must lie inside the source.
    Areas(AreaSet),
    /// What a dirty bitmap of the source marks (`qemu:dirty-bitmap:NAME`).
    Bitmap(String),
}

/// How a lane does its work. The defaults are what `blockferry copy` does.
#[derive(Clone, Debug)]
pub struct LaneSettings {
    /// What to move.
    pub extent: Extent,
    /// Bytes of the disk, where the source serves it rounded up, as qemu does to 512: the lane
    /// takes it that the source ends there. A source that is smaller has failed. `None`: what the
    /// source says of itself.
    pub source_bytes: Option<u64>,
    /// Bytes that the source has to serve, for whoever has looked at it before: one that serves
    /// another number has changed since, and the lane fails, of the source. `None`: any.
    pub expected_bytes: Option<u64>,
    /// Connections a side at most; more than one only where both sides advertise `MULTI_CONN`.
    pub connections: u16,
    /// Bytes of one request; `None` adapts to what is measured.
    pub request_bytes: Option<u32>,
    /// Between what adapting stays, in bytes.
    pub adapt_bytes: RangeInclusive<u32>,
    /// Requests in flight on a connection at most.
    pub requests: u16,
    /// Bytes in flight on a lane at most.
    pub in_flight_bytes: u64,
    /// One request at a time, in order.
    pub synchronous: bool,
    /// How the payload travels.
    pub payload: PayloadChoice,
    /// Ask the source for its block status, so that zeros need not be read.
    pub extents: bool,
    /// The target reads as zeros already: zeros are skipped. Unsafe if that is not so.
    pub target_is_zero: bool,
    /// Zeros stay allocated on the target.
    pub allocated: bool,
    /// Find runs of zeros of this many bytes in what was read; `None`: only where the payload is
    /// looked at anyway, at 4096 bytes; `Some(0)`: never.
    pub sparse_bytes: Option<u32>,
    /// Cluster of the target's image, in bytes: areas are rounded out to it, so that a write never
    /// makes the target read the layer below. A power of two.
    pub cluster_bytes: u32,
    /// Make a digest of each 64 KiB that is moved.
    pub digest: Option<DigestAlgorithm>,
    /// What the target holds already, by a manifest of it: a block that has the digest which is
    /// noted there is not written. Its digests are those of BLAKE3, as are those of the lane, and
    /// its disk has the size of this one. What it says is not compared with the target: a base
    /// that is not so gives wrong content. Blocks that it knows nothing of are written.
    pub base: Option<Arc<Manifest>>,
    /// Where the digests go.
    pub manifest: Option<PathBuf>,
    /// A resume journal: made if it is not there, else what it calls safe is not moved again.
    pub journal: Option<PathBuf>,
    /// The journal stays when all is copied and flushed, for a caller whose work goes on: a run
    /// over the same list then finds this lane done. Otherwise it is removed.
    pub keep_journal: bool,
    /// FLUSH the target whenever this much time has passed since the last one, so that a resumed
    /// lane has little to do again.
    pub flush_interval: Duration,
    /// A side that gives no answer for this long while one is awaited has failed, over however
    /// many connections. A connection that is silent for half of it gets another one beside it,
    /// which takes its place at the end of it if it was answered; not so with no retries.
    pub deadline: Duration,
    /// Bytes a second below which what passes is no progress: a side that keeps sending less, and
    /// completes no answer, is as good as silent. Zero: any byte is progress.
    pub least_rate: u64,
    /// Attempts to connect again before a lane fails; the count starts anew with progress, and
    /// what is only done again is none. Zero: the first loss of a connection fails the lane.
    pub retries: u32,
    /// Wait before the first such attempt; it doubles with each, with jitter, up to 64 times.
    pub backoff: Duration,
}

/// The smallest request that adapting goes to, in bytes.
pub const MIN_REQUEST_BYTES: u32 = 256 << 10;
/// The largest request that adapting goes to, in bytes.
pub const MAX_ADAPTED_BYTES: u32 = 2 << 20;

impl Default for LaneSettings {
    fn default() -> Self {
        Self {
            extent: Extent::Whole,
            source_bytes: None,
            expected_bytes: None,
            connections: 1,
            request_bytes: None,
            adapt_bytes: MIN_REQUEST_BYTES..=MAX_ADAPTED_BYTES,
            requests: 16,
            in_flight_bytes: 16 << 20,
            synchronous: false,
            payload: PayloadChoice::Auto,
            extents: true,
            target_is_zero: false,
            allocated: false,
            sparse_bytes: None,
            cluster_bytes: 64 << 10,
            digest: None,
            base: None,
            manifest: None,
            journal: None,
            keep_journal: false,
            flush_interval: Duration::from_secs(30),
            deadline: Duration::from_secs(30),
            least_rate: 4 << 10,
            retries: 5,
            backoff: Duration::from_millis(100),
        }
    }
}

/// How the mover runs its lanes.
#[derive(Clone, Debug)]
pub struct MoverSettings {
    /// Which engine.
    pub engine: EngineChoice,
    /// Threads that move data; `None`: one for each processor, at most one for each lane.
    pub threads: Option<usize>,
    /// Lanes at work at once; the others wait in their order.
    pub max_lanes: usize,
    /// Memory of all buffers of the pooled path together, in bytes.
    pub pool_bytes: usize,
    /// Bytes a second, of all lanes together.
    pub rate_limit: Option<u64>,
}

impl Default for MoverSettings {
    fn default() -> Self {
        Self {
            engine: EngineChoice::Auto,
            threads: None,
            max_lanes: 128,
            pool_bytes: 64 << 20,
            rate_limit: None,
        }
    }
}
