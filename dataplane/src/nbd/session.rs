//! What a handshake agreed on.

use super::refusal::HandshakeError;
use super::wire;

/// An opened export, ready for requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Size of the export in bytes; at most `i64::MAX`.
    pub size: u64,
    /// What the export can do.
    pub flags: TransmissionFlags,
    /// Alignment and size of requests.
    pub block_size: BlockSize,
    /// Shape of requests and replies.
    pub mode: ReplyMode,
    /// The selected metadata contexts; the server may have selected fewer than were asked for.
    pub contexts: Vec<MetaContext>,
}

impl Session {
    /// The id of a selected context.
    pub fn context(&self, name: &str) -> Option<u32> {
        let context = self.contexts.iter().find(|context| context.name == name)?;
        Some(context.id)
    }
}

/// Shape of requests and replies on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplyMode {
    /// Compact requests, simple replies.
    Simple,
    /// Compact requests, structured replies to READ and BLOCK_STATUS, either kind to the rest.
    Structured,
    /// Requests and replies with 64-bit lengths; all replies come in chunks.
    Extended,
}

/// A selected metadata context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaContext {
    /// The number that stands for the context in replies, valid on this connection only.
    pub id: u32,
    /// As `base:allocation`.
    pub name: String,
}

/// One line of the list of exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// The name to open it by, as the server sent it; use [`printable`](super::printable) to show it.
    pub name: String,
    /// A description for people, fit for printing; often empty.
    pub description: String,
}

/// Alignment and size of requests, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSize {
    /// Offset and length of every request are multiples of this power of two.
    pub minimum: u32,
    /// Offset and length that cost the server no read-modify-write; a power of two.
    pub preferred: u32,
    /// Largest payload of one READ or WRITE.
    pub maximum: u32,
}

impl BlockSize {
    /// What holds for a server that does not say.
    pub const DEFAULT: Self = Self { minimum: 1, preferred: 4096, maximum: 32 << 20 };
    /// Largest minimum that the specification allows.
    const MAX_MINIMUM: u32 = 64 << 10;
    /// Smallest preferred size that the specification allows.
    const MIN_PREFERRED: u32 = 512;

    /// The block size that a server sent, if it keeps to the specification's rules.
    pub(super) fn checked(
        minimum: u32,
        preferred: u32,
        maximum: u32,
    ) -> Result<Self, HandshakeError> {
        let sane = minimum.is_power_of_two()
            && minimum <= Self::MAX_MINIMUM
            && preferred.is_power_of_two()
            && preferred >= Self::MIN_PREFERRED.max(minimum)
            && maximum >= preferred
            && (maximum == u32::MAX || maximum.is_multiple_of(minimum));
        if sane {
            Ok(Self { minimum, preferred, maximum })
        } else {
            Err(HandshakeError::BlockSize { minimum, preferred, maximum })
        }
    }
}

impl Default for BlockSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What an export can do, from the flags of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransmissionFlags(u16);

impl TransmissionFlags {
    /// The flags as a server sent them. Without `NBD_FLAG_HAS_FLAGS` none of them means anything.
    pub fn from_wire(bits: u16) -> Self {
        if bits & wire::NBD_FLAG_HAS_FLAGS == 0 { Self(0) } else { Self(bits) }
    }

    /// The flags as a number of the specification.
    pub fn bits(self) -> u16 {
        self.0
    }

    fn has(self, bit: u16) -> bool {
        self.0 & bit != 0
    }

    /// A flag that only an export that can be written has a use for.
    fn writes(self, bit: u16) -> bool {
        self.has(bit) && !self.read_only()
    }

    /// The flag DF needs replies in chunks.
    pub(super) fn in_mode(self, mode: ReplyMode) -> Self {
        match mode {
            ReplyMode::Simple => Self(self.0 & !wire::NBD_FLAG_SEND_DF),
            ReplyMode::Structured | ReplyMode::Extended => self,
        }
    }

    /// The export cannot be written.
    pub fn read_only(self) -> bool {
        self.has(wire::NBD_FLAG_READ_ONLY)
    }

    /// FLUSH may be sent.
    pub fn can_flush(self) -> bool {
        self.has(wire::NBD_FLAG_SEND_FLUSH)
    }

    /// The flag FUA may be sent.
    pub fn can_fua(self) -> bool {
        self.has(wire::NBD_FLAG_SEND_FUA)
    }

    /// TRIM may be sent.
    pub fn can_trim(self) -> bool {
        self.writes(wire::NBD_FLAG_SEND_TRIM)
    }

    /// WRITE_ZEROES may be sent.
    pub fn can_write_zeroes(self) -> bool {
        self.writes(wire::NBD_FLAG_SEND_WRITE_ZEROES)
    }

    /// The flag FAST_ZERO may be sent.
    pub fn fast_zero(self) -> bool {
        self.can_write_zeroes() && self.has(wire::NBD_FLAG_SEND_FAST_ZERO)
    }

    /// The flag DF may be sent.
    pub fn send_df(self) -> bool {
        self.has(wire::NBD_FLAG_SEND_DF)
    }

    /// A FLUSH on one connection covers the writes that were acknowledged on all of them.
    pub fn multi_conn(self) -> bool {
        self.has(wire::NBD_FLAG_CAN_MULTI_CONN)
    }

    /// CACHE may be sent.
    pub fn can_cache(self) -> bool {
        self.has(wire::NBD_FLAG_SEND_CACHE)
    }

    /// The export behaves like a rotating disk.
    pub fn rotational(self) -> bool {
        self.has(wire::NBD_FLAG_ROTATIONAL)
    }

    /// The experimental RESIZE may be sent.
    pub fn resize(self) -> bool {
        self.has(wire::NBD_FLAG_SEND_RESIZE)
    }

    /// BLOCK_STATUS may carry a payload that selects contexts.
    pub fn block_status_payload(self) -> bool {
        self.has(wire::NBD_FLAG_BLOCK_STATUS_PAYLOAD)
    }
}
