//! What a client asks in the course of a handshake, and what it makes of the answers.

use super::fields::Fields;
use super::handshake::{ClientWishes, HandshakeStatus, Tls};
use super::options::{self, Opt, OptionReply, OptionReplyHead, checked_size};
use super::refusal::HandshakeError;
use super::session::{BlockSize, ExportInfo, MetaContext, ReplyMode, Session, TransmissionFlags};
use super::wire;

/// Most exports that are read of a list.
const MAX_LISTED_EXPORTS: u32 = 16 << 10;
/// Most replies that are read to any other option.
const MAX_REPLIES: u32 = 1 << 10;
/// Most bytes that are read in reply to one option.
const MAX_REPLY_BYTES: u64 = 8 << 20;
/// Most contexts that can be asked for.
const MAX_CONTEXTS: usize = 1 << 10;

/// What the server has told since the greeting, or since TLS began.
#[derive(Debug, Default)]
struct Learned {
    extended: bool,
    structured: bool,
    contexts: Vec<MetaContext>,
    export: Option<(u64, TransmissionFlags)>,
    block_size: BlockSize,
    exports: Vec<ExportInfo>,
}

const TO_OPEN: &[Opt] =
    &[Opt::StartTls, Opt::ExtendedHeaders, Opt::StructuredReply, Opt::SetMetaContext, Opt::Go];
const TO_LIST: &[Opt] = &[Opt::StartTls, Opt::List];

/// What is awaited from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Greeting,
    Asked(Opt),
    TlsUpgrade,
    Over,
}

/// A handshake without its framing: whole messages in, options out.
#[derive(Debug)]
pub(super) struct Negotiation {
    wishes: ClientWishes,
    /// Options in the order in which they are tried.
    order: &'static [Opt],
    /// How many of them are behind.
    step: usize,
    pub(super) state: State,
    pub(super) no_zeroes: bool,
    pub(super) encrypted: bool,
    learned: Learned,
    /// Replies and bytes that the option under way has had so far.
    replies: u32,
    reply_bytes: u64,
}

impl Negotiation {
    pub(super) fn open(wishes: ClientWishes) -> Self {
        Self::new(wishes, TO_OPEN)
    }

    pub(super) fn list(tls: Tls) -> Self {
        let wishes = ClientWishes {
            export: String::new(),
            tls,
            extended_headers: false,
            structured_replies: false,
            contexts: Vec::new(),
        };
        Self::new(wishes, TO_LIST)
    }

    fn new(wishes: ClientWishes, order: &'static [Opt]) -> Self {
        Self {
            wishes,
            order,
            step: 0,
            state: State::Greeting,
            no_zeroes: false,
            encrypted: false,
            learned: Learned::default(),
            replies: 0,
            reply_bytes: 0,
        }
    }

    pub(super) fn check_wishes(&self) -> Result<(), HandshakeError> {
        let export = ("export name", &self.wishes.export);
        let contexts = self.wishes.contexts.iter().map(|name| ("metadata context name", name));
        for (what, name) in contexts.chain([export]) {
            if name.len() > wire::MAX_STRING_LEN {
                return Err(HandshakeError::NameTooLong { what, length: name.len() });
            }
        }
        let count = self.wishes.contexts.len();
        if count > MAX_CONTEXTS {
            return Err(HandshakeError::TooManyContexts { count, limit: MAX_CONTEXTS });
        }
        Ok(())
    }

    pub(super) fn greeted(
        &mut self,
        message: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<HandshakeStatus>, HandshakeError> {
        let flags = message.last_chunk().map_or(0, |flags| u16::from_be_bytes(*flags));
        self.no_zeroes = flags & wire::NBD_FLAG_NO_ZEROES != 0;
        let fixed = flags & wire::NBD_FLAG_FIXED_NEWSTYLE != 0;
        let mut answer = 0u32;
        if fixed {
            answer |= wire::NBD_FLAG_C_FIXED_NEWSTYLE;
        }
        if self.no_zeroes {
            answer |= wire::NBD_FLAG_C_NO_ZEROES;
        }
        output.extend_from_slice(&answer.to_be_bytes());
        if fixed {
            self.ask_next(output);
        } else if self.wishes.tls == Tls::Require {
            return Err(HandshakeError::NotFixed { wish: "TLS" });
        } else if self.order == TO_LIST {
            return Err(HandshakeError::NotFixed { wish: "a list of exports" });
        } else {
            self.ask(Opt::ExportName, output);
        }
        Ok(None)
    }

    pub(super) fn answered(
        &mut self,
        option: Opt,
        message: &[u8],
        unread: usize,
        output: &mut Vec<u8>,
    ) -> Result<Option<HandshakeStatus>, HandshakeError> {
        self.count_reply(option, message.len())?;
        let head = OptionReplyHead::parse(option, message)?;
        let payload = message.get(wire::OPTION_REPLY_HEAD_LEN..).unwrap_or_default();
        match OptionReply::parse(option, head.kind, payload)? {
            OptionReply::Ack => return self.acknowledged(option, unread, output),
            OptionReply::Refusal { code, message } => {
                self.refused(option, code, message)?;
                if option == Opt::Go {
                    self.ask(Opt::ExportName, output);
                } else {
                    self.ask_next(output);
                }
            }
            OptionReply::Export(export) => self.learned.exports.push(export),
            OptionReply::Size { size, flags } => self.learned.export = Some((size, flags)),
            OptionReply::BlockSize(sizes) => self.learned.block_size = sizes,
            OptionReply::OtherInfo => {}
            OptionReply::Context(context) => {
                if self.learned.contexts.iter().any(|known| known.id == context.id) {
                    return Err(option.problem("two contexts have the same number"));
                }
                self.learned.contexts.push(context);
            }
        }
        Ok(None)
    }

    fn count_reply(&mut self, option: Opt, length: usize) -> Result<(), HandshakeError> {
        self.replies += 1;
        self.reply_bytes += u64::try_from(length).expect("a message has less than 64 KiB");
        let (most, limit) = match option {
            Opt::List => (MAX_LISTED_EXPORTS, "16384 replies"),
            _ => (MAX_REPLIES, "1024 replies"),
        };
        let option = option.name();
        if self.replies > most {
            return Err(HandshakeError::Endless { option, limit });
        }
        if self.reply_bytes > MAX_REPLY_BYTES {
            return Err(HandshakeError::Endless { option, limit: "8 MiB" });
        }
        Ok(())
    }

    fn acknowledged(
        &mut self,
        option: Opt,
        unread: usize,
        output: &mut Vec<u8>,
    ) -> Result<Option<HandshakeStatus>, HandshakeError> {
        match option {
            Opt::StartTls if unread > 0 => {
                return Err(HandshakeError::Injection { length: unread });
            }
            Opt::StartTls => {
                // What was said in the clear may have come from anybody.
                self.learned = Learned::default();
                self.state = State::TlsUpgrade;
                return Ok(Some(HandshakeStatus::StartTls));
            }
            Opt::ExtendedHeaders => self.learned.extended = true,
            Opt::StructuredReply => self.learned.structured = true,
            Opt::SetMetaContext => {}
            Opt::Go => return self.opened(option).map(Some),
            Opt::List => {
                Opt::Abort.ask(&[], output);
                self.state = State::Over;
                return Ok(Some(HandshakeStatus::Listed(std::mem::take(
                    &mut self.learned.exports,
                ))));
            }
            Opt::ExportName | Opt::Abort => {
                return Err(option.problem("this option has no such reply"));
            }
        }
        self.ask_next(output);
        Ok(None)
    }

    /// Whether the handshake can go on without the option; for GO, with EXPORT_NAME in its place.
    fn refused(&mut self, option: Opt, code: u32, message: String) -> Result<(), HandshakeError> {
        let name = option.name();
        Err(match (option, code) {
            (Opt::StartTls, _) => HandshakeError::TlsRefused { message },
            (_, wire::NBD_REP_ERR_TLS_REQD) if !self.encrypted => {
                HandshakeError::TlsRequired { message }
            }
            (_, wire::NBD_REP_ERR_SHUTDOWN) => HandshakeError::Shutdown { message },
            (Opt::ExtendedHeaders | Opt::StructuredReply, _) => return Ok(()),
            (Opt::SetMetaContext, _) => {
                self.learned.contexts.clear();
                return Ok(());
            }
            (Opt::Go, wire::NBD_REP_ERR_UNSUP) => {
                self.learned.export = None;
                self.learned.block_size = BlockSize::DEFAULT;
                return Ok(());
            }
            (Opt::Go, wire::NBD_REP_ERR_UNKNOWN) => {
                HandshakeError::UnknownExport { export: self.wishes.export.clone(), message }
            }
            (Opt::Go, wire::NBD_REP_ERR_BLOCK_SIZE_REQD) => {
                HandshakeError::BlockSizeRequired { message }
            }
            (_, wire::NBD_REP_ERR_POLICY) => HandshakeError::Policy { option: name, message },
            (_, wire::NBD_REP_ERR_TOO_BIG) => HandshakeError::TooBig { option: name, message },
            _ => HandshakeError::Refused { option: name, code, message },
        })
    }

    pub(super) fn export_named(
        &mut self,
        message: &[u8],
    ) -> Result<HandshakeStatus, HandshakeError> {
        let mut fields = Fields::of(message);
        let (Some(size), Some(flags)) = (fields.u64(), fields.u16()) else {
            return Err(Opt::ExportName.problem("it is cut off"));
        };
        self.learned.export = Some((checked_size(size)?, TransmissionFlags::from_wire(flags)));
        self.opened(Opt::ExportName)
    }

    fn opened(&mut self, option: Opt) -> Result<HandshakeStatus, HandshakeError> {
        let mode = self.mode();
        let learned = std::mem::take(&mut self.learned);
        let Some((size, flags)) = learned.export else {
            return Err(option.problem("it does not tell the size of the export"));
        };
        self.state = State::Over;
        Ok(HandshakeStatus::Ready(Session {
            size,
            flags: flags.in_mode(mode),
            block_size: learned.block_size,
            mode,
            contexts: learned.contexts,
        }))
    }

    fn mode(&self) -> ReplyMode {
        match (self.learned.extended, self.learned.structured) {
            (true, _) => ReplyMode::Extended,
            (false, true) => ReplyMode::Structured,
            (false, false) => ReplyMode::Simple,
        }
    }

    /// Asks the next option of the order that has a purpose; the last one always has.
    pub(super) fn ask_next(&mut self, output: &mut Vec<u8>) {
        while let Some(&option) = self.order.get(self.step) {
            self.step += 1;
            let chunks = self.mode() != ReplyMode::Simple;
            let has_purpose = match option {
                Opt::StartTls => self.wishes.tls == Tls::Require,
                Opt::ExtendedHeaders => self.wishes.extended_headers,
                Opt::StructuredReply => self.wishes.structured_replies && !chunks,
                Opt::SetMetaContext => chunks && !self.wishes.contexts.is_empty(),
                Opt::Go | Opt::List | Opt::ExportName | Opt::Abort => true,
            };
            if has_purpose {
                return self.ask(option, output);
            }
        }
    }

    fn ask(&mut self, option: Opt, output: &mut Vec<u8>) {
        let ClientWishes { export, contexts, .. } = &self.wishes;
        let payload = match option {
            Opt::Go => options::go_payload(export),
            Opt::SetMetaContext => options::contexts_payload(export, contexts),
            Opt::ExportName => export.as_bytes().to_vec(),
            Opt::List
            | Opt::Abort
            | Opt::StartTls
            | Opt::StructuredReply
            | Opt::ExtendedHeaders => Vec::new(),
        };
        option.ask(&payload, output);
        self.state = State::Asked(option);
        self.replies = 0;
        self.reply_bytes = 0;
    }
}
