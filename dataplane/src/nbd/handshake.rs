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
use super::negotiation::{Negotiation, State};
use super::options::{Opt, OptionReplyHead};
use super::refusal::HandshakeError;
use super::session::{ExportInfo, Session};
use super::wire;

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

/// The state machine of a handshake; see the module's picture.
#[derive(Debug)]
pub struct Handshake {
    negotiation: Negotiation,
    /// The message that is coming in.
    pending: Vec<u8>,
}

impl Handshake {
    /// A handshake that opens an export.
    pub fn open(wishes: ClientWishes) -> Self {
        Self { negotiation: Negotiation::open(wishes), pending: Vec::new() }
    }

    /// A handshake that lists the exports, and leaves.
    pub fn list(tls: Tls) -> Self {
        Self { negotiation: Negotiation::list(tls), pending: Vec::new() }
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
            self.negotiation.state = State::Over;
        }
        result
    }

    /// What is awaited from the server, for the message when it does not come in time.
    pub fn waiting_for(&self) -> &'static str {
        match self.negotiation.state {
            State::Greeting => "the server's greeting",
            State::Asked(option) => option.reply_name(),
            State::TlsUpgrade => "the TLS handshake",
            State::Over => "nothing",
        }
    }

    /// The error for a stream that ended before the handshake did.
    pub fn disconnected(&self) -> HandshakeError {
        let hint = match self.negotiation.state {
            State::Greeting => "; it may have no free slot, or serve something else",
            State::Asked(Opt::ExportName) => {
                "; it may have no export of that name, or insist on TLS"
            }
            _ => "",
        };
        HandshakeError::Disconnected { waiting_for: self.waiting_for(), hint }
    }

    fn run(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Advance, HandshakeError> {
        match self.negotiation.state {
            State::Over => return Err(HandshakeError::Over),
            State::TlsUpgrade => {
                self.negotiation.encrypted = true;
                self.negotiation.ask_next(output);
            }
            State::Greeting => self.negotiation.check_wishes()?,
            State::Asked(_) => {}
        }
        let mut rest = input;
        loop {
            if !self.collect(&mut rest)? {
                let consumed = input.len() - rest.len();
                return Ok(Advance { consumed, status: HandshakeStatus::NeedInput });
            }
            let message = std::mem::take(&mut self.pending);
            let status = match self.negotiation.state {
                State::Greeting => self.negotiation.greeted(&message, output)?,
                State::Asked(Opt::ExportName) => Some(self.negotiation.export_named(&message)?),
                State::Asked(option) => {
                    self.negotiation.answered(option, &message, rest.len(), output)?
                }
                State::TlsUpgrade | State::Over => return Err(HandshakeError::Over),
            };
            self.pending = message;
            self.pending.clear();
            if let Some(status) = status {
                return Ok(Advance { consumed: input.len() - rest.len(), status });
            }
        }
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
        match self.negotiation.state {
            State::Greeting => {
                check_greeting(&self.pending)?;
                Ok(wire::GREETING_LEN)
            }
            State::Asked(Opt::ExportName) => {
                let no_zeroes = self.negotiation.no_zeroes;
                Ok(8 + 2 + if no_zeroes { 0 } else { wire::EXPORT_NAME_ZEROES_LEN })
            }
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
