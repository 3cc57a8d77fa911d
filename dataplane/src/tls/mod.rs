//! TLS under an NBD connection, in a thread of its own.
//!
//! ```text
//!            near end   far end                    socket
//!  link ◄───────────────────────► session thread ◄────────► server
//!          NBD in the clear        rustls              TLS records
//! ```
//!
//! Engines move bytes between descriptors and know no TLS: after STARTTLS the link goes on with
//! the near end of a socket pair, and a thread carries the session between its far end and the
//! real socket. That keeps both engines and both payload paths as they are, and the CPU that a
//! session costs stays off the thread of the lanes.
//!
//! **Ownership.** The thread owns the far end and a duplicate of the socket; the link owns the near
//! end. Shutting the near end down, or closing it, ends the thread in every state within
//! [`session::LINGER`]; nobody waits for it. The near end has no half-close.
//!
//! **Failures.** Why a session failed is known before the near end shows that it ended, so that
//! whoever reads its end of file finds the reason in [`Upgrade::failure`].

#![forbid(unsafe_code)]

mod buffer;
mod credentials;
mod reason;
mod session;
mod upgrade;
mod verifier;

#[cfg(test)]
mod tests;

pub(crate) use upgrade::{Upgrade, upgrade};
