//! The numbers of the protocol, by the names of the specification.

/// First eight bytes of every greeting: `NBDMAGIC`.
pub const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second eight bytes of a newstyle greeting, and the head of every option: `IHAVEOPT`.
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// Second eight bytes of an oldstyle greeting.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Head of every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Bytes of a newstyle greeting: two magics and the flags.
pub const GREETING_LEN: usize = 8 + 8 + 2;
/// Bytes in front of the payload of an option.
pub const OPTION_HEAD_LEN: usize = 8 + 4 + 4;
/// Bytes in front of the payload of a reply to an option.
pub const OPTION_REPLY_HEAD_LEN: usize = 8 + 4 + 4 + 4;
/// Zeroes after the reply to `NBD_OPT_EXPORT_NAME`, unless `NBD_FLAG_NO_ZEROES` was agreed on.
pub const EXPORT_NAME_ZEROES_LEN: usize = 124;
/// Longest string that the protocol allows, in bytes.
pub const MAX_STRING_LEN: usize = 4096;
/// Port that IANA assigned to NBD.
pub const DEFAULT_PORT: u16 = 10809;

/// The server understands options that it does not know, and answers them.
pub const NBD_FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// The server can leave out the zeroes after the reply to `NBD_OPT_EXPORT_NAME`.
pub const NBD_FLAG_NO_ZEROES: u16 = 1 << 1;
/// The client speaks fixed newstyle.
pub const NBD_FLAG_C_FIXED_NEWSTYLE: u32 = 1 << 0;
/// The client wants no zeroes after the reply to `NBD_OPT_EXPORT_NAME`.
pub const NBD_FLAG_C_NO_ZEROES: u32 = 1 << 1;

/// Open an export, the way of the first newstyle: no answer but the export itself.
pub const NBD_OPT_EXPORT_NAME: u32 = 1;
/// End the negotiation.
pub const NBD_OPT_ABORT: u32 = 2;
/// List the exports.
pub const NBD_OPT_LIST: u32 = 3;
/// Upgrade the connection to TLS.
pub const NBD_OPT_STARTTLS: u32 = 5;
/// Describe an export without opening it.
pub const NBD_OPT_INFO: u32 = 6;
/// Open an export.
pub const NBD_OPT_GO: u32 = 7;
/// Agree on structured replies.
pub const NBD_OPT_STRUCTURED_REPLY: u32 = 8;
/// List metadata contexts.
pub const NBD_OPT_LIST_META_CONTEXT: u32 = 9;
/// Select metadata contexts.
pub const NBD_OPT_SET_META_CONTEXT: u32 = 10;
/// Agree on extended headers, and with them on structured replies.
pub const NBD_OPT_EXTENDED_HEADERS: u32 = 11;

/// The option is accepted, or its list of replies ends.
pub const NBD_REP_ACK: u32 = 1;
/// One export of the list.
pub const NBD_REP_SERVER: u32 = 2;
/// One piece of information on the export.
pub const NBD_REP_INFO: u32 = 3;
/// One selected metadata context.
pub const NBD_REP_META_CONTEXT: u32 = 4;
/// Set in the type of every reply that refuses.
pub const NBD_REP_FLAG_ERROR: u32 = 1 << 31;
/// The server does not know the option.
pub const NBD_REP_ERR_UNSUP: u32 = NBD_REP_FLAG_ERROR | 1;
/// The server's policy forbids it.
pub const NBD_REP_ERR_POLICY: u32 = NBD_REP_FLAG_ERROR | 2;
/// The option is malformed, or comes at the wrong time.
pub const NBD_REP_ERR_INVALID: u32 = NBD_REP_FLAG_ERROR | 3;
/// The server's platform cannot do it.
pub const NBD_REP_ERR_PLATFORM: u32 = NBD_REP_FLAG_ERROR | 4;
/// TLS must come first.
pub const NBD_REP_ERR_TLS_REQD: u32 = NBD_REP_FLAG_ERROR | 5;
/// No such export.
pub const NBD_REP_ERR_UNKNOWN: u32 = NBD_REP_FLAG_ERROR | 6;
/// The server is shutting down.
pub const NBD_REP_ERR_SHUTDOWN: u32 = NBD_REP_FLAG_ERROR | 7;
/// The client must ask for and keep to the block size.
pub const NBD_REP_ERR_BLOCK_SIZE_REQD: u32 = NBD_REP_FLAG_ERROR | 8;
/// The request is too big, or the reply would be.
pub const NBD_REP_ERR_TOO_BIG: u32 = NBD_REP_FLAG_ERROR | 9;
/// Extended headers must be agreed on first.
pub const NBD_REP_ERR_EXT_HEADER_REQD: u32 = NBD_REP_FLAG_ERROR | 10;

/// Size and transmission flags.
pub const NBD_INFO_EXPORT: u16 = 0;
/// The export's canonical name.
pub const NBD_INFO_NAME: u16 = 1;
/// The export's description.
pub const NBD_INFO_DESCRIPTION: u16 = 2;
/// Block sizes: minimum, preferred, largest payload.
pub const NBD_INFO_BLOCK_SIZE: u16 = 3;

/// The other transmission flags mean something.
pub const NBD_FLAG_HAS_FLAGS: u16 = 1 << 0;
/// The export cannot be written.
pub const NBD_FLAG_READ_ONLY: u16 = 1 << 1;
/// `NBD_CMD_FLUSH` is there.
pub const NBD_FLAG_SEND_FLUSH: u16 = 1 << 2;
/// `NBD_CMD_FLAG_FUA` is there.
pub const NBD_FLAG_SEND_FUA: u16 = 1 << 3;
/// The export behaves like a rotating disk.
pub const NBD_FLAG_ROTATIONAL: u16 = 1 << 4;
/// `NBD_CMD_TRIM` is there.
pub const NBD_FLAG_SEND_TRIM: u16 = 1 << 5;
/// `NBD_CMD_WRITE_ZEROES` is there.
pub const NBD_FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// `NBD_CMD_FLAG_DF` is there.
pub const NBD_FLAG_SEND_DF: u16 = 1 << 7;
/// A flush on one connection covers all of them.
pub const NBD_FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
/// The experimental `NBD_CMD_RESIZE` is there.
pub const NBD_FLAG_SEND_RESIZE: u16 = 1 << 9;
/// `NBD_CMD_CACHE` is there.
pub const NBD_FLAG_SEND_CACHE: u16 = 1 << 10;
/// `NBD_CMD_FLAG_FAST_ZERO` is there.
pub const NBD_FLAG_SEND_FAST_ZERO: u16 = 1 << 11;
/// `NBD_CMD_BLOCK_STATUS` takes a payload that selects contexts.
pub const NBD_FLAG_BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;

/// Head of a compact request.
pub const NBD_REQUEST_MAGIC: u32 = 0x2560_9513;
/// Head of an extended request.
pub const NBD_EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Head of a simple reply.
pub const NBD_SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Head of a chunk of a structured reply.
pub const NBD_STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Head of a chunk of an extended reply.
pub const NBD_EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Bytes of a compact request: magic, flags, type, cookie, offset, length.
pub const COMPACT_REQUEST_LEN: usize = 4 + 2 + 2 + 8 + 8 + 4;
/// Bytes of an extended request: as the compact one, with a length of 64 bits.
pub const EXTENDED_REQUEST_LEN: usize = 4 + 2 + 2 + 8 + 8 + 8;
/// Bytes of a simple reply: magic, error, cookie.
pub const SIMPLE_REPLY_LEN: usize = 4 + 4 + 8;
/// Bytes in front of the payload of a structured chunk: magic, flags, type, cookie, length.
pub const STRUCTURED_HEAD_LEN: usize = 4 + 2 + 2 + 8 + 4;
/// Bytes in front of the payload of an extended chunk: magic, flags, type, cookie, offset, length.
pub const EXTENDED_HEAD_LEN: usize = 4 + 2 + 2 + 8 + 8 + 8;

/// Read.
pub const NBD_CMD_READ: u16 = 0;
/// Write.
pub const NBD_CMD_WRITE: u16 = 1;
/// Disconnect; no reply follows.
pub const NBD_CMD_DISC: u16 = 2;
/// Make what was acknowledged durable.
pub const NBD_CMD_FLUSH: u16 = 3;
/// Give space back; the content is undefined afterwards.
pub const NBD_CMD_TRIM: u16 = 4;
/// Prefetch.
pub const NBD_CMD_CACHE: u16 = 5;
/// Write zeroes without sending them.
pub const NBD_CMD_WRITE_ZEROES: u16 = 6;
/// Ask for the extents of the selected contexts.
pub const NBD_CMD_BLOCK_STATUS: u16 = 7;

/// Durable before the reply.
pub const NBD_CMD_FLAG_FUA: u16 = 1 << 0;
/// Zeroes must stay allocated.
pub const NBD_CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// One content chunk, no fragments.
pub const NBD_CMD_FLAG_DF: u16 = 1 << 2;
/// One extent a context.
pub const NBD_CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Zero fast, or fail with `NBD_ENOTSUP`.
pub const NBD_CMD_FLAG_FAST_ZERO: u16 = 1 << 4;
/// The length of the request is that of its payload; extended headers only.
pub const NBD_CMD_FLAG_PAYLOAD_LEN: u16 = 1 << 5;

/// The last chunk of the reply.
pub const NBD_REPLY_FLAG_DONE: u16 = 1 << 0;
/// A chunk without content.
pub const NBD_REPLY_TYPE_NONE: u16 = 0;
/// An offset, and data.
pub const NBD_REPLY_TYPE_OFFSET_DATA: u16 = 1;
/// An offset, and the length of a hole.
pub const NBD_REPLY_TYPE_OFFSET_HOLE: u16 = 2;
/// Extents of a context, with 32 bits each for length and flags.
pub const NBD_REPLY_TYPE_BLOCK_STATUS: u16 = 5;
/// Extents of a context, with 64 bits each for length and flags.
pub const NBD_REPLY_TYPE_BLOCK_STATUS_EXT: u16 = 6;
/// Set in the type of every chunk that tells of an error.
pub const NBD_REPLY_TYPE_FLAG_ERROR: u16 = 1 << 15;
/// An error.
pub const NBD_REPLY_TYPE_ERROR: u16 = NBD_REPLY_TYPE_FLAG_ERROR | 1;
/// An error at an offset.
pub const NBD_REPLY_TYPE_ERROR_OFFSET: u16 = NBD_REPLY_TYPE_FLAG_ERROR | 2;

/// `base:allocation`: nothing is allocated here. Without `NBD_STATE_ZERO` the content is undefined.
pub const NBD_STATE_HOLE: u64 = 1 << 0;
/// `base:allocation`: reads as zeroes.
pub const NBD_STATE_ZERO: u64 = 1 << 1;
/// `qemu:dirty-bitmap:*`: marked in the bitmap.
pub const NBD_STATE_DIRTY: u64 = 1 << 0;

/// Operation not permitted.
pub const NBD_EPERM: u32 = 1;
/// Input/output error.
pub const NBD_EIO: u32 = 5;
/// Out of memory.
pub const NBD_ENOMEM: u32 = 12;
/// Invalid argument.
pub const NBD_EINVAL: u32 = 22;
/// No space left.
pub const NBD_ENOSPC: u32 = 28;
/// Too large for one chunk.
pub const NBD_EOVERFLOW: u32 = 75;
/// Not supported.
pub const NBD_ENOTSUP: u32 = 95;
/// The server is shutting down.
pub const NBD_ESHUTDOWN: u32 = 108;
