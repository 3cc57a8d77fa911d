//! Requests of the transmission phase.

use std::ops::{BitOr, BitOrAssign};

use super::session::ReplyMode;
use super::wire;

/// Bytes of the longest request head.
pub const MAX_REQUEST_LEN: usize = wire::EXTENDED_REQUEST_LEN;

/// Bytes of a request head.
pub const fn request_len(mode: ReplyMode) -> usize {
    match mode {
        ReplyMode::Simple | ReplyMode::Structured => wire::COMPACT_REQUEST_LEN,
        ReplyMode::Extended => wire::EXTENDED_REQUEST_LEN,
    }
}

/// Largest `length` that a request head can hold.
pub const fn max_request_length(mode: ReplyMode) -> u64 {
    match mode {
        ReplyMode::Simple | ReplyMode::Structured => 0xffff_ffff,
        ReplyMode::Extended => u64::MAX,
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// `NBD_CMD_READ`.
    Read,
    /// `NBD_CMD_WRITE`; the payload follows the head.
    Write,
    /// `NBD_CMD_DISC`; has no reply.
    Disconnect,
    /// `NBD_CMD_FLUSH`.
    Flush,
    /// `NBD_CMD_TRIM`: advice, and never a way to zero.
    Trim,
    /// `NBD_CMD_CACHE`.
    Cache,
    /// `NBD_CMD_WRITE_ZEROES`.
    WriteZeroes,
    /// `NBD_CMD_BLOCK_STATUS`.
    BlockStatus,
}

impl Command {
    /// The number on the wire.
    pub fn number(self) -> u16 {
        match self {
            Self::Read => wire::NBD_CMD_READ,
            Self::Write => wire::NBD_CMD_WRITE,
            Self::Disconnect => wire::NBD_CMD_DISC,
            Self::Flush => wire::NBD_CMD_FLUSH,
            Self::Trim => wire::NBD_CMD_TRIM,
            Self::Cache => wire::NBD_CMD_CACHE,
            Self::WriteZeroes => wire::NBD_CMD_WRITE_ZEROES,
            Self::BlockStatus => wire::NBD_CMD_BLOCK_STATUS,
        }
    }
}

/// Flags of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CommandFlags(u16);

impl CommandFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Durable before the reply; only if the export has `can_fua`.
    pub const FUA: Self = Self(wire::NBD_CMD_FLAG_FUA);
    /// WRITE_ZEROES keeps the area allocated.
    pub const NO_HOLE: Self = Self(wire::NBD_CMD_FLAG_NO_HOLE);
    /// READ is answered in one content chunk; only if the export has `send_df`.
    pub const DF: Self = Self(wire::NBD_CMD_FLAG_DF);
    /// BLOCK_STATUS is answered with one extent a context.
    pub const REQ_ONE: Self = Self(wire::NBD_CMD_FLAG_REQ_ONE);
    /// WRITE_ZEROES is fast or fails with `NBD_ENOTSUP`; only if the export has `fast_zero`.
    pub const FAST_ZERO: Self = Self(wire::NBD_CMD_FLAG_FAST_ZERO);
    /// The length is that of a payload. [`Request::encode`] adds it to a WRITE in extended mode.
    pub const PAYLOAD_LEN: Self = Self(wire::NBD_CMD_FLAG_PAYLOAD_LEN);

    /// The flags as a number of the specification.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Whether all of `flags` are set.
    pub fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl BitOr for CommandFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for CommandFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// How to do it.
    pub flags: CommandFlags,
    /// Comes back in the reply; unique among the requests in flight on a connection.
    pub cookie: u64,
    /// First byte; zero for FLUSH and DISC.
    pub offset: u64,
    /// Number of bytes; zero for FLUSH and DISC.
    pub length: u64,
}

impl Request {
    /// Writes the head into `out` and returns its length, [`request_len`].
    ///
    /// A WRITE in extended mode gets `PAYLOAD_LEN`, which the specification demands; in the other
    /// modes that flag does not exist, and is left out.
    ///
    /// # Panics
    /// If `length` exceeds [`max_request_length`]: the caller splits requests to fit.
    pub fn encode(&self, mode: ReplyMode, out: &mut [u8; MAX_REQUEST_LEN]) -> usize {
        let (magic, flags) = match mode {
            ReplyMode::Simple | ReplyMode::Structured => {
                (wire::NBD_REQUEST_MAGIC, self.flags.0 & !wire::NBD_CMD_FLAG_PAYLOAD_LEN)
            }
            ReplyMode::Extended if self.command == Command::Write => {
                (wire::NBD_EXTENDED_REQUEST_MAGIC, self.flags.0 | wire::NBD_CMD_FLAG_PAYLOAD_LEN)
            }
            ReplyMode::Extended => (wire::NBD_EXTENDED_REQUEST_MAGIC, self.flags.0),
        };
        out[0..4].copy_from_slice(&magic.to_be_bytes());
        out[4..6].copy_from_slice(&flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.command.number().to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        if mode == ReplyMode::Extended {
            out[24..32].copy_from_slice(&self.length.to_be_bytes());
        } else {
            let length = u32::try_from(self.length)
                .expect("requests are split to max_request_length before they are encoded");
            out[24..28].copy_from_slice(&length.to_be_bytes());
        }
        request_len(mode)
    }
}
