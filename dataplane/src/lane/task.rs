//! A lane at work: the state machine that an engine's completions drive.
//!
//! ```text
//!   Opening ──▶ (Checking) ──▶ Running ──▶ Flushing ──▶ Closing ──▶ Over
//!                   resumed        │           ▲
//!                   journal        └─ fault ─▶ Draining
//! ```
//!
//! `issue.rs` begins pieces, `replies.rs` follows them to their acknowledgement, `recover.rs`
//! puts back what a lost connection undid, `durable.rs` makes it last, `leaving.rs` ends it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::endpoint::Endpoint;
use crate::engine::{Completion, Token};
use crate::fault::{Cause, Fault, Side};
use crate::journal::{Entry, Journal, Witness};
use crate::manifest::Manifest;
use crate::nbd::{BlockSize, NbdError};
use crate::plan::Area;
use crate::rate::RateShare;
use crate::report::{Event, LaneReport, LiveCounts, PayloadKind};
use crate::settings::LaneSettings;

use super::adapt::Adapt;
use super::context::Context;
use super::durable::Unflushed;
use super::inspect::Inspector;
use super::link::Happened;
use super::probe::Probe;
use super::role::Role;
use super::seal::Seal;
use super::slots::Slots;
use super::status::StatusAnswer;
use super::strand::{SourceSide, Strand, TargetSide};
use super::target_zeros::TargetZeros;
use super::work::Work;

/// Tells whoever runs the mover what happens.
pub(crate) type Observer = dyn Fn(&Event<'_>) + Send + Sync;

/// One lane, on the thread that runs it.
pub(crate) struct Task {
    /// Its index in the mover's list.
    pub(super) index: usize,
    /// Its index on the thread, for tokens.
    pub(super) id: u32,
    pub(super) source: Endpoint,
    pub(super) target: Endpoint,
    pub(super) settings: LaneSettings,
    pub(super) live: Arc<LiveCounts>,
    pub(super) observer: Arc<Observer>,
    pub(super) phase: Phase,
    pub(super) strands: Vec<Strand>,
    pub(super) slots: Slots,
    pub(super) work: Work,
    /// Bytes of the disk, if it has an end that is known.
    pub(super) size: Option<u64>,
    /// Bytes that the source serves: the size, or more where it rounds that up.
    pub(super) served: Option<u64>,
    pub(super) payload: PayloadKind,
    pub(super) reason: String,
    pub(super) adapt: Adapt,
    /// Longest data piece that both sides and the pool take, in bytes; a power of two.
    pub(super) data_max: u64,
    /// Bytes of a block of the pool; a power of two.
    pub(super) block_bytes: u64,
    /// Longest write from a buffer of ours, in bytes; a power of two.
    pub(super) write_max: u64,
    /// Longest zero piece, in bytes.
    pub(super) zero_max: u64,
    /// The target makes ranges zero by itself.
    pub(super) can_zero: bool,
    pub(super) target_is_zero: bool,
    pub(super) status: StatusAnswer,
    pub(super) target_zeros: TargetZeros,
    /// The metadata context of the dirty bitmap, if the lane follows one.
    pub(super) dirty_context: Option<String>,
    /// Errors of target requests whose last chunk has not come: cookie, error, message.
    pub(super) refusals: Vec<(u64, NbdError, String)>,
    pub(super) unflushed: Unflushed,
    /// The most bytes that were finished with at any time.
    pub(super) best_finished: u64,
    pub(super) journal: Option<Journal>,
    pub(super) probe: Option<Probe>,
    /// Ranges that are still to be read back for the journal, and the witnesses made so far.
    pub(super) places: Vec<Area>,
    pub(super) made: Vec<Witness>,
    /// What tells the image of this copy from any other, until it is complete.
    pub(super) seal: Seal,
    /// Witnesses of a resumed journal that are still to be compared.
    pub(super) witnesses: Vec<Witness>,
    pub(super) inspector: Inspector,
    /// The manifest was complete when the lane began.
    pub(super) manifest_is_complete: bool,
    pub(super) fault: Option<Fault>,
    /// The thread's pool had no block left: try again when one is free.
    pub(super) starved: bool,
    /// What the lane has of the rate limit.
    pub(super) rate_share: RateShare,
    /// Nothing may be begun before: it is the turn of others.
    pub(super) not_before: Option<Instant>,
    pub(super) reconnects: u32,
    pub(super) flushes: u32,
    pub(super) started: Instant,
    pub(super) draining_since: Instant,
    pub(super) closing_since: Option<Instant>,
    /// Size of the target in bytes, if it has one.
    pub(super) target_size: Option<u64>,
    /// What source and target take, by their first connections.
    pub(super) planned_with: [BlockSize; 2],
    pub(super) elapsed: Duration,
}

/// Where a lane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first connection to each side is being made.
    Opening,
    /// A resumed journal's seal and witnesses are compared with both sides, or a seal is set.
    Checking,
    Running,
    /// Nothing is begun any more; what is in flight comes to its end.
    Draining,
    /// The last FLUSH is awaited.
    Flushing,
    /// Servers are heard out, and told that this is the end.
    Closing,
    Over,
}

impl Task {
    /// Handles the completion of an operation of this lane.
    pub(crate) fn complete(
        &mut self,
        token: Token,
        completion: Completion,
        context: &mut Context<'_>,
    ) {
        let (role, side) = Role::of(token.role);
        let strand = usize::from(token.strand);
        match role {
            Role::Read => self.file_read(strand, token.tag, completion, context),
            Role::Write => self.file_written(strand, token.tag, completion, context),
            Role::Sync => self.file_synced(completion, context),
            Role::Await => self.writer_came(completion, context),
            Role::Convey => self.conveyed(strand, token.tag, completion, context),
            Role::Connect | Role::Send | Role::Receive | Role::Discard | Role::Payload => {
                let Some(link) = self.strands[strand].link(side) else {
                    return;
                };
                if link.epoch != token.tag {
                    return self
                        .spare_completed(strand, side, token.tag, role, completion, context);
                }
                if role == Role::Payload {
                    return self.payload_received(strand, side, completion, context);
                }
                match link.complete(role, completion, context) {
                    Ok(Happened::Nothing) => {}
                    Ok(Happened::Ready) => self.link_ready(strand, side, context),
                    Ok(Happened::Received) => self.take_replies(strand, side, context),
                    Err(cause) => self.side_failed(strand, side, cause, context),
                }
            }
        }
    }

    /// Begins whatever can be begun.
    pub(crate) fn pump(&mut self, context: &mut Context<'_>) {
        self.dial_again(context);
        if self.phase == Phase::Running {
            self.ask_status(context);
            self.issue(context);
            // What is let out is no piece whose end would bring the next question.
            while self.work.lacks_answer() && self.reads_a_file() {
                self.ask_status(context);
                self.issue(context);
            }
            self.ask_status(context);
            self.flush_if_due(context);
        }
        self.make_waiting_zeros(context);
        for strand in 0..self.strands.len() {
            self.convey_announced(strand, context);
            for link in self.strands[strand].links() {
                link.pump(context);
            }
        }
        self.advance_phase(context);
    }

    fn advance_phase(&mut self, context: &mut Context<'_>) {
        if self.phase == Phase::Checking && self.probe.is_none() && self.strands[0].is_ready() {
            self.check_witnesses(context);
        }
        if self.phase == Phase::Running && self.work.is_exhausted() && self.slots.in_flight() == 0 {
            self.begin_last_flush(context);
        }
        if self.phase == Phase::Draining && (!self.can_drain() || self.drain_is_over(context.now)) {
            self.begin_last_flush(context);
        }
        if self.phase == Phase::Closing {
            self.close(context);
        }
    }

    /// Looks at deadlines, as often as [`tick_interval`](Self::tick_interval) says.
    pub(crate) fn tick(&mut self, context: &mut Context<'_>) {
        if let Some(cause) = self.unwritten(context.now) {
            self.fail_side(Side::Source, cause, context.now);
        }
        for strand in 0..self.strands.len() {
            for side in [Side::Source, Side::Target] {
                if let Some(cause) = self.overdue(strand, side, context.now) {
                    self.side_failed(strand, side, cause, context);
                }
                self.tend_spare(strand, side, context);
            }
        }
        self.pump(context);
    }

    /// How often deadlines have to be looked at. Progress is seen up to one interval late, and
    /// its end up to another one.
    pub(crate) fn tick_interval(&self) -> Duration {
        (self.settings.deadline / 50).clamp(Duration::from_millis(5), Duration::from_millis(100))
    }

    /// When the lane has something to do without any completion, if it knows.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        let retries = self.strands.iter().flat_map(|strand| {
            let source = match &strand.source {
                SourceSide::Nbd(link) => link.liveness.retry_at,
                SourceSide::File(_) | SourceSide::Stream { .. } => None,
            };
            let target = match &strand.target {
                TargetSide::Nbd(link) => link.liveness.retry_at,
                TargetSide::File(_) | TargetSide::Stream { .. } | TargetSide::Null(_) => None,
            };
            [source, target]
        });
        retries.chain([self.not_before]).flatten().min()
    }

    pub(crate) fn is_starved(&self) -> bool {
        self.starved
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Ends the lane early: what is in flight comes to its end, and is flushed.
    pub(crate) fn interrupt(&mut self, context: &mut Context<'_>) {
        self.fail(Fault::Interrupted, context.now);
    }

    /// Stops beginning pieces; the first fault is the one that is reported.
    pub(super) fn fail(&mut self, fault: Fault, now: Instant) {
        if matches!(self.phase, Phase::Closing | Phase::Over) {
            return;
        }
        self.fault.get_or_insert(fault);
        if self.phase != Phase::Draining {
            self.draining_since = now;
            self.phase = if matches!(self.phase, Phase::Running | Phase::Flushing) {
                Phase::Draining
            } else {
                Phase::Closing
            };
        }
    }

    /// The same, for a side.
    pub(super) fn fail_side(&mut self, side: Side, mut cause: Cause, now: Instant) {
        let endpoint = match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        };
        // Only the first fault is told.
        if self.fault.is_none() {
            cause.hear(|| endpoint.said());
            cause = cause.with_way(|| endpoint.down());
        }
        self.fail(Fault::Side { side, endpoint: endpoint.to_string(), cause }, now);
    }

    pub(super) fn note(&self, text: &str) {
        (self.observer)(&Event::Note { lane: self.index, text });
    }

    /// The report, once the lane is over. The manifest is completed here, for it is valid only
    /// with all of the lane.
    pub(crate) fn into_report(mut self) -> LaneReport {
        if self.fault.is_none()
            && let Err(fault) = self.complete_files()
        {
            self.fault = Some(fault);
        }
        let counts = self.live.snapshot();
        (self.observer)(&Event::Finished { lane: self.index, fault: self.fault.as_ref(), counts });
        let opened = !self.reason.is_empty();
        LaneReport {
            source: self.source.to_string(),
            target: self.target.to_string(),
            size: self.size.or(self.served),
            outcome: match self.fault.take() {
                None => Ok(()),
                Some(fault) => Err(fault),
            },
            counts,
            payload: opened.then(|| (self.payload, std::mem::take(&mut self.reason))),
            connections: u16::try_from(
                self.strands.iter().filter(|strand| !strand.abandoned).count(),
            )
            .unwrap_or(u16::MAX),
            reconnects: self.reconnects,
            flushes: self.flushes,
            request_bytes: self.adapt.request_bytes(),
            elapsed: self.elapsed,
        }
    }

    fn complete_files(&mut self) -> Result<(), Fault> {
        let manifest_ended = self.inspector.finish()?;
        let Some(mut journal) = self.journal.take() else {
            return Ok(());
        };
        let failed = |what: String, words: String| Fault::Local {
            what,
            error: std::io::Error::other(words),
        };
        if !self.settings.keep_journal {
            let what = format!("cannot end the journal {}", journal.path().display());
            return journal.finish().map_err(|e| failed(what, e.to_string()));
        }
        if let Some(path) = self.settings.manifest.as_deref().filter(|_| manifest_ended) {
            let manifest = Manifest::mark(path)
                .map(Some)
                .map_err(|e| failed("cannot look at the manifest".into(), e.to_string()))?;
            let entry = Entry { manifest, ..Entry::default() };
            let what = "cannot write the resume journal".into();
            journal.note(&entry).map_err(|e| failed(what, e.to_string()))?;
        }
        Ok(())
    }
}
