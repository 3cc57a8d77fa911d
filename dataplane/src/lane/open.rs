//! Opening a lane: both sides, then all that depends on what they are.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FileType;

use crate::endpoint::Endpoint;
use crate::engine::{Completion, Descriptor, Op, Token};
use crate::fault::{Cause, Fault, Side};
use crate::nbd::BlockSize;
use crate::plan::AreaSet;
use crate::rate::RateShare;
use crate::report::{Event, LiveCounts, PayloadKind};
use crate::settings::{Extent, LaneSettings};

use super::adapt::Adapt;
use super::context::Context;
use super::destination::Destination;
use super::durable::Unflushed;
use super::file::{
    check_end, cut_to, is_fifo, is_read_only, open_failed, open_for_reading, open_for_writing,
    size_of, stream_of,
};
use super::inspect::Inspector;
use super::link::Link;
use super::replies::ALLOCATION;
use super::role::Role;
use super::seal::Seal;
use super::slots::Slots;
use super::status::StatusAnswer;
use super::strand::{SourceSide, Strand, TargetSide};
use super::target_zeros::TargetZeros;
use super::task::{Observer, Phase, Task};
use super::work::Work;

/// Bytes of a payload in one request that every server takes (NBD specification, "block size
/// constraints").
pub(super) const PAYLOAD_MAX: u64 = PAYLOAD_LIMIT as u64;
/// The same as [`PAYLOAD_MAX`], for the bound on what a server may send.
const PAYLOAD_LIMIT: u32 = 32 << 20;

impl Task {
    /// Opens the source and begins to connect. Whatever fails ends the lane with its fault.
    #[allow(clippy::too_many_arguments, reason = "what a lane is made of")]
    pub(crate) fn new(
        index: usize,
        id: u32,
        source: Endpoint,
        target: Endpoint,
        mut settings: LaneSettings,
        live: Arc<LiveCounts>,
        observer: Arc<Observer>,
        context: &mut Context<'_>,
    ) -> Self {
        let now = context.now;
        // With none a lane would wait for ever.
        settings.requests = settings.requests.max(1);
        let dirty_context = match &settings.extent {
            Extent::Bitmap(name) => Some(format!("qemu:dirty-bitmap:{name}")),
            Extent::Whole | Extent::Areas(_) => None,
        };
        let mut task = Self {
            index,
            id,
            source,
            target,
            live,
            observer,
            phase: Phase::Opening,
            strands: Vec::new(),
            slots: Slots::new(0, now),
            work: Work::new(AreaSet::new(), false, 1, 0),
            size: None,
            served: None,
            payload: PayloadKind::Pooled,
            reason: String::new(),
            adapt: Adapt::new(settings.request_bytes, &settings, 1 << 20, now),
            data_max: 0,
            block_bytes: 0,
            write_max: 0,
            zero_max: 0,
            can_zero: false,
            target_is_zero: settings.target_is_zero,
            status: StatusAnswer::default(),
            target_zeros: TargetZeros::default(),
            dirty_context,
            refusals: Vec::new(),
            unflushed: Unflushed::default(),
            best_finished: 0,
            journal: None,
            probe: None,
            places: Vec::new(),
            made: Vec::new(),
            seal: Seal::default(),
            witnesses: Vec::new(),
            inspector: Inspector::default(),
            manifest_is_complete: false,
            fault: None,
            starved: false,
            rate_share: RateShare::default(),
            not_before: None,
            reconnects: 0,
            flushes: 0,
            started: now,
            draining_since: now,
            closing_since: None,
            target_size: None,
            planned_with: [BlockSize::DEFAULT; 2],
            elapsed: Duration::ZERO,
            settings,
        };
        match task.first_strand(now) {
            Ok(strand) => {
                task.strands.push(strand);
                task.await_writer(context);
                task.opened_if_ready(context);
            }
            Err((Some(side), cause)) => task.fail_side(side, cause, now),
            Err((None, cause)) => task.fail(Fault::Request(cause.to_string()), now),
        }
        task
    }

    fn first_strand(&mut self, now: std::time::Instant) -> Result<Strand, (Option<Side>, Cause)> {
        let source = match &self.source {
            Endpoint::Nbd(_) => SourceSide::Nbd(Box::new(
                self.link(Side::Source, 0, now).map_err(|e| (Some(Side::Source), e))?,
            )),
            Endpoint::File(path) => {
                let failed = |e| (Some(Side::Source), open_failed(e));
                let file = open_for_reading(path).map_err(failed)?;
                check_end(&file).map_err(|e| (Some(Side::Source), e))?;
                match size_of(&file).map_err(failed)? {
                    Some(size) => {
                        self.served = Some(size);
                        SourceSide::File(Rc::new(Descriptor::file(file.into())))
                    }
                    None => SourceSide::Stream {
                        awaited: is_fifo(&file),
                        stream: Rc::new(Descriptor::stream(file.into())),
                        at: 0,
                    },
                }
            }
            Endpoint::Stream(fd) => {
                check_end(fd).map_err(|e| (Some(Side::Source), e))?;
                SourceSide::Stream {
                    stream: stream_of(fd).map_err(|e| (Some(Side::Source), e))?,
                    at: 0,
                    awaited: false,
                }
            }
            Endpoint::Null => {
                return Err((None, Cause::Unfit("null: can only be a target".into())));
            }
        };
        // A target file is touched only when the source is known to be there.
        let target = match &self.target {
            Endpoint::Nbd(_) => TargetSide::Nbd(Box::new(
                self.link(Side::Target, 0, now).map_err(|e| (Some(Side::Target), e))?,
            )),
            Endpoint::Stream(fd) => TargetSide::Stream {
                stream: stream_of(fd).map_err(|e| (Some(Side::Target), e))?,
                at: 0,
                writing: false,
            },
            Endpoint::File(_) | Endpoint::Null => {
                let null = OpenOptions::new()
                    .write(true)
                    .open("/dev/null")
                    .map_err(|e| (Some(Side::Target), open_failed(e)))?;
                TargetSide::Null(Rc::new(Descriptor::stream(null.into())))
            }
        };
        Ok(Strand::new(source, target))
    }

    /// Begins to wait for the first bytes of a pipe that was opened by its name.
    fn await_writer(&self, context: &mut Context<'_>) {
        if let SourceSide::Stream { stream, awaited: true, .. } = &self.strands[0].source {
            let token =
                Token { lane: self.id, strand: 0, role: Role::Await.on(Side::Source), tag: 0 };
            context.engine.submit(token, Op::Await { stream: Rc::clone(stream) });
        }
    }

    /// The first bytes of a pipe have come, or its end.
    pub(super) fn writer_came(&mut self, completion: Completion, context: &mut Context<'_>) {
        let SourceSide::Stream { stream, awaited, .. } = &mut self.strands[0].source else {
            return;
        };
        *awaited = false;
        // From here on it is as any other stream.
        if let Err(error) = completion.result.map(drop).and_then(|()| stream.set_blocking()) {
            let what = "cannot wait for its first bytes".into();
            return self.fail_side(Side::Source, Cause::File { what, error }, context.now);
        }
        self.opened_if_ready(context);
    }

    /// Why a pipe that nobody writes to has to be given up by now, if it has.
    pub(super) fn unwritten(&self, now: std::time::Instant) -> Option<Cause> {
        let awaited =
            matches!(self.strands.first()?.source, SourceSide::Stream { awaited: true, .. });
        let late = now.duration_since(self.started) > self.settings.deadline;
        (awaited && late && self.phase == Phase::Opening).then(|| Cause::Deadline {
            deadline: self.settings.deadline,
            waiting_for: "the first bytes of the pipe".into(),
            beside: String::new(),
            hint: " (does anybody write to it?)",
        })
    }

    pub(super) fn link(
        &self,
        side: Side,
        strand: u16,
        now: std::time::Instant,
    ) -> Result<Link, Cause> {
        let endpoint = match (side, &self.source, &self.target) {
            (Side::Source, Endpoint::Nbd(nbd), _) | (Side::Target, _, Endpoint::Nbd(nbd)) => {
                nbd.clone()
            }
            _ => return Err(Cause::Unfit("only an NBD server takes connections".into())),
        };
        let mut contexts = Vec::new();
        // The target is asked too: what reads as zeros there need not be made zero.
        contexts.extend(self.settings.extents.then(|| ALLOCATION.to_owned()));
        if side == Side::Source {
            contexts.extend(self.dirty_context.clone());
        }
        let destination = Destination::new(endpoint, contexts, PAYLOAD_LIMIT)?;
        Ok(Link::new(side, self.id, strand, destination, now))
    }

    /// A handshake is over.
    pub(super) fn link_ready(&mut self, strand: usize, side: Side, context: &mut Context<'_>) {
        let expected = match side {
            Side::Source => self.served,
            Side::Target => self.target_size,
        };
        let acks_only = side == Side::Target && self.settings.journal.is_none();
        let Some(link) = self.strands[strand].link(side) else {
            return;
        };
        if let Some(reader) = &mut link.reader {
            reader.set_acks_only(acks_only);
        }
        let Some(size) = link.session.as_ref().map(|session| session.size) else {
            return;
        };
        if self.phase == Phase::Opening {
            match side {
                Side::Source => self.served = Some(size),
                Side::Target => self.target_size = Some(size),
            }
            return self.opened_if_ready(context);
        }
        if expected.is_some_and(|expected| expected != size) {
            let what = format!(
                "its size was {} bytes and is {size} on a new connection: it is another export now",
                expected.unwrap_or(0)
            );
            // Nothing more may go there, not even what is drained.
            self.reset(strand, side, context.now);
            return self.fail_side(side, Cause::Unfit(what), context.now);
        }
        if let Some(what) = self.takes_less(strand, side) {
            self.reset(strand, side, context.now);
            return self.fail_side(side, Cause::Unfit(what), context.now);
        }
        if side == Side::Target {
            self.write_loaded(strand, context);
        }
    }

    /// What a server on a new connection takes no longer, which the lane was planned with.
    fn takes_less(&mut self, strand: usize, side: Side) -> Option<String> {
        let session = self.strands[strand].link(side)?.session.as_ref()?;
        let (flags, new) = (session.flags, session.block_size);
        if side == Side::Target && flags.read_only() {
            return Some("the export is read-only on a new connection, and was not before".into());
        }
        let old = self.planned_with[usize::from(side == Side::Target)];
        let longest = match side {
            Side::Source => self.data_max,
            Side::Target => self.data_max.max(self.write_max),
        };
        if new.minimum > old.minimum || u64::from(new.maximum) < longest {
            return Some(format!(
                "it takes requests of {} to {} bytes on a new connection, and took {} to {} before: \
                 it is served in another way now; run the copy again",
                new.minimum, new.maximum, old.minimum, old.maximum
            ));
        }
        if side == Side::Target && !flags.can_write_zeroes() {
            self.stop_zeroing();
        }
        None
    }

    fn opened_if_ready(&mut self, context: &mut Context<'_>) {
        if self.phase == Phase::Opening
            && self.strands[0].is_ready()
            && let Err(refusal) = self.opened(context)
        {
            self.refuse(refusal, context.now);
        }
    }

    pub(super) fn refuse(&mut self, refusal: Refusal, now: std::time::Instant) {
        match refusal {
            Refusal::Fault(fault) => self.fail(fault, now),
            Refusal::Side(side, cause) => self.fail_side(side, cause, now),
        }
    }

    /// Both sides are open: decides everything that depends on them.
    fn opened(&mut self, context: &mut Context<'_>) -> Result<(), Refusal> {
        self.size = self.disk_size()?;
        self.check_base()?;
        self.check_size_is_known()?;
        if self.settings.journal.is_none() {
            // Before a target is made that nobody could vouch for. With a journal it is the journal
            // that says whether there is one to go on with.
            self.open_manifest()?;
        }
        self.open_target_file()?;
        let source = self.strands[0].source_link().and_then(|link| link.session.clone());
        let target = self.strands[0].target_link().and_then(|link| link.session.clone());
        self.check_fit(source.as_ref(), target.as_ref())?;
        self.planned_with = [&source, &target]
            .map(|session| session.as_ref().map_or(BlockSize::DEFAULT, |now| now.block_size));
        if matches!(self.strands[0].target, TargetSide::Stream { .. }) {
            // Nothing can be left out of what is written in order.
            self.target_is_zero = false;
        }
        self.choose_payload(context.conveyor_bytes)?;
        self.choose_lengths(source.as_ref(), target.as_ref(), context)?;
        let alignment = self.alignment(source.as_ref(), target.as_ref());
        let areas = self.areas(alignment)?;
        if self.size.is_some() {
            self.live.planned.add(areas.total());
        }
        let areas = self.resume(areas, alignment)?;
        self.open_manifest()?;
        self.open_base();
        let ask = self.is_worth_asking(source.as_ref(), &areas);
        self.work = Work::new(areas, ask, alignment, self.size.unwrap_or(u64::MAX >> 1));
        self.add_strands(source.as_ref(), target.as_ref(), context.now)?;
        let per_strand = usize::from(self.settings.requests);
        let slots = per_strand.saturating_mul(self.strands.len()).min(usize::from(u16::MAX));
        self.slots = Slots::new(u16::try_from(slots).unwrap_or(u16::MAX), context.now);
        self.ask_target_for_zeros(context);
        if self.witnesses.is_empty() && !self.seal.is_pending() {
            self.begin_running()?;
        } else {
            self.phase = Phase::Checking;
        }
        (self.observer)(&Event::Started {
            lane: self.index,
            size: self.size,
            payload: self.payload,
            reason: &self.reason,
            connections: super::issue::index(self.strands.len()),
        });
        Ok(())
    }

    /// Nothing speaks against writing any more: a file loses what it has, unless any of that is to
    /// stay, and gets the size of the source, longer or shorter.
    pub(super) fn begin_running(&mut self) -> Result<(), Refusal> {
        if let TargetSide::File(file) = &self.strands[0].target {
            let failed = |what, error| Refusal::Side(Side::Target, Cause::File { what, error });
            if self.is_written_whole() {
                cut_to(&**file, 0).map_err(|error| failed("cannot empty it".into(), error))?;
            }
            if let Some(size) = self.size {
                let what = format!("cannot give it the source's size of {size} bytes");
                cut_to(&**file, size).map_err(|error| failed(what, error))?;
            }
        }
        self.phase = Phase::Running;
        Ok(())
    }

    /// Whether nothing stays of a file that is written.
    fn is_written_whole(&self) -> bool {
        matches!(self.settings.extent, Extent::Whole)
            && self.settings.journal.is_none()
            && self.settings.base.is_none()
    }

    fn open_target_file(&mut self) -> Result<(), Refusal> {
        let Endpoint::File(path) = &self.target else {
            return Ok(());
        };
        let failed = |e: io::Error| Refusal::Side(Side::Target, open_failed(e));
        let file = open_for_writing(path).map_err(failed)?;
        let kind = FileType::from_raw_mode(
            rustix::fs::fstat(&file).map_err(|e| failed(e.into()))?.st_mode,
        );
        match kind {
            FileType::RegularFile => {
                if self.reads_from(&file) {
                    return Err(Refusal::Fault(Fault::Request(format!(
                        "source and target are the same file: {}",
                        path.display()
                    ))));
                }
                // It is emptied when the lane begins to run.
                self.target_is_zero |= self.is_written_whole();
                self.strands[0].target = TargetSide::File(Rc::new(Descriptor::file(file.into())));
            }
            FileType::BlockDevice if self.reads_from(&file) => {
                let what = format!("source and target are the same device: {}", path.display());
                return Err(Refusal::Fault(Fault::Request(what)));
            }
            FileType::BlockDevice if is_read_only(&file) => {
                // It opens for writing nevertheless, and refuses each write.
                let what = "the device is read-only".into();
                return Err(Refusal::Side(Side::Target, Cause::Unfit(what)));
            }
            FileType::BlockDevice => {
                self.target_size = size_of(&file).map_err(failed)?;
                self.strands[0].target = TargetSide::File(Rc::new(Descriptor::file(file.into())));
            }
            _ => {
                self.strands[0].target = TargetSide::Stream {
                    stream: Rc::new(Descriptor::stream(file.into())),
                    at: 0,
                    writing: false,
                }
            }
        }
        Ok(())
    }

    /// Whether the source is this file or device, under whatever name.
    fn reads_from(&self, file: &impl AsFd) -> bool {
        let SourceSide::File(source) = &self.strands[0].source else {
            return false;
        };
        let id = |stat: rustix::fs::Stat| match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => (0, stat.st_rdev),
            _ => (stat.st_dev, stat.st_ino),
        };
        match (rustix::fs::fstat(&**source), rustix::fs::fstat(file)) {
            (Ok(source), Ok(target)) => id(source) == id(target),
            _ => false,
        }
    }
}

/// Why a lane does not begin.
pub(super) enum Refusal {
    Fault(Fault),
    Side(Side, Cause),
}
