//! Block status: which of the coming bytes are zero, or changed.

use std::rc::Rc;

use rustix::fs::SeekFrom;

use crate::engine::Descriptor;
use crate::fault::{Cause, Side};
use crate::nbd::{Command, CommandFlags, Extents, NbdError, ReplyMode, Request};
use crate::plan::extents::{HOLE, ZERO};
use crate::plan::{Area, Run};

use super::context::Context;
use super::replies::{ALLOCATION, Go};
use super::slots::Cookie;
use super::strand::SourceSide;
use super::task::Task;

/// Runs of one file that are found at a time.
const FILE_RUNS: usize = 1024;

/// Bytes that one block status asks about at most where its reply has lengths of 32 bits: nbdkit
/// 1.32 aborts when it is asked about nearly 4 GiB.
const COMPACT_QUESTION_BYTES: u64 = 1 << 30;

/// A block status reply on its way.
#[derive(Default)]
pub(super) struct StatusAnswer {
    pub(super) allocation: Vec<Run>,
    pub(super) dirty: Vec<Run>,
    pub(super) failed: Option<String>,
}

/// A metadata context that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Allocation,
    Dirty,
}

impl StatusAnswer {
    /// Takes the extents of one context.
    pub(super) fn take(&mut self, context: Option<Known>, extents: Extents<'_>) {
        let runs = match context {
            Some(Known::Allocation) => &mut self.allocation,
            Some(Known::Dirty) => &mut self.dirty,
            None => {
                let what = "the server sent a metadata context that was not selected";
                self.failed = Some(what.into());
                return;
            }
        };
        if !runs.is_empty() {
            self.failed = Some("the server described the same range twice".into());
            return;
        }
        runs.extend(extents.map(|extent| Run { length: extent.length, flags: extent.flags }));
    }

    /// Notes that the server refused; the first reason stays.
    pub(super) fn fail(&mut self, error: NbdError, message: &str) {
        let colon = if message.is_empty() { "" } else { ": " };
        self.failed.get_or_insert_with(|| format!("{}{colon}{message}", error.description()));
    }
}

impl Task {
    /// Asks the source ahead which of the coming bytes are zero, or changed.
    pub(super) fn ask_status(&mut self, context: &mut Context<'_>) {
        if let SourceSide::File(file) = &self.strands[0].source {
            let file = Rc::clone(file);
            return self.ask_file(&file);
        }
        let Some(link) = self.strands[0].source_link() else {
            return;
        };
        let (true, Some(session)) = (link.is_ready(), link.session.as_ref()) else {
            return;
        };
        let longest = longest_question(session.mode);
        let granularity = u64::from(session.block_size.minimum);
        let Some(question) = self.work.question(longest, granularity) else {
            return;
        };
        let Some(link) = self.strands[0].source_link() else {
            return;
        };
        self.status.allocation.clear();
        self.status.dirty.clear();
        self.status.failed = None;
        let request = Request {
            command: Command::BlockStatus,
            flags: CommandFlags::NONE,
            cookie: Cookie::Status.number(),
            offset: question.start,
            length: question.length,
        };
        link.request(request, None, context.now);
    }

    pub(super) fn reads_a_file(&self) -> bool {
        matches!(self.strands[0].source, SourceSide::File(_))
    }

    /// Asks a file for its holes: seeking is answered on the spot.
    fn ask_file(&mut self, file: &crate::engine::Descriptor) {
        while let Some(question) = self.work.question(u64::MAX, 1) {
            let mut runs = std::mem::take(&mut self.status.allocation);
            holes_of(file, question, &mut runs);
            let answered = self.work.answer(Some(&mut runs), None);
            self.status.allocation = runs;
            if answered.is_err() {
                return self.work.stop_asking();
            }
        }
    }

    pub(super) fn status_ended(&mut self, strand: usize) -> Result<Go, Cause> {
        self.request_ended(strand, Side::Source);
        if self.fault.is_some() {
            return Ok(Go::On); // nothing more is begun
        }
        let mut allocation = std::mem::take(&mut self.status.allocation);
        let mut dirty = std::mem::take(&mut self.status.dirty);
        let with_dirty = self.dirty_context.is_some();
        let answered = match self.status.failed.take() {
            Some(reason) => Err(reason),
            None => {
                let known = self.knows_allocation(strand);
                self.work.answer(
                    known.then_some(&mut allocation[..]),
                    with_dirty.then_some(&mut dirty[..]),
                )
            }
        };
        (self.status.allocation, self.status.dirty) = (allocation, dirty);
        match answered {
            Ok(skipped) => self.live.skipped.add(skipped),
            // Without the bitmap nobody knows what changed: reading everything would be a full
            // copy that was not asked for.
            Err(reason) if with_dirty => {
                return Err(Cause::Unfit(format!("its dirty bitmap cannot be read: {reason}")));
            }
            Err(reason) => {
                self.note(&format!(
                    "the source's block status failed ({reason}): everything is read"
                ));
                self.work.stop_asking();
            }
        }
        Ok(Go::On)
    }

    fn knows_allocation(&mut self, strand: usize) -> bool {
        let session = self.strands[strand].source_link().and_then(|link| link.session.as_ref());
        session.is_some_and(|session| session.context(ALLOCATION).is_some())
    }
}

/// Bytes that one block status may ask about.
pub(super) fn longest_question(mode: ReplyMode) -> u64 {
    match mode {
        ReplyMode::Simple | ReplyMode::Structured => COMPACT_QUESTION_BYTES,
        ReplyMode::Extended => crate::nbd::max_request_length(mode),
    }
}

/// Finds the data and holes of a file, from the start of a range on, up to [`FILE_RUNS`] of them.
pub(super) fn holes_of(file: &Descriptor, range: Area, runs: &mut Vec<Run>) {
    runs.clear();
    let mut at = range.start;
    while at < range.end() && runs.len() < FILE_RUNS {
        let (end, flags) = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) if data > at => (data, HOLE | ZERO),
            Ok(_) => (rustix::fs::seek(file, SeekFrom::Hole(at)).unwrap_or(range.end()), 0),
            Err(rustix::io::Errno::NXIO) => (range.end(), HOLE | ZERO),
            // It cannot tell: all of it is read.
            Err(_) => (range.end(), 0),
        };
        let end = end.clamp(at + 1, range.end());
        runs.push(Run { length: end - at, flags });
        at = end;
    }
}
