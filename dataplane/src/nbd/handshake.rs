//! The handshake: from the greeting to an opened export, or to the list of exports.
//!
//! ```text
//!  greeting ─► [STARTTLS ─► upgrade] ─► [EXTENDED_HEADERS] ─► [STRUCTURED_REPLY] ─► [SET_META_CONTEXT]
//!                      │                                                                   │
//!                      └─► LIST ─► ABORT ─► Listed          Ready ◄─ [EXPORT_NAME] ◄─ GO ◄─┘
//! ```
//!
//! One option is under way at a time. Its owner sends what `advance` appends to the output, receives,
//! and calls `advance` again; bytes are consumed no further than the handshake reaches, so that what
//! comes after it can be given to another reader.

use super::fields::Fields;
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

/// Whether the connection is to be encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// In the clear, or not at all.
    Never,
    /// With TLS, or not at all.
    Require,
}

/// What a client wants of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientWishes {
    /// Name of the export; the empty name is the server's default export.
    pub export: String,
    /// Encryption.
    pub tls: Tls,
    /// Try for extended headers; they imply structured replies.
    pub extended_headers: bool,
    /// Try for structured replies, where extended headers are not wanted or not to be had.
    pub structured_replies: bool,
    /// Metadata contexts to select, as `base:allocation`; needs either of the two above.
    pub contexts: Vec<String>,
}

/// What [`Handshake::advance`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Advance {
    /// Bytes of the input that are done with. The rest is for whoever comes next.
    pub consumed: usize,
    /// What to do now, after sending the output.
    pub status: HandshakeStatus,
}

/// How far a handshake has come.
#[derive(Debug, PartialEq, Eq)]
pub enum HandshakeStatus {
    /// Receive more.
    NeedInput,
    /// All output so far has been flushed in the clear, or must be now: then upgrade the connection,
    /// and call `advance` with no input, whose output is the first that is encrypted.
    StartTls,
    /// The export is open.
    Ready(Session),
    /// The exports that the server has. Send the output, which takes leave, and close.
    Listed(Vec<ExportInfo>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Asked(Opt),
    TlsUpgrade,
    Over,
}

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

/// The state machine of a handshake; see the module's picture.
#[derive(Debug)]
pub struct Handshake {
    wishes: ClientWishes,
    /// Options in the order in which they are tried.
    order: &'static [Opt],
    /// How many of them are behind.
    step: usize,
    state: State,
    /// The message that is coming in.
    pending: Vec<u8>,
    no_zeroes: bool,
    encrypted: bool,
    learned: Learned,
    /// Replies and bytes that the option under way has had so far.
    replies: u32,
    reply_bytes: u64,
}

const TO_OPEN: &[Opt] = &[
    Opt::StartTls,
    Opt::ExtendedHeaders,
    Opt::StructuredReply,
    Opt::SetMetaContext,
    Opt::Go,
];
const TO_LIST: &[Opt] = &[Opt::StartTls, Opt::List];

impl Handshake {
    /// A handshake that opens an export.
    pub fn open(wishes: ClientWishes) -> Self {
        Self::new(wishes, TO_OPEN)
    }

    /// A handshake that lists the exports, and leaves.
    pub fn list(tls: Tls) -> Self {
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
            pending: Vec::new(),
            no_zeroes: false,
            encrypted: false,
            learned: Learned::default(),
            replies: 0,
            reply_bytes: 0,
        }
    }

    /// Consumes from `input`, and appends what must be sent to `output`.
    ///
    /// # Errors
    /// When the server refuses, cannot do what was wished, or breaks the protocol. The connection
    /// must be closed.
    pub fn advance(
        &mut self,
        input: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Advance, HandshakeError> {
        let result = self.run(input, output);
        if result.is_err() {
            self.state = State::Over;
        }
        result
    }

    /// What is awaited from the server, for the message when it does not come in time.
    pub fn waiting_for(&self) -> &'static str {
        match self.state {
            State::Greeting => "the server's greeting",
            State::Asked(option) => option.reply_name(),
            State::TlsUpgrade => "the TLS handshake",
            State::Over => "nothing",
        }
    }

    /// The error for a stream that ended before the handshake did.
    pub fn disconnected(&self) -> HandshakeError {
        let hint = match self.state {
            State::Greeting => "; it may have no free slot, or serve something else",
            State::Asked(Opt::ExportName) => {
                "; it may have no export of that name, or insist on TLS"
            }
            _ => "",
        };
        HandshakeError::Disconnected {
            waiting_for: self.waiting_for(),
            hint,
        }
    }

    fn run(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Advance, HandshakeError> {
        match self.state {
            State::Over => return Err(HandshakeError::Over),
            State::TlsUpgrade => {
                self.encrypted = true;
                self.ask_next(output);
            }
            State::Greeting => self.check_wishes()?,
            State::Asked(_) => {}
        }
        let mut rest = input;
        loop {
            if !self.collect(&mut rest)? {
                let consumed = input.len() - rest.len();
                return Ok(Advance {
                    consumed,
                    status: HandshakeStatus::NeedInput,
                });
            }
            let message = std::mem::take(&mut self.pending);
            let status = match self.state {
                State::Greeting => self.greeted(&message, output)?,
                State::Asked(Opt::ExportName) => Some(self.export_named(&message)?),
                State::Asked(option) => self.answered(option, &message, rest.len(), output)?,
                State::TlsUpgrade | State::Over => return Err(HandshakeError::Over),
            };
            self.pending = message;
            self.pending.clear();
            if let Some(status) = status {
                return Ok(Advance {
                    consumed: input.len() - rest.len(),
                    status,
                });
            }
        }
    }

    fn check_wishes(&self) -> Result<(), HandshakeError> {
        let export = ("export name", &self.wishes.export);
        let contexts = self
            .wishes
            .contexts
            .iter()
            .map(|name| ("metadata context name", name));
        for (what, name) in contexts.chain([export]) {
            if name.len() > wire::MAX_STRING_LEN {
                return Err(HandshakeError::NameTooLong {
                    what,
                    length: name.len(),
                });
            }
        }
        let count = self.wishes.contexts.len();
        if count > MAX_CONTEXTS {
            return Err(HandshakeError::TooManyContexts {
                count,
                limit: MAX_CONTEXTS,
            });
        }
        Ok(())
    }

    /// Moves bytes of the message that is coming in to `pending`; true when it is complete.
    fn collect(&mut self, input: &mut &[u8]) -> Result<bool, HandshakeError> {
        loop {
            let goal = self.message_len()?;
            let missing = goal.saturating_sub(self.pending.len());
            if missing == 0 {
                return Ok(true);
            }
            if input.is_empty() {
                return Ok(false);
            }
            let (taken, rest) = input.split_at(missing.min(input.len()));
            self.pending.extend_from_slice(taken);
            *input = rest;
        }
    }

    /// Length of the message that is coming in, as far as is known yet.
    fn message_len(&self) -> Result<usize, HandshakeError> {
        match self.state {
            State::Greeting => {
                check_greeting(&self.pending)?;
                Ok(wire::GREETING_LEN)
            }
            State::Asked(Opt::ExportName) => Ok(8
                + 2
                + if self.no_zeroes {
                    0
                } else {
                    wire::EXPORT_NAME_ZEROES_LEN
                }),
            State::Asked(_) if self.pending.len() < wire::OPTION_REPLY_HEAD_LEN => {
                Ok(wire::OPTION_REPLY_HEAD_LEN)
            }
            State::Asked(option) => {
                let length = OptionReplyHead::parse(option, &self.pending)?.length;
                let length = usize::try_from(length).expect("bounded by the head's parser");
                Ok(wire::OPTION_REPLY_HEAD_LEN + length)
            }
            State::TlsUpgrade | State::Over => Ok(0),
        }
    }

    fn greeted(
        &mut self,
        message: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<HandshakeStatus>, HandshakeError> {
        let flags = message
            .last_chunk()
            .map_or(0, |flags| u16::from_be_bytes(*flags));
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
            return Err(HandshakeError::NotFixed {
                wish: "a list of exports",
            });
        } else {
            self.ask(Opt::ExportName, output);
        }
        Ok(None)
    }

    fn answered(
        &mut self,
        option: Opt,
        message: &[u8],
        unread: usize,
        output: &mut Vec<u8>,
    ) -> Result<Option<HandshakeStatus>, HandshakeError> {
        self.count_reply(option, message.len())?;
        let head = OptionReplyHead::parse(option, message)?;
        let payload = message
            .get(wire::OPTION_REPLY_HEAD_LEN..)
            .unwrap_or_default();
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
                if self
                    .learned
                    .contexts
                    .iter()
                    .any(|known| known.id == context.id)
                {
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
            return Err(HandshakeError::Endless {
                option,
                limit: "8 MiB",
            });
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
            (Opt::Go, wire::NBD_REP_ERR_UNKNOWN) => HandshakeError::UnknownExport {
                export: self.wishes.export.clone(),
                message,
            },
            (Opt::Go, wire::NBD_REP_ERR_BLOCK_SIZE_REQD) => {
                HandshakeError::BlockSizeRequired { message }
            }
            (_, wire::NBD_REP_ERR_POLICY) => HandshakeError::Policy {
                option: name,
                message,
            },
            (_, wire::NBD_REP_ERR_TOO_BIG) => HandshakeError::TooBig {
                option: name,
                message,
            },
            _ => HandshakeError::Refused {
                option: name,
                code,
                message,
            },
        })
    }

    fn export_named(&mut self, message: &[u8]) -> Result<HandshakeStatus, HandshakeError> {
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
    fn ask_next(&mut self, output: &mut Vec<u8>) {
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
        let ClientWishes {
            export, contexts, ..
        } = &self.wishes;
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

/// Checks as much of a greeting as has come: a stranger may never send all of it.
fn check_greeting(bytes: &[u8]) -> Result<(), HandshakeError> {
    let mut fields = Fields::of(bytes);
    match fields.u64() {
        None | Some(wire::NBDMAGIC) => {}
        Some(greeting) => return Err(HandshakeError::NotNbd { greeting }),
    }
    match fields.u64() {
        None | Some(wire::IHAVEOPT) => Ok(()),
        Some(wire::OLDSTYLE_MAGIC) => Err(HandshakeError::OldStyle),
        Some(greeting) => Err(HandshakeError::NotNbd { greeting }),
    }
}
