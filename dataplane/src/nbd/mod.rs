//! The NBD protocol of the client's side, without I/O: functions and state machines over bytes.
//!
//! ```text
//!  NbdUri ──► ClientWishes                              who opens the socket: the engine
//!                  │
//!                  ▼          greeting, TLS, headers,
//!             Handshake  ◄──► contexts, export          phase 1: options, one at a time
//!                  │
//!                  ▼
//!               Session       size, flags, block size, reply mode, contexts
//!                  │
//!        ┌─────────┴──────────┐
//!        ▼                    ▼
//!   Request::encode      ReplyReader ──► Reply          phase 2: requests out, events in
//!                             │
//!                        Data/Simple READ: the payload stays in the stream,
//!                        its receiver is the caller (a pool buffer or a pipe)
//! ```
//!
//! What comes from the wire is hostile until checked: each length is bounded before memory is taken
//! for it, and what the specification forbids ends in an error, never in a panic. Numbers and names
//! are those of the specification, `doc/proto.md` and `doc/uri.md` of NetworkBlockDevice/nbd.

#![forbid(unsafe_code)]

mod chunk;
mod errno;
mod escape;
mod fields;
mod handshake;
mod message;
mod negotiation;
mod options;
mod refusal;
mod reply;
mod request;
mod session;
mod shown;
mod status;
mod uri;
pub mod wire;

#[cfg(test)]
mod tests;

pub use errno::NbdError;
pub use handshake::{Advance, ClientWishes, Handshake, HandshakeStatus, Tls};
pub use message::printable;
pub use refusal::HandshakeError;
pub use reply::{Reply, ReplyError, ReplyLimits, ReplyReader};
pub use request::{
    Command, CommandFlags, MAX_REQUEST_LEN, Request, max_request_length, request_len,
};
pub use session::{BlockSize, ExportInfo, MetaContext, ReplyMode, Session, TransmissionFlags};
pub use shown::without_passwords;
pub use status::{Extent, Extents};
pub use uri::{Address, NbdUri, NbdUriError, TlsParams};
