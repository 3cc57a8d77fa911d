//! What can go wrong, at which occasion, and when.

use std::collections::HashMap;
use std::time::Duration;

/// One way to misbehave. Those marked *legal* are allowed by the protocol: a client must cope
/// with them and succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    // At the greeting.
    /// Accepts, says nothing, keeps the connection.
    NoGreeting,
    /// Closes before a byte of greeting.
    CloseBeforeGreeting,
    /// Legal: the greeting comes a byte at a time, with this wait before each.
    SlowGreeting(Duration),
    /// The first eight bytes are not NBDMAGIC.
    WrongGreetingMagic,

    // At an option.
    /// The reply to an option does not begin with its magic.
    WrongOptionMagic,
    /// The reply names another option.
    WrongOptionEcho,
    /// A reply that announces 4 GiB less one byte.
    OversizeOptionLength,
    /// Legal: this error type (see [`super::wire::rep`]) instead of an answer.
    OptionError(u32),
    /// Never answers the option, keeps the connection.
    StallAtOption,
    /// Closes instead of an answer.
    CloseAtOption,
    /// At GO: replies of an unknown type of INFO, without an end.
    EndlessOptionReplies,
    /// At GO: an export of 2^64 - 1 bytes.
    OversizeExportSize,
    /// STARTTLS is refused by policy.
    TlsRefused,
    /// Whatever is asked, TLS is required first, and this server has none.
    TlsRequired,

    // At a request of any kind.
    /// The reply does not begin with its magic.
    WrongReplyMagic,
    /// The reply bears another cookie: the right one, with these bits the other way.
    WrongCookie(u64),
    /// The same reply twice.
    DuplicateReply,
    /// Before the right reply, one for a cookie that nobody used.
    UnissuedReply,
    /// The request is not carried out; this errno instead. Any number does: 108 is ESHUTDOWN.
    Error(u32),
    /// An error whose message is far longer than the 4096 bytes that are allowed. Needs chunks.
    HugeErrorMessage,
    /// An error whose message is longer than its chunk. Needs chunks.
    ErrorMessageOverrun,
    /// A chunk of this type, and DONE. With the high bit set it is an error. Needs chunks.
    UnknownChunk(u16),
    /// Error chunks of which none is the last, without an end. Needs chunks.
    EndlessErrors,
    /// Carries it out, then closes without a reply.
    CloseBeforeReply,
    /// As `CloseBeforeReply`, with a reset.
    ResetBeforeReply,
    /// Closes after 7 bytes of the reply.
    CloseMidHeader,
    /// Closes after half of the reply.
    CloseMidPayload,
    /// Sends half of the reply and then nothing more on this connection.
    StallMidPayload,
    /// Legal: the reply comes a byte at a time, with this wait before each.
    Drip(Duration),
    /// Carries it out, never answers it, and goes on with the next one.
    NoReply,
    /// Legal: the reply comes this much later, and so do those after it.
    SlowReply(Duration),
    /// Neither reads nor writes any more, keeps the connection.
    HalfOpen,
    /// What happens when the server is killed: every connection closes, what was not flushed is
    /// lost, and new connections are served.
    Crash,

    // At a READ.
    /// A chunk that announces as much as its length field can hold. Needs chunks.
    HugeChunkLength,
    /// Two data chunks that overlap. Needs chunks.
    OverlappingData,
    /// A data chunk that ends past the range that was asked. Needs chunks.
    DataOutOfRange,
    /// Half of the data, and DONE. Needs chunks.
    ShortData,
    /// A data chunk of no bytes, and DONE. Needs chunks.
    EmptyData,
    /// All of the range as [`super::POISON`], then an error chunk. Needs chunks.
    DataThenError,
    /// An error chunk, then all of the range as [`super::POISON`], and DONE. Needs chunks.
    ErrorThenData,
    /// A simple reply although structured replies were agreed on. Needs chunks.
    SimpleReplyToRead,
    /// Legal: data, then an empty chunk with DONE. Needs chunks.
    DoneApart,
    /// Legal: pieces of data and of holes in random order. Needs chunks.
    MixedChunks,

    // At a WRITE.
    /// Takes half of the payload, then closes.
    CloseInRequest,
    /// Takes half of the payload, then nothing more.
    StallInRequest,

    // At a BLOCK_STATUS.
    /// Extents of no length.
    ZeroLengthExtents,
    /// Legal: the last extent goes on past the range that was asked, as far as its state does.
    LongLastExtent,
    /// The last extent ends far beyond the disk.
    ExtentsPastEnd,
    /// Legal: data is reported as HOLE without ZERO: it must be read.
    HoleWithoutZero,
    /// Legal: one extent a reply.
    OneExtent,
    /// A context id that was never agreed on.
    WrongContext,
    /// No extents at all, and DONE.
    NoExtents,
    /// The answer as chunks of which none is the last, without an end.
    EndlessStatus,
    /// This many extents of one byte each, as far as the range allows.
    ManyExtents(u32),
}

impl Fault {
    /// Where it is tried unless told otherwise.
    pub(super) fn occasion(&self) -> Occasion {
        use Fault::*;
        match self {
            NoGreeting | CloseBeforeGreeting | SlowGreeting(_) | WrongGreetingMagic => {
                Occasion::Greeting
            }
            WrongOptionMagic | WrongOptionEcho | OversizeOptionLength | OptionError(_)
            | StallAtOption | CloseAtOption | TlsRequired => Occasion::Option,
            EndlessOptionReplies | OversizeExportSize => Occasion::Go,
            TlsRefused => Occasion::StartTls,
            HugeChunkLength | OverlappingData | DataOutOfRange | ShortData | EmptyData
            | DataThenError | ErrorThenData | SimpleReplyToRead | DoneApart | MixedChunks => {
                Occasion::Read
            }
            CloseInRequest | StallInRequest => Occasion::Write,
            ZeroLengthExtents | LongLastExtent | ExtentsPastEnd | HoleWithoutZero | OneExtent
            | WrongContext | NoExtents | EndlessStatus | ManyExtents(_) => Occasion::BlockStatus,
            _ => Occasion::Request,
        }
    }

    /// Whether simple replies cannot express it; such a fault does not fire then.
    pub(super) fn needs_chunks(&self) -> bool {
        use Fault::*;
        matches!(self, HugeErrorMessage | ErrorMessageOverrun | UnknownChunk(_) | EndlessErrors)
            || self.occasion() == Occasion::Read
    }
}

/// Something that a server does, counted over all its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Occasion {
    /// A client has connected.
    Greeting,
    /// Any option.
    Option,
    /// GO or INFO.
    Go,
    /// STARTTLS.
    StartTls,
    /// Any request but DISC.
    Request,
    /// READ.
    Read,
    /// WRITE.
    Write,
    /// WRITE_ZEROES.
    WriteZeroes,
    /// TRIM.
    Trim,
    /// FLUSH.
    Flush,
    /// BLOCK_STATUS.
    BlockStatus,
}

/// At which of its occasions a fault happens. Counting begins with 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// At each.
    Always,
    /// At this one only.
    Nth(u64),
    /// At this one and all after it.
    From(u64),
    /// At every nth.
    Every(u64),
    /// At each on this connection, and on no other.
    Connection(u64),
}

/// The faults of a server, and how often each occasion has been.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) rules: Vec<(Occasion, Fault, Trigger)>,
    counts: HashMap<Occasion, u64>,
    pub(super) fired: Vec<Fault>,
}

impl Faults {
    /// Counts these occasions, which are one event, and says what goes wrong at it.
    pub(super) fn take(
        &mut self,
        occasions: &[Occasion],
        connection: u64,
        chunks: bool,
    ) -> Option<Fault> {
        for &occasion in occasions {
            *self.counts.entry(occasion).or_default() += 1;
        }
        let hit = self.rules.iter().find(|(occasion, fault, trigger)| {
            let count = self.counts.get(occasion).copied().unwrap_or(0);
            occasions.contains(occasion)
                && (chunks || !fault.needs_chunks())
                && match *trigger {
                    Trigger::Always => true,
                    Trigger::Nth(n) => count == n,
                    Trigger::From(n) => count >= n,
                    Trigger::Every(n) => count.is_multiple_of(n),
                    Trigger::Connection(n) => connection == n,
                }
        })?;
        let fault = hit.1.clone();
        self.fired.push(fault.clone());
        Some(fault)
    }
}
