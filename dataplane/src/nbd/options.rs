//! Options of the handshake: how they are asked, and how one reply to them is read.

use super::fields::Fields;
use super::message::printable;
use super::refusal::HandshakeError;
use super::session::{BlockSize, ExportInfo, MetaContext, TransmissionFlags};
use super::wire;

/// Longest reply to an option that is read, in bytes.
pub(super) const MAX_OPTION_REPLY_LEN: u32 = 64 << 10;

/// An option that this client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opt {
    ExportName,
    Abort,
    List,
    StartTls,
    Go,
    StructuredReply,
    SetMetaContext,
    ExtendedHeaders,
}

impl Opt {
    pub(super) fn number(self) -> u32 {
        match self {
            Self::ExportName => wire::NBD_OPT_EXPORT_NAME,
            Self::Abort => wire::NBD_OPT_ABORT,
            Self::List => wire::NBD_OPT_LIST,
            Self::StartTls => wire::NBD_OPT_STARTTLS,
            Self::Go => wire::NBD_OPT_GO,
            Self::StructuredReply => wire::NBD_OPT_STRUCTURED_REPLY,
            Self::SetMetaContext => wire::NBD_OPT_SET_META_CONTEXT,
            Self::ExtendedHeaders => wire::NBD_OPT_EXTENDED_HEADERS,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ExportName => "NBD_OPT_EXPORT_NAME",
            Self::Abort => "NBD_OPT_ABORT",
            Self::List => "NBD_OPT_LIST",
            Self::StartTls => "NBD_OPT_STARTTLS",
            Self::Go => "NBD_OPT_GO",
            Self::StructuredReply => "NBD_OPT_STRUCTURED_REPLY",
            Self::SetMetaContext => "NBD_OPT_SET_META_CONTEXT",
            Self::ExtendedHeaders => "NBD_OPT_EXTENDED_HEADERS",
        }
    }

    pub(super) fn reply_name(self) -> &'static str {
        match self {
            Self::ExportName => "the reply to NBD_OPT_EXPORT_NAME",
            Self::Abort => "the reply to NBD_OPT_ABORT",
            Self::List => "the reply to NBD_OPT_LIST",
            Self::StartTls => "the reply to NBD_OPT_STARTTLS",
            Self::Go => "the reply to NBD_OPT_GO",
            Self::StructuredReply => "the reply to NBD_OPT_STRUCTURED_REPLY",
            Self::SetMetaContext => "the reply to NBD_OPT_SET_META_CONTEXT",
            Self::ExtendedHeaders => "the reply to NBD_OPT_EXTENDED_HEADERS",
        }
    }

    /// Appends the option with its payload.
    pub(super) fn ask(self, payload: &[u8], output: &mut Vec<u8>) {
        output.extend_from_slice(&wire::IHAVEOPT.to_be_bytes());
        output.extend_from_slice(&self.number().to_be_bytes());
        output.extend_from_slice(&wire_len(payload).to_be_bytes());
        output.extend_from_slice(payload);
    }

    pub(super) fn problem(self, problem: &'static str) -> HandshakeError {
        HandshakeError::Protocol { option: self.name(), problem }
    }
}

fn wire_len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("names and their number are bounded before they are sent")
}

fn push_string(text: &str, payload: &mut Vec<u8>) {
    payload.extend_from_slice(&wire_len(text.as_bytes()).to_be_bytes());
    payload.extend_from_slice(text.as_bytes());
}

/// Payload of GO: the export, and the one piece of information that has to be asked for.
pub(super) fn go_payload(export: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    push_string(export, &mut payload);
    payload.extend_from_slice(&1u16.to_be_bytes());
    payload.extend_from_slice(&wire::NBD_INFO_BLOCK_SIZE.to_be_bytes());
    payload
}

/// Payload of SET_META_CONTEXT.
pub(super) fn contexts_payload(export: &str, contexts: &[String]) -> Vec<u8> {
    let mut payload = Vec::new();
    push_string(export, &mut payload);
    let count = u32::try_from(contexts.len()).expect("the number of contexts was checked");
    payload.extend_from_slice(&count.to_be_bytes());
    for context in contexts {
        push_string(context, &mut payload);
    }
    payload
}

/// The head of a reply to an option.
#[derive(Clone, Copy, Debug)]
pub(super) struct OptionReplyHead {
    pub(super) kind: u32,
    pub(super) length: u32,
}

impl OptionReplyHead {
    /// Reads the head of a reply to `asked`.
    pub(super) fn parse(asked: Opt, bytes: &[u8]) -> Result<Self, HandshakeError> {
        let mut fields = Fields::of(bytes);
        let head = (fields.u64(), fields.u32(), fields.u32(), fields.u32());
        let (Some(magic), Some(option), Some(kind), Some(length)) = head else {
            return Err(asked.problem("its head is cut off"));
        };
        if magic != wire::OPTION_REPLY_MAGIC {
            return Err(asked.problem("its magic number is wrong"));
        }
        if option != asked.number() {
            return Err(asked.problem("it answers another option"));
        }
        if length > MAX_OPTION_REPLY_LEN {
            let (option, limit) = (asked.name(), MAX_OPTION_REPLY_LEN);
            return Err(HandshakeError::ReplyTooLong { option, length, limit });
        }
        Ok(Self { kind, length })
    }
}

/// One reply to an option.
#[derive(Debug)]
pub(super) enum OptionReply {
    Ack,
    Export(ExportInfo),
    Size {
        size: u64,
        flags: TransmissionFlags,
    },
    BlockSize(BlockSize),
    /// Information that was not asked for.
    OtherInfo,
    Context(MetaContext),
    Refusal {
        code: u32,
        message: String,
    },
}

impl OptionReply {
    /// Reads the payload of a reply to `asked`.
    pub(super) fn parse(asked: Opt, kind: u32, payload: &[u8]) -> Result<Self, HandshakeError> {
        let reply = match (kind, asked) {
            (wire::NBD_REP_ACK, _) if payload.is_empty() => Some(Self::Ack),
            (wire::NBD_REP_ACK, _) => None,
            (wire::NBD_REP_SERVER, Opt::List) => export(asked, payload)?,
            (wire::NBD_REP_INFO, Opt::Go) => info(payload)?,
            (wire::NBD_REP_META_CONTEXT, Opt::SetMetaContext) => context(asked, payload)?,
            (code, _) if code & wire::NBD_REP_FLAG_ERROR != 0 => {
                Some(Self::Refusal { code, message: printable(payload) })
            }
            _ => return Err(asked.problem("its type does not go with the option")),
        };
        reply.ok_or_else(|| asked.problem("its length does not go with its type"))
    }
}

/// A name from the wire; names are compared and sent back, so nothing is mended in them.
fn name(asked: Opt, bytes: &[u8]) -> Result<String, HandshakeError> {
    if bytes.len() > wire::MAX_STRING_LEN {
        return Err(asked.problem("a name is longer than 4096 bytes"));
    }
    match str::from_utf8(bytes) {
        Ok(name) if !name.contains('\0') => Ok(name.to_owned()),
        Ok(_) => Err(asked.problem("a name has a NUL character in it")),
        Err(_) => Err(asked.problem("a name is not UTF-8")),
    }
}

fn export(asked: Opt, payload: &[u8]) -> Result<Option<OptionReply>, HandshakeError> {
    let mut fields = Fields::of(payload);
    let Some(length) = fields.u32() else {
        return Ok(None);
    };
    let Some(bytes) = fields.bytes(length) else {
        return Ok(None);
    };
    let description = printable(fields.rest());
    Ok(Some(OptionReply::Export(ExportInfo { name: name(asked, bytes)?, description })))
}

fn context(asked: Opt, payload: &[u8]) -> Result<Option<OptionReply>, HandshakeError> {
    let mut fields = Fields::of(payload);
    let Some(id) = fields.u32() else {
        return Ok(None);
    };
    Ok(Some(OptionReply::Context(MetaContext { id, name: name(asked, fields.rest())? })))
}

fn info(payload: &[u8]) -> Result<Option<OptionReply>, HandshakeError> {
    let mut fields = Fields::of(payload);
    let Some(kind) = fields.u16() else {
        return Ok(None);
    };
    match kind {
        wire::NBD_INFO_EXPORT => match (fields.u64(), fields.u16(), fields.rest()) {
            (Some(size), Some(flags), []) => {
                let flags = TransmissionFlags::from_wire(flags);
                Ok(Some(OptionReply::Size { size: checked_size(size)?, flags }))
            }
            _ => Ok(None),
        },
        wire::NBD_INFO_BLOCK_SIZE => {
            match (fields.u32(), fields.u32(), fields.u32(), fields.rest()) {
                (Some(minimum), Some(preferred), Some(maximum), []) => {
                    let sizes = BlockSize::checked(minimum, preferred, maximum)?;
                    Ok(Some(OptionReply::BlockSize(sizes)))
                }
                _ => Ok(None),
            }
        }
        _ => Ok(Some(OptionReply::OtherInfo)),
    }
}

/// A size that file offsets can reach.
pub(super) fn checked_size(size: u64) -> Result<u64, HandshakeError> {
    if i64::try_from(size).is_ok() { Ok(size) } else { Err(HandshakeError::Size { size }) }
}
