//! What is told of jobs and points, as JSON: the same from a repository and from a hub.
//!
//! ```text
//!  JobRecord     how far a job is           EventRecord   what happens to it
//!  PointRecord   a point and its disks      BytesRecord   bytes, apart
//! ```
//!
//! A hub writes them, its client reads them, and the command line prints them. Fields are added,
//! never taken away or given another meaning; whoever reads them skips what it does not know.

mod event;
mod job;
mod point;

pub use event::{EventRecord, MovedRecord};
pub use job::{BytesRecord, JobRecord, ProgressRecord, QueueRecord, StepRecord};
pub use point::{DiskRecord, KeptBytesRecord, LayerRecord, PointRecord};
