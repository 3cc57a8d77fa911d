//! What a server sends, for the tests.

use super::super::wire::*;
use super::super::{NbdError, ReplyMode};

pub(super) fn greeting(flags: u16) -> Vec<u8> {
    [&NBDMAGIC.to_be_bytes()[..], &IHAVEOPT.to_be_bytes(), &flags.to_be_bytes()].concat()
}

/// The greeting of every server of today.
pub(super) fn fixed_greeting() -> Vec<u8> {
    greeting(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)
}

pub(super) fn option_reply(option: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let mut reply = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    for field in [option, kind, length] {
        reply.extend_from_slice(&field.to_be_bytes());
    }
    [&reply[..], payload].concat()
}

pub(super) fn ack(option: u32) -> Vec<u8> {
    option_reply(option, NBD_REP_ACK, &[])
}

pub(super) fn refusal(option: u32, code: u32, message: &str) -> Vec<u8> {
    option_reply(option, code, message.as_bytes())
}

pub(super) fn export_info(size: u64, flags: u16) -> Vec<u8> {
    let info =
        [&NBD_INFO_EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &flags.to_be_bytes()].concat();
    option_reply(NBD_OPT_GO, NBD_REP_INFO, &info)
}

pub(super) fn block_size_info(sizes: [u32; 3]) -> Vec<u8> {
    let mut info = NBD_INFO_BLOCK_SIZE.to_be_bytes().to_vec();
    info.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    option_reply(NBD_OPT_GO, NBD_REP_INFO, &info)
}

pub(super) fn context(id: u32, name: &str) -> Vec<u8> {
    let payload = [&id.to_be_bytes()[..], name.as_bytes()].concat();
    option_reply(NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, &payload)
}

pub(super) fn listed(name: &str, description: &str) -> Vec<u8> {
    let length = u32::try_from(name.len()).unwrap();
    let payload = [&length.to_be_bytes()[..], name.as_bytes(), description.as_bytes()].concat();
    option_reply(NBD_OPT_LIST, NBD_REP_SERVER, &payload)
}

/// A reply as one value, data included, to be sent and to be compared with what was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Data { cookie: u64, offset: u64, bytes: Vec<u8>, done: bool },
    Hole { cookie: u64, offset: u64, length: u32, done: bool },
    Status { cookie: u64, context: u32, extents: Vec<(u64, u64)>, done: bool },
    Error { cookie: u64, error: NbdError, message: String, offset: Option<u64>, done: bool },
    Done { cookie: u64 },
    Simple { cookie: u64, error: Option<NbdError>, bytes: Vec<u8> },
}

/// Bytes of a chunk.
pub(super) fn chunk(
    mode: ReplyMode,
    done: bool,
    kind: u16,
    cookie: u64,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let magic = match mode {
        ReplyMode::Extended => NBD_EXTENDED_REPLY_MAGIC,
        _ => NBD_STRUCTURED_REPLY_MAGIC,
    };
    bytes.extend_from_slice(&magic.to_be_bytes());
    bytes.extend_from_slice(&u16::from(done).to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    if mode == ReplyMode::Extended {
        bytes.extend_from_slice(&0x1122_3344u64.to_be_bytes());
        bytes.extend_from_slice(&u64::try_from(payload.len()).unwrap().to_be_bytes());
    } else {
        bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    }
    [&bytes[..], payload].concat()
}

pub(super) fn simple(cookie: u64, error: Option<NbdError>, data: &[u8]) -> Vec<u8> {
    let number = error.map_or(0, NbdError::number);
    let head =
        [&NBD_SIMPLE_REPLY_MAGIC.to_be_bytes()[..], &number.to_be_bytes(), &cookie.to_be_bytes()];
    [&head.concat()[..], data].concat()
}

pub(super) fn error_payload(error: u32, message: &str, offset: Option<u64>) -> Vec<u8> {
    let mut payload = error.to_be_bytes().to_vec();
    payload.extend_from_slice(&u16::try_from(message.len()).unwrap().to_be_bytes());
    payload.extend_from_slice(message.as_bytes());
    payload.extend(offset.iter().flat_map(|offset| offset.to_be_bytes()));
    payload
}

pub(super) fn status_payload(mode: ReplyMode, context: u32, extents: &[(u64, u64)]) -> Vec<u8> {
    let mut payload = context.to_be_bytes().to_vec();
    if mode == ReplyMode::Extended {
        payload.extend_from_slice(&u32::try_from(extents.len()).unwrap().to_be_bytes());
    }
    for &(length, flags) in extents {
        for field in [length, flags] {
            match mode {
                ReplyMode::Extended => payload.extend_from_slice(&field.to_be_bytes()),
                _ => payload.extend_from_slice(&u32::try_from(field).unwrap().to_be_bytes()),
            }
        }
    }
    payload
}

impl Event {
    /// The event on the wire.
    pub(super) fn encode(&self, mode: ReplyMode) -> Vec<u8> {
        match self {
            Self::Data { cookie, offset, bytes, done } => {
                let payload = [&offset.to_be_bytes()[..], bytes].concat();
                chunk(mode, *done, NBD_REPLY_TYPE_OFFSET_DATA, *cookie, &payload)
            }
            Self::Hole { cookie, offset, length, done } => {
                let payload = [&offset.to_be_bytes()[..], &length.to_be_bytes()].concat();
                chunk(mode, *done, NBD_REPLY_TYPE_OFFSET_HOLE, *cookie, &payload)
            }
            Self::Status { cookie, context, extents, done } => {
                let kind = match mode {
                    ReplyMode::Extended => NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
                    _ => NBD_REPLY_TYPE_BLOCK_STATUS,
                };
                chunk(mode, *done, kind, *cookie, &status_payload(mode, *context, extents))
            }
            Self::Error { cookie, error, message, offset, done } => {
                let kind = match offset {
                    Some(_) => NBD_REPLY_TYPE_ERROR_OFFSET,
                    None => NBD_REPLY_TYPE_ERROR,
                };
                let payload = error_payload(error.number(), message, *offset);
                chunk(mode, *done, kind, *cookie, &payload)
            }
            Self::Done { cookie } => chunk(mode, true, NBD_REPLY_TYPE_NONE, *cookie, &[]),
            Self::Simple { cookie, error, bytes } => simple(*cookie, *error, bytes),
        }
    }
}
