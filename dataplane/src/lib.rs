//! The data plane of blockferry.

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
