//! What is told of jobs, points and what was found in them, as JSON: the same from a repository and from a hub.
//!
//! ```text
//!  JobRecord     how far a job is           EventRecord   what happens to it
//!  PointRecord   a point and its disks      BytesRecord   bytes, apart
//!  ChoiceRecord  what one backup of a VM has otherwise than others
//!  ReadingRecord what happens while a hub reads a point   VerifyRecord  what a verification found
//! ```
//!
//! A hub writes them, its client reads them, and the command line prints them. Fields are added,
//! never taken away or given another meaning; whoever reads them skips what it does not know.

mod choice;
mod event;
mod job;
mod point;
mod reading;
mod verify;

pub use choice::ChoiceRecord;
pub use event::{EventRecord, MovedRecord};
pub use job::{BytesRecord, JobRecord, ProgressRecord, QueueRecord, SaidRecord, StepRecord};
pub use point::{DiskRecord, KeptBytesRecord, LayerRecord, NoteRecord, PointRecord};
pub use reading::{ExportRecord, ExportedDiskRecord, ReadingRecord};
pub use verify::{
    AgainstRecord, CatalogFaultRecord, DamageRecord, RangeRecord, RangesRecord, VerifiedDiskRecord,
    VerifiedPointRecord, VerifyRecord,
};
