//! The data plane of blockferry: moves blocks between NBD servers, files and streams.
//!
//! ```no_run
//! use blockferry_dataplane::{Endpoint, Lane, Mover, MoverSettings};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let source = Endpoint::nbd("nbd://source/disk".parse()?);
//! let target = Endpoint::nbd("nbd://127.0.0.1:10100/disk".parse()?);
//! let running = Mover::new(MoverSettings::default()).start(vec![Lane::new(source, target)])?;
//! let canceller = running.canceller(); // ends it early, from any thread
//! # let _ = canceller;
//! for lane in running.wait().lanes {
//!     lane.outcome?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A [`Lane`] is one copy, with [`LaneSettings`]; a [`Mover`] runs lanes on threads of its own and
//! tells of them by [`Event`]s, counts and a [`Report`]. There is no global state, and no tokio.
//! Payload that moves inside the kernel can raise SIGPIPE: a program that does not ignore it, as
//! Rust programs do by default, should.

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
pub mod digest;
mod endpoint;
mod engine;
mod fault;
pub mod journal;
mod lane;
pub mod manifest;
mod mover;
pub mod nbd;
pub mod plan;
mod pool;
pub mod rate;
mod report;
mod settings;
pub mod tcp;
mod tls;
pub mod units;
pub mod zero;

pub use endpoint::{Dial, Endpoint, NbdEndpoint};
pub use engine::{EngineChoice, EngineKind};
pub use fault::{Cause, Fault, Side};
pub use lane::Lane;
pub use mover::{Canceller, Mover, Running};
pub use report::{Counts, Event, LaneReport, PayloadKind, Report};
pub use settings::{
    Extent, LaneSettings, MAX_ADAPTED_BYTES, MIN_REQUEST_BYTES, MoverSettings, PayloadChoice,
};
