//! The plan of a lane: which bytes of a disk are moved, and how.
//!
//! ```text
//! changed areas (JSON, bitmap, whole disk)       block status of the source
//!        |  areas: AreaSet                               |
//!        v                                               v
//!     rounded out to the target's cluster --> extents: ExtentCutter --> Segment { Data | Zero }
//!                                                                            |
//!                                                          requests: Pieces  v
//!                                                                     one piece per request
//! ```
//!
//! Nothing here does I/O or knows a connection. All offsets and lengths are bytes of the disk.

pub mod areas;
pub mod extents;
pub mod requests;

pub use areas::{Area, AreaError, AreaSet};
pub use extents::{Cut, ExtentCutter, ExtentError, Run, Segment, SegmentKind};
pub use requests::{Pieces, RequestSize};
