//! An NBD server that keeps to the protocol until it is told to break it.
//!
//! ```text
//!  builder -> server: accepts, a thread per connection
//!                |
//!             handshake -> session: requests in, replies out
//!                             |        |        \
//!                          image     reply      log
//!                 (undoes what was   (encodes,  (what came, in order, and
//!                  not flushed)      breaks)     what the client did wrong)
//!
//!  fault: what goes wrong, at which occasion, when      wire: numbers of the protocol
//! ```
//!
//! ```no_run
//! use blockferry_doubles::{Fault, Hostile, Trigger};
//! let server = Hostile::builder()
//!     .size(1 << 20)
//!     .fault(Fault::DataThenError, Trigger::Nth(3))
//!     .start()?;
//! println!("{}", server.uri());
//! # std::io::Result::Ok(())
//! ```

mod builder;
mod fault;
mod handshake;
mod image;
mod log;
mod reply;
mod server;
mod session;
pub mod wire;

pub use builder::{Hostile, Replies};
pub use fault::{Fault, Occasion, Trigger};
pub use log::{Command, Request, merged};
pub use server::HostileServer;

/// What data looks like that must never reach a target.
pub const POISON: u8 = 0xBD;
