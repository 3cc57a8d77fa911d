//! Why a handshake came to nothing.

use super::wire;

/// A handshake failed: the connection is of no more use.
///
/// `message` is the server's text, fit for printing, and empty if it sent none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer is something else.
    #[error(
        "the peer is no NBD server: it greeted with {greeting:#018x}; check host, port or socket"
    )]
    NotNbd {
        /// The first eight bytes, or the second if the first were right.
        greeting: u64,
    },
    /// A server of before 2012.
    #[error(
        "the server speaks oldstyle NBD only, which has no export names; use a newstyle server"
    )]
    OldStyle,
    /// The server cannot answer options, and the wish needs one.
    #[error("the server does not negotiate (no fixed newstyle), which {wish} needs")]
    NotFixed {
        /// What was wanted.
        wish: &'static str,
    },
    /// A name that cannot be sent.
    #[error("the {what} is {length} bytes long, and NBD allows {max}", max = wire::MAX_STRING_LEN)]
    NameTooLong {
        /// Export name or context name.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// More contexts than make sense.
    #[error("{count} metadata contexts are wanted, and {limit} can be asked for")]
    TooManyContexts {
        /// Wanted.
        count: usize,
        /// Allowed.
        limit: usize,
    },
    /// TLS was required, and the server does not do it.
    #[error(
        "the server refused TLS{}; use nbd:// only if the network can be trusted",
        said(message)
    )]
    TlsRefused {
        /// The server's words.
        message: String,
    },
    /// The server insists on TLS.
    #[error("the server insists on TLS{}; use nbds:// instead of nbd://", said(message))]
    TlsRequired {
        /// The server's words.
        message: String,
    },
    /// Plain bytes behind the acknowledgement of STARTTLS: somebody between may have put them there.
    #[error(
        "{length} bytes came unencrypted after the server agreed on TLS; the connection may be tampered with"
    )]
    Injection {
        /// How many.
        length: usize,
    },
    /// No such export.
    #[error(
        "the server has no export {export:?}{}; list its exports to see their names",
        said(message)
    )]
    UnknownExport {
        /// The name that was asked for.
        export: String,
        /// The server's words.
        message: String,
    },
    /// The server's policy forbids it.
    #[error("the server's policy forbids {option}{}", said(message))]
    Policy {
        /// What was asked for.
        option: &'static str,
        /// The server's words.
        message: String,
    },
    /// The server is going away; try again later.
    #[error("the server is shutting down{}", said(message))]
    Shutdown {
        /// The server's words.
        message: String,
    },
    /// The server wants its block size to be kept to, and was asked for it, and refuses still.
    #[error("the server insists on a block size that it does not tell{}", said(message))]
    BlockSizeRequired {
        /// The server's words.
        message: String,
    },
    /// The server found the option, or its own answer, too large.
    #[error("the server finds {option} too large{}", said(message))]
    TooBig {
        /// What was asked for.
        option: &'static str,
        /// The server's words.
        message: String,
    },
    /// Any other refusal.
    #[error("the server refused {option} with error {code:#x}{}", said(message))]
    Refused {
        /// What was asked for.
        option: &'static str,
        /// The type of the reply.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// The stream ended. In answer to `NBD_OPT_EXPORT_NAME` that is how a server refuses.
    #[error("the server closed the connection while {waiting_for} was awaited{hint}")]
    Disconnected {
        /// What should have come.
        waiting_for: &'static str,
        /// What it may mean, with a separator in front; or empty.
        hint: &'static str,
    },
    /// Sizes that break the specification's rules.
    #[error(
        "the server's block sizes make no sense: minimum {minimum}, preferred {preferred}, maximum {maximum} bytes"
    )]
    BlockSize {
        /// In bytes.
        minimum: u32,
        /// In bytes.
        preferred: u32,
        /// In bytes.
        maximum: u32,
    },
    /// More than a file offset can hold.
    #[error("the server says that the export has {size} bytes, more than an offset can reach")]
    Size {
        /// In bytes.
        size: u64,
    },
    /// An answer that does not fit the question.
    #[error("the server broke the protocol in its reply to {option}: {problem}")]
    Protocol {
        /// What was asked for.
        option: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// An answer longer than any sensible one.
    #[error("the server sent a reply of {length} bytes to {option}, more than {limit}")]
    ReplyTooLong {
        /// What was asked for.
        option: &'static str,
        /// In bytes.
        length: u32,
        /// In bytes.
        limit: u32,
    },
    /// An answer that does not end.
    #[error("the server does not stop answering {option}: more than {limit}")]
    Endless {
        /// What was asked for.
        option: &'static str,
        /// Replies or bytes.
        limit: &'static str,
    },
    /// `advance` was called after the handshake had ended.
    #[error("the handshake is over")]
    Over,
}

/// The server's words as the end of a sentence.
fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" (it says: {message})") }
}
