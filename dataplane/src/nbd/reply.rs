//! Replies of the transmission phase, one event at a time, out of a stream cut anywhere.
//!
//! The reader owns heads and small payloads; the data of a READ never enters it. Its owner receives
//! at most [`wanted`](ReplyReader::wanted) bytes, feeds them, and calls
//! [`next`](ReplyReader::next) until that returns none:
//!
//! ```text
//!   stream   | head offset |   data ...   | head ...
//!   wanted   '---- 28 -----'      0       '---- 28 ...
//!   event              Data ──┐
//!   owner                     └─ takes the data itself, then calls payload_taken()
//! ```
//!
//! In structured mode 28 bytes (extended: 40) are wanted at the start of a message: the longest
//! head together with the offset in front of data. That saves a receive per chunk of data. Where the
//! message turns out to be shorter, the excess belongs to the next head, because no message is
//! shorter than 16 bytes, and is kept for it.

use super::chunk::{ChunkHead, Kind, OFFSET_LEN};
use super::errno::NbdError;
use super::fields::Fields;
use super::message::printable;
use super::session::ReplyMode;
use super::status::Extents;
use super::wire;

/// Bytes that are wanted at once of acknowledgements: 256 simple replies.
const ACKS_LEN: usize = 4096;
/// Bytes of the reader's own buffer, and so most that is ever wanted at once.
const BUFFER_LEN: usize = 16 << 10;

/// Bounds on what a server may send in one chunk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyLimits {
    /// Data of one chunk. The largest payload of a request is a sensible value.
    pub data_len: u32,
    /// Payload of one block status chunk; it is kept in memory. The default holds the 2^20 extents
    /// that nbdkit can send in answer to one request.
    pub status_len: u32,
}

impl Default for ReplyLimits {
    fn default() -> Self {
        Self { data_len: 64 << 20, status_len: (8 << 20) + 8 }
    }
}

/// What a server answered.
///
/// A request ends with the event whose `done` is true, with `Done`, or with `Simple`. It failed if
/// any of its events was an error, even after data.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply<'a> {
    /// `length` bytes of data for `offset` follow directly in the stream: take them, then call
    /// [`ReplyReader::payload_taken`].
    Data {
        /// The request.
        cookie: u64,
        /// Place in the export; `offset + length` is in range of 64 bits.
        offset: u64,
        /// Number of bytes, never zero.
        length: u32,
        /// No more chunks of this request follow.
        done: bool,
    },
    /// `length` zero bytes at `offset`.
    Hole {
        /// The request.
        cookie: u64,
        /// Place in the export; `offset + length` is in range of 64 bits.
        offset: u64,
        /// Number of bytes, never zero.
        length: u32,
        /// No more chunks of this request follow.
        done: bool,
    },
    /// Extents of one context, from the requested offset on.
    Status {
        /// The request.
        cookie: u64,
        /// The context, as in [`Session::contexts`](super::Session::contexts).
        context: u32,
        /// At least one.
        extents: Extents<'a>,
        /// No more chunks of this request follow.
        done: bool,
    },
    /// The request failed; more chunks of it may follow.
    Error {
        /// The request.
        cookie: u64,
        /// Why.
        error: NbdError,
        /// The server's words, fit for printing; often empty.
        message: &'a str,
        /// Where, if the server says.
        offset: Option<u64>,
        /// No more chunks of this request follow.
        done: bool,
    },
    /// The request is over, and this chunk says nothing more.
    Done {
        /// The request.
        cookie: u64,
    },
    /// A reply without chunks. If there is no error and the request was a READ, which only the owner
    /// knows, all its data follow in the stream: first [`ReplyReader::take_excess`], then the rest.
    Simple {
        /// The request.
        cookie: u64,
        /// Why it failed, if it did.
        error: Option<NbdError>,
    },
}

/// The server broke the protocol: the connection cannot be used any further.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// The stream is out of step, or the peer speaks something else.
    #[error("the server sent {magic:#010x} where the head of a reply belongs")]
    Magic {
        /// The four bytes that were there.
        magic: u32,
    },
    /// A chunk that this client does not know, or that its mode excludes.
    #[error("the server sent a chunk of the unknown type {kind} for request {cookie:#x}")]
    Kind {
        /// The request.
        cookie: u64,
        /// The type.
        kind: u16,
    },
    /// A length that does not go with the type, or exceeds the limit.
    #[error("the server sent a {kind} chunk of {length} bytes for request {cookie:#x}")]
    Length {
        /// The request.
        cookie: u64,
        /// The type, in words.
        kind: &'static str,
        /// The length of its payload, in bytes.
        length: u64,
    },
    /// Content that contradicts itself.
    #[error("the server sent a broken {kind} chunk for request {cookie:#x}: {problem}")]
    Content {
        /// The request.
        cookie: u64,
        /// The type, in words.
        kind: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// Data on a connection that was declared to carry acknowledgements only.
    #[error(
        "the server sent data for request {cookie:#x}, and nothing was read on this connection"
    )]
    UnexpectedData {
        /// The request.
        cookie: u64,
    },
}

/// Where in the stream the next byte belongs.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Into a head.
    Head,
    /// Into the payload of a chunk, which is collected.
    Payload(ChunkHead),
    /// Into data, which the owner takes.
    Data,
}

/// Turns the stream of replies into events; see the module's picture.
#[derive(Debug)]
pub struct ReplyReader {
    mode: ReplyMode,
    limits: ReplyLimits,
    acks_only: bool,
    state: State,
    /// Received and not yet interpreted: `buffer[start..end]`.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Payload of the chunk in hand; its memory is used again.
    payload: Vec<u8>,
    /// Message of the error in hand.
    message: String,
}

impl ReplyReader {
    /// A reader with the default limits.
    pub fn new(mode: ReplyMode) -> Self {
        Self::with_limits(mode, ReplyLimits::default())
    }

    /// A reader that ends with an error when a chunk exceeds `limits`.
    pub fn with_limits(mode: ReplyMode, limits: ReplyLimits) -> Self {
        Self {
            mode,
            limits,
            acks_only: false,
            state: State::Head,
            buffer: vec![0; BUFFER_LEN].into_boxed_slice(),
            start: 0,
            end: 0,
            payload: Vec::new(),
            message: String::new(),
        }
    }

    /// Declares that no READ is in flight on the connection, and none will be until this is taken
    /// back: then no payload of a READ can be in the stream, and many replies are wanted at once.
    pub fn set_acks_only(&mut self, acks_only: bool) {
        self.acks_only = acks_only;
    }

    /// How many bytes to receive next, at most, so that no data of a READ are swallowed.
    ///
    /// Call [`next`](Self::next) until it returns none first. Zero while the owner takes data.
    pub fn wanted(&self) -> usize {
        let goal = match self.state {
            State::Head if self.acks_only => ACKS_LEN,
            State::Head => self.head_goal(),
            State::Payload(head) => head.collected_len().saturating_sub(self.payload.len()),
            State::Data => 0,
        };
        goal.saturating_sub(self.buffered().len()).min(BUFFER_LEN - self.buffered().len())
    }

    /// Room for [`wanted`](Self::wanted) bytes. Report with [`filled`](Self::filled) how many came.
    pub fn free(&mut self) -> &mut [u8] {
        let wanted = self.wanted();
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.buffer[self.end..self.end + wanted]
    }

    /// `count` bytes came into what [`free`](Self::free) gave out; more than that is not counted.
    pub fn filled(&mut self, count: usize) {
        self.end += count.min(self.wanted()).min(BUFFER_LEN - self.end);
    }

    /// Takes received bytes, at most [`wanted`](Self::wanted), and returns how many it took.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        let free = self.free();
        let count = bytes.len().min(free.len());
        free[..count].copy_from_slice(&bytes[..count]);
        self.filled(count);
        count
    }

    /// The owner has taken all data that the last event announced.
    pub fn payload_taken(&mut self) {
        if matches!(self.state, State::Data) {
            self.state = State::Head;
        }
    }

    /// The simple reply that was the last event answers a READ: its data follow, which the reader
    /// cannot know, for a simple reply does not say what it answers.
    pub fn data_follow(&mut self) {
        if matches!(self.state, State::Head) {
            self.state = State::Data;
        }
    }

    /// Moves bytes that were received together with the last event out of the reader.
    ///
    /// Only needed when a READ was answered by [`Reply::Simple`] in structured mode, which the
    /// specification forbids: there up to 12 bytes of its data may have come along with the head.
    pub fn take_excess(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.buffered().len());
        into[..count].copy_from_slice(&self.buffered()[..count]);
        self.start += count;
        count
    }

    /// Whether the stream is between two replies. An end of the stream anywhere else cut one off.
    pub fn is_between_replies(&self) -> bool {
        matches!(self.state, State::Head) && self.buffered().is_empty()
    }

    /// The next event, or none if more bytes are needed (or data have to be taken first).
    ///
    /// # Errors
    /// When the server broke the protocol. The connection must be closed; the reader is of no more use.
    #[allow(clippy::should_implement_trait, reason = "the event borrows from the reader")]
    pub fn next(&mut self) -> Result<Option<Reply<'_>>, ReplyError> {
        if matches!(self.state, State::Head) {
            let Some(head) = self.parse_head()? else {
                return Ok(None);
            };
            match head {
                Head::Simple { cookie, error } => return Ok(Some(Reply::Simple { cookie, error })),
                Head::Chunk(head) => {
                    self.payload.clear();
                    self.state = State::Payload(head);
                }
            }
        }
        match self.state {
            State::Payload(head) => self.advance_chunk(head),
            State::Head | State::Data => Ok(None),
        }
    }

    fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Bytes from the start of a message on that can be received before its type is known.
    fn head_goal(&self) -> usize {
        let simple = self.buffered().starts_with(&wire::NBD_SIMPLE_REPLY_MAGIC.to_be_bytes());
        match self.mode {
            ReplyMode::Simple => wire::SIMPLE_REPLY_LEN,
            ReplyMode::Structured if simple => wire::SIMPLE_REPLY_LEN,
            ReplyMode::Structured => wire::STRUCTURED_HEAD_LEN + OFFSET_LEN,
            ReplyMode::Extended => wire::EXTENDED_HEAD_LEN + OFFSET_LEN,
        }
    }

    /// Takes a head off the buffer, if it is there in full.
    fn parse_head(&mut self) -> Result<Option<Head>, ReplyError> {
        let mut fields = Fields::of(self.buffered());
        let Some(magic) = fields.u32() else {
            return Ok(None);
        };
        match (magic, self.mode) {
            (wire::NBD_SIMPLE_REPLY_MAGIC, ReplyMode::Simple | ReplyMode::Structured) => {
                let (Some(error), Some(cookie)) = (fields.u32(), fields.u64()) else {
                    return Ok(None);
                };
                self.start += wire::SIMPLE_REPLY_LEN;
                Ok(Some(Head::Simple { cookie, error: NbdError::from_wire(error) }))
            }
            (wire::NBD_STRUCTURED_REPLY_MAGIC, ReplyMode::Structured)
            | (wire::NBD_EXTENDED_REPLY_MAGIC, ReplyMode::Extended) => {
                let Some((chunk, head_len)) = ChunkHead::parse(self.mode, self.buffered()) else {
                    return Ok(None);
                };
                chunk.check(self.mode, &self.limits)?;
                self.start += head_len;
                Ok(Some(Head::Chunk(chunk)))
            }
            _ => Err(ReplyError::Magic { magic }),
        }
    }

    /// Collects what belongs to the chunk, and turns it into an event when that is complete.
    fn advance_chunk(&mut self, head: ChunkHead) -> Result<Option<Reply<'_>>, ReplyError> {
        let missing = head.collected_len().saturating_sub(self.payload.len());
        let count = missing.min(self.buffered().len());
        // Memory grows with what has arrived, not with what a head announces.
        self.payload.extend_from_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        if count < missing {
            return Ok(None);
        }
        let is_data = head.kind == Kind::OffsetData;
        if is_data && self.acks_only {
            return Err(ReplyError::UnexpectedData { cookie: head.cookie });
        }
        self.state = if is_data { State::Data } else { State::Head };
        self.message = printable(head.error_text(&self.payload)?);
        head.event(&self.payload, &self.message).map(Some)
    }
}

/// A head of either shape.
enum Head {
    Simple { cookie: u64, error: Option<NbdError> },
    Chunk(ChunkHead),
}
