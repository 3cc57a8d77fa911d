//! What was asked, and how long the server itself took for it.

use std::time::{Duration, Instant};

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// As in the schema.
    pub method: String,
    /// The object that it went to: `vm-57`.
    pub object: String,
    /// When it was read in full.
    pub asked: Instant,
    /// From then until its answer was made: the server's own time.
    pub own: Duration,
    /// The type of the fault, if it was one.
    pub fault: Option<String>,
}

/// One task.
#[derive(Clone, Debug)]
pub struct TaskRun {
    /// `task-63`.
    pub id: String,
    /// As in the schema.
    pub method: &'static str,
    /// The object that it worked on.
    pub object: String,
    /// When it began.
    pub started: Instant,
    /// When it had ended; none while it runs.
    pub ended: Option<Instant>,
    /// The type of the fault that it ended with.
    pub fault: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) calls: Vec<Call>,
}
