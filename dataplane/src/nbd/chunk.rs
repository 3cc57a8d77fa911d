//! One chunk of a structured or extended reply: its head, the rules for its length, its content.

use super::errno::NbdError;
use super::fields::Fields;
use super::reply::{Reply, ReplyError, ReplyLimits};
use super::session::ReplyMode;
use super::status::{BadExtents, Extents};
use super::wire;

/// Bytes of the offset in front of data.
pub(super) const OFFSET_LEN: usize = 8;
/// Payload of a hole: offset and length.
const HOLE_LEN: u64 = 8 + 4;
/// Payload of an error before its message: number and length of the message.
const ERROR_LEN: u64 = 4 + 2;
/// Most payload of an error that is read: the longest message, an offset, and as much again for what
/// a later specification may add.
const MAX_ERROR_LEN: u64 = 16 << 10;

/// What a chunk carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    None,
    OffsetData,
    OffsetHole,
    Status,
    StatusExt,
    Error,
    ErrorOffset,
    /// An error that this client does not know more about.
    OtherError,
    Unknown(u16),
}

impl Kind {
    fn from_wire(kind: u16) -> Self {
        match kind {
            wire::NBD_REPLY_TYPE_NONE => Self::None,
            wire::NBD_REPLY_TYPE_OFFSET_DATA => Self::OffsetData,
            wire::NBD_REPLY_TYPE_OFFSET_HOLE => Self::OffsetHole,
            wire::NBD_REPLY_TYPE_BLOCK_STATUS => Self::Status,
            wire::NBD_REPLY_TYPE_BLOCK_STATUS_EXT => Self::StatusExt,
            wire::NBD_REPLY_TYPE_ERROR => Self::Error,
            wire::NBD_REPLY_TYPE_ERROR_OFFSET => Self::ErrorOffset,
            error if error & wire::NBD_REPLY_TYPE_FLAG_ERROR != 0 => Self::OtherError,
            unknown => Self::Unknown(unknown),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::None => "final",
            Self::OffsetData => "data",
            Self::OffsetHole => "hole",
            Self::Status => "block status",
            Self::StatusExt => "extended block status",
            Self::Error | Self::ErrorOffset | Self::OtherError => "error",
            Self::Unknown(_) => "unknown",
        }
    }

    fn is_error(self) -> bool {
        matches!(self, Self::Error | Self::ErrorOffset | Self::OtherError)
    }
}

/// The head of a chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkHead {
    pub(super) kind: Kind,
    pub(super) cookie: u64,
    done: bool,
    /// Bytes that follow the head on the wire.
    length: u64,
}

impl ChunkHead {
    /// The head in the first bytes of a message of `mode`, if they are all there, and its length.
    pub(super) fn parse(mode: ReplyMode, bytes: &[u8]) -> Option<(Self, usize)> {
        let mut fields = Fields::of(bytes);
        let _magic = fields.u32()?;
        let flags = fields.u16()?;
        let kind = Kind::from_wire(fields.u16()?);
        let cookie = fields.u64()?;
        let (length, head_len) = if mode == ReplyMode::Extended {
            let _offset_of_request = fields.u64()?;
            (fields.u64()?, wire::EXTENDED_HEAD_LEN)
        } else {
            (u64::from(fields.u32()?), wire::STRUCTURED_HEAD_LEN)
        };
        let done = flags & wire::NBD_REPLY_FLAG_DONE != 0;
        Some((Self { kind, cookie, done, length }, head_len))
    }

    /// Whether the length goes with the type and stays within the limits.
    pub(super) fn check(&self, mode: ReplyMode, limits: &ReplyLimits) -> Result<(), ReplyError> {
        let status_len = u64::from(limits.status_len);
        let fits = match self.kind {
            Kind::None => self.length == 0,
            Kind::OffsetData => self.length > 8 && self.length - 8 <= u64::from(limits.data_len),
            Kind::OffsetHole => self.length == HOLE_LEN,
            Kind::Status => {
                self.length >= 4 + 8
                    && (self.length - 4).is_multiple_of(8)
                    && self.length <= status_len
            }
            Kind::StatusExt if mode == ReplyMode::Extended => {
                self.length >= 8 + 16
                    && (self.length - 8).is_multiple_of(16)
                    && self.length <= status_len
            }
            Kind::StatusExt => {
                let kind = wire::NBD_REPLY_TYPE_BLOCK_STATUS_EXT;
                return Err(ReplyError::Kind { cookie: self.cookie, kind });
            }
            Kind::Error | Kind::OtherError => (ERROR_LEN..=MAX_ERROR_LEN).contains(&self.length),
            Kind::ErrorOffset => (ERROR_LEN + 8..=MAX_ERROR_LEN).contains(&self.length),
            Kind::Unknown(kind) => {
                return Err(ReplyError::Kind { cookie: self.cookie, kind });
            }
        };
        if !fits {
            return Err(self.bad_length());
        }
        if self.kind == Kind::None && !self.done {
            return Err(self.broken("it has no content and does not end the reply"));
        }
        Ok(())
    }

    /// Bytes of the payload that the reader collects: all of it, but of data only the offset.
    pub(super) fn collected_len(&self) -> usize {
        if self.kind == Kind::OffsetData {
            return OFFSET_LEN;
        }
        usize::try_from(self.length).expect("checked against limits that fit 32 bits")
    }

    fn bad_length(&self) -> ReplyError {
        let (cookie, kind, length) = (self.cookie, self.kind.name(), self.length);
        ReplyError::Length { cookie, kind, length }
    }

    fn broken(&self, problem: &'static str) -> ReplyError {
        ReplyError::Content { cookie: self.cookie, kind: self.kind.name(), problem }
    }

    /// The message in the payload of an error chunk; of any other chunk none.
    pub(super) fn error_text<'a>(&self, payload: &'a [u8]) -> Result<&'a [u8], ReplyError> {
        if !self.kind.is_error() {
            return Ok(&[]);
        }
        let text = self.error_fields(payload).map(|(_, text, _)| text);
        let text = text.ok_or_else(|| self.broken("its message is longer than the chunk"))?;
        if text.len() > wire::MAX_STRING_LEN {
            return Err(self.broken("its message is longer than 4096 bytes"));
        }
        Ok(text)
    }

    fn error_fields<'a>(&self, payload: &'a [u8]) -> Option<(u32, &'a [u8], Option<u64>)> {
        let mut fields = Fields::of(payload);
        let number = fields.u32()?;
        let text_len = fields.u16()?;
        let text = fields.bytes(u32::from(text_len))?;
        let offset = if self.kind == Kind::ErrorOffset { Some(fields.u64()?) } else { None };
        Some((number, text, offset))
    }

    /// The event that the chunk stands for, from its collected payload.
    pub(super) fn event<'a>(
        &self,
        payload: &'a [u8],
        message: &'a str,
    ) -> Result<Reply<'a>, ReplyError> {
        let &Self { kind, cookie, done, .. } = self;
        let event = match kind {
            Kind::None => Some(Reply::Done { cookie }),
            Kind::OffsetData => self.data(payload)?,
            Kind::OffsetHole => self.hole(payload)?,
            Kind::Status | Kind::StatusExt => self.status(payload)?,
            Kind::Error | Kind::ErrorOffset | Kind::OtherError => {
                self.error_fields(payload).map(|(number, _, offset)| {
                    // Zero is no error, and the reply failed all the same.
                    let known = NbdError::from_wire(number).unwrap_or(NbdError::Other(number));
                    let error = if kind == Kind::OtherError { NbdError::Inval } else { known };
                    Reply::Error { cookie, error, message, offset, done }
                })
            }
            Kind::Unknown(_) => None,
        };
        event.ok_or_else(|| self.bad_length())
    }

    fn data<'a>(&self, payload: &[u8]) -> Result<Option<Reply<'a>>, ReplyError> {
        let Some(offset) = Fields::of(payload).u64() else {
            return Ok(None);
        };
        let Ok(length) = u32::try_from(self.length - 8) else {
            return Ok(None);
        };
        self.check_end(offset, length)?;
        Ok(Some(Reply::Data { cookie: self.cookie, offset, length, done: self.done }))
    }

    fn hole<'a>(&self, payload: &[u8]) -> Result<Option<Reply<'a>>, ReplyError> {
        let mut fields = Fields::of(payload);
        let (Some(offset), Some(length)) = (fields.u64(), fields.u32()) else {
            return Ok(None);
        };
        if length == 0 {
            return Err(self.broken("a hole of no bytes"));
        }
        self.check_end(offset, length)?;
        Ok(Some(Reply::Hole { cookie: self.cookie, offset, length, done: self.done }))
    }

    fn check_end(&self, offset: u64, length: u32) -> Result<(), ReplyError> {
        match offset.checked_add(u64::from(length)) {
            Some(_) => Ok(()),
            None => Err(self.broken("it ends beyond 64 bits")),
        }
    }

    fn status<'a>(&self, payload: &'a [u8]) -> Result<Option<Reply<'a>>, ReplyError> {
        let mut fields = Fields::of(payload);
        let Some(context) = fields.u32() else {
            return Ok(None);
        };
        let extents = if self.kind == Kind::StatusExt {
            let Some(count) = fields.u32() else {
                return Ok(None);
            };
            Extents::wide(count, fields.rest())
        } else {
            Extents::narrow(fields.rest())
        };
        let extents = extents.map_err(|bad| {
            self.broken(match bad {
                BadExtents::Length => "it holds no whole extents",
                BadExtents::Count => "it holds another number of extents than it says",
                BadExtents::Empty => "an extent of no bytes",
                BadExtents::Sum => "its extents end beyond 64 bits",
            })
        })?;
        Ok(Some(Reply::Status { cookie: self.cookie, context, extents, done: self.done }))
    }
}
