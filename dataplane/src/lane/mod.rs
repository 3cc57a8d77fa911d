//! Lanes: the stream from one source to one target.
//!
//! ```text
//!             ┌──────────────────────── Task ────────────────────────┐
//!   areas ──▶ │ Work ──piece──▶ Slot ──▶ Strand ┌ source Link ──────┐│ ──Op──▶ engine
//!             │  ▲               │              └ target Link ──────┘│ ◀─Completion
//!             │  └──── losses ───┘   Unflushed ──FLUSH──▶ Journal    │
//!             └──────────────────────────────────────────────────────┘
//! ```
//!
//! [`Task`] is the state machine; an engine's completions drive it, and it never waits. See
//! docs/architecture.md for who owns what when.

mod adapt;
mod base;
mod choose;
mod context;
mod conveying;
mod coverage;
mod destination;
mod durable;
mod file;
mod fineness;
mod inspect;
mod issue;
mod leaving;
mod link;
mod liveness;
mod negotiate;
mod open;
mod probe;
mod reading;
mod recover;
mod replies;
mod role;
mod seal;
mod slots;
mod spare;
mod status;
mod strand;
mod target_zeros;
mod task;
mod work;
mod writing;
mod zeroing;

pub(crate) use context::{Context, HEAD_BYTES};
pub(crate) use task::{Observer, Task};

use crate::endpoint::Endpoint;
use crate::settings::LaneSettings;

/// One copy to be made: a source, a target, and how.
#[derive(Clone, Debug)]
pub struct Lane {
    pub(crate) source: Endpoint,
    pub(crate) target: Endpoint,
    pub(crate) settings: LaneSettings,
}

impl Lane {
    /// A lane with the default settings: the whole source, as fast as it goes.
    #[must_use]
    pub fn new(source: Endpoint, target: Endpoint) -> Self {
        Self { source, target, settings: LaneSettings::default() }
    }

    /// The same lane with other settings.
    #[must_use]
    pub fn with_settings(mut self, settings: LaneSettings) -> Self {
        self.settings = settings;
        self
    }
}
