//! Opening a lane: both sides, then all that depends on what they are.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FileType, SeekFrom};

use crate::endpoint::Endpoint;
use crate::engine::Descriptor;
use crate::fault::{Cause, Fault, Side};
use crate::journal::{Identity, Journal, Side as JournalSide};
use crate::manifest::ManifestWriter;
use crate::nbd::Session;
use crate::plan::extents::{HOLE, ZERO};
use crate::plan::{Area, AreaSet, Run};
use crate::report::{Event, LiveCounts, PayloadKind};
use crate::settings::{Extent, LaneSettings, PayloadChoice};

use super::adapt::Adapt;
use super::context::Context;
use super::durable::Unflushed;
use super::inspect::Inspector;
use super::link::Link;
use super::replies::ALLOCATION;
use super::slots::{Slot, SlotState, Slots};
use super::strand::{SourceSide, Strand, TargetSide};
use super::target_zeros::TargetZeros;
use super::task::{Observer, Phase, StatusAnswer, Task};
use super::work::Work;

/// Bytes of a payload in one request that every server takes (NBD specification, "block size
/// constraints").
const PAYLOAD_MAX: u64 = PAYLOAD_LIMIT as u64;
/// The same, for the bound on what a server may send.
const PAYLOAD_LIMIT: u32 = 32 << 20;
/// Bytes that one WRITE_ZEROES makes zero at most: a server that has to write them all takes its
/// time, and the deadline counts.
const ZERO_PIECE: u64 = 256 << 20;
/// Bytes of an area on average from which block status is worth a question: below, an answer
/// costs as much as the read that it might save.
const STATUS_WORTH: u64 = 1 << 20;
/// Runs of one file that are found at a time.
const FILE_RUNS: usize = 1024;
/// Runs of zeros that are found where the payload is looked at anyway, in bytes.
const DEFAULT_SPARSE: u32 = 4096;
/// The alignment of a file's holes, in bytes.
const FILE_ALIGNMENT: u64 = 4096;

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
            payload: PayloadKind::Pooled,
            reason: String::new(),
            adapt: Adapt::new(settings.request_bytes, &settings.adapt_bytes, 1 << 20, now),
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
            best_acknowledged: 0,
            journal: None,
            probe: None,
            witnesses: Vec::new(),
            inspector: Inspector::default(),
            runs: Vec::new(),
            fault: None,
            starved: false,
            not_before: None,
            reconnects: 0,
            flushes: 0,
            started: now,
            draining_since: now,
            closing_since: None,
            target_size: None,
            elapsed: Duration::ZERO,
            settings,
        };
        match task.first_strand(now) {
            Ok(strand) => {
                task.strands.push(strand);
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
                self.link(Side::Source, 0, now)
                    .map_err(|e| (Some(Side::Source), e))?,
            )),
            Endpoint::File(path) => {
                let file = OpenOptions::new()
                    .read(true)
                    .open(path)
                    .map_err(|e| (Some(Side::Source), open_failed(e)))?;
                match size_of(&file).map_err(|e| (Some(Side::Source), open_failed(e)))? {
                    Some(size) => {
                        self.size = Some(size);
                        SourceSide::File(Rc::new(Descriptor::file(file.into())))
                    }
                    None => SourceSide::Stream {
                        stream: Rc::new(Descriptor::stream(file.into())),
                        at: 0,
                    },
                }
            }
            Endpoint::Stream(fd) => SourceSide::Stream {
                stream: stream_of(fd).map_err(|e| (Some(Side::Source), e))?,
                at: 0,
            },
            Endpoint::Null => {
                return Err((None, Cause::Unfit("null: can only be a target".into())));
            }
        };
        // A target file is touched only when the source is known to be there.
        let target = match &self.target {
            Endpoint::Nbd(_) => TargetSide::Nbd(Box::new(
                self.link(Side::Target, 0, now)
                    .map_err(|e| (Some(Side::Target), e))?,
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

    fn link(&self, side: Side, strand: u16, now: std::time::Instant) -> Result<Link, Cause> {
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
        Link::new(
            side,
            self.id,
            strand,
            endpoint,
            contexts,
            PAYLOAD_LIMIT,
            now,
        )
    }

    /// A handshake is over.
    pub(super) fn link_ready(&mut self, strand: usize, side: Side, context: &mut Context<'_>) {
        let expected = match side {
            Side::Source => self.size,
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
                Side::Source => self.size = Some(size),
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
        if side == Side::Target {
            self.write_loaded(strand, context);
        }
    }

    /// Writes what was read while the target was away.
    fn write_loaded(&mut self, strand: usize, context: &mut Context<'_>) {
        loop {
            let waits =
                |slot: &Slot| usize::from(slot.strand) == strand && slot.state == SlotState::Loaded;
            let found = self.slots.used().find(|(_, slot)| waits(slot));
            let Some((slot, _)) = found else { return };
            self.write_slot(slot, context);
        }
    }

    fn opened_if_ready(&mut self, context: &mut Context<'_>) {
        if self.phase == Phase::Opening && self.strands[0].is_ready() {
            match self.opened(context) {
                Ok(()) => {}
                Err(Refusal::Fault(fault)) => self.fail(fault, context.now),
                Err(Refusal::Side(side, cause)) => self.fail_side(side, cause, context.now),
            }
        }
    }

    /// Both sides are open: decides everything that depends on them.
    fn opened(&mut self, context: &mut Context<'_>) -> Result<(), Refusal> {
        self.open_target_file()?;
        let source = self.strands[0]
            .source_link()
            .and_then(|link| link.session.clone());
        let target = self.strands[0]
            .target_link()
            .and_then(|link| link.session.clone());
        self.check_fit(source.as_ref(), target.as_ref())?;
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
        let areas = self.resume(areas)?;
        self.open_manifest()?;
        let ask = self.is_worth_asking(source.as_ref(), &areas);
        self.work = Work::new(areas, ask, alignment, self.size.unwrap_or(u64::MAX >> 1));
        self.add_strands(source.as_ref(), target.as_ref(), context.now)?;
        let per_strand = usize::from(self.settings.requests);
        let slots = per_strand
            .saturating_mul(self.strands.len())
            .min(usize::from(u16::MAX));
        self.slots = Slots::new(u16::try_from(slots).unwrap_or(u16::MAX), context.now);
        self.ask_target_for_zeros(context);
        self.phase = if self.witnesses.is_empty() {
            Phase::Running
        } else {
            Phase::Checking
        };
        (self.observer)(&Event::Started {
            lane: self.index,
            size: self.size,
            payload: self.payload,
            reason: &self.reason,
            connections: super::issue::index(self.strands.len()),
        });
        Ok(())
    }

    fn open_target_file(&mut self) -> Result<(), Refusal> {
        let Endpoint::File(path) = &self.target else {
            return Ok(());
        };
        let failed = |e: io::Error| Refusal::Side(Side::Target, open_failed(e));
        let whole =
            matches!(self.settings.extent, Extent::Whole) && self.settings.journal.is_none();
        let file = open_for_writing(path).map_err(failed)?;
        let kind = FileType::from_raw_mode(
            rustix::fs::fstat(&file)
                .map_err(|e| failed(e.into()))?
                .st_mode,
        );
        match kind {
            FileType::RegularFile => {
                if self.reads_from(&file) {
                    return Err(Refusal::Fault(Fault::Request(format!(
                        "source and target are the same file: {}",
                        path.display()
                    ))));
                }
                if whole {
                    file.set_len(0).map_err(failed)?;
                    self.target_is_zero = true;
                }
                if let Some(size) = self.size
                    && (whole || file.metadata().map_err(failed)?.len() < size)
                {
                    file.set_len(size).map_err(failed)?;
                }
                self.strands[0].target = TargetSide::File(Rc::new(Descriptor::file(file.into())));
            }
            FileType::BlockDevice if self.reads_from(&file) => {
                let what = format!("source and target are the same device: {}", path.display());
                return Err(Refusal::Fault(Fault::Request(what)));
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

    fn check_fit(&self, source: Option<&Session>, target: Option<&Session>) -> Result<(), Refusal> {
        if target.is_some_and(|session| session.flags.read_only()) {
            return Err(Refusal::Side(
                Side::Target,
                Cause::Unfit("the export is read-only".into()),
            ));
        }
        if let (Some(size), Some(room)) = (self.size, self.target_size)
            && room < size
        {
            let what = format!("it is too small: {room} bytes, and the source has {size}");
            return Err(Refusal::Side(Side::Target, Cause::Unfit(what)));
        }
        let minimum = target.map_or(1, |session| u64::from(session.block_size.minimum));
        if let Some(size) = self.size.filter(|size| size % minimum != 0) {
            let what = format!(
                "it takes only multiples of {minimum} bytes, and the source's size of {size} bytes is none"
            );
            return Err(Refusal::Side(Side::Target, Cause::Unfit(what)));
        }
        if let Some(name) = &self.dirty_context
            && source.is_none_or(|session| session.context(name).is_none())
        {
            let what = format!(
                "it offers no dirty bitmap {name} (is the export started with that bitmap, as by qemu-nbd --bitmap?)"
            );
            return Err(Refusal::Side(Side::Source, Cause::Unfit(what)));
        }
        let whole = matches!(self.settings.extent, Extent::Whole);
        if matches!(self.strands[0].target, TargetSide::Stream { .. })
            && (self.settings.journal.is_some() || !whole)
        {
            let what = "a target that is a stream takes the whole source, in order: it cannot have changed areas, a bitmap or a resume journal";
            return Err(Refusal::Fault(Fault::Request(what.into())));
        }
        if self.size.is_none()
            && (self.settings.journal.is_some()
                || self.settings.manifest.is_some()
                || !matches!(self.settings.extent, Extent::Whole))
        {
            let what = "a source that is a stream has no size: it cannot have changed areas, a manifest or a resume journal";
            return Err(Refusal::Fault(Fault::Request(what.into())));
        }
        Ok(())
    }

    fn choose_payload(&mut self, conveyor_bytes: usize) -> Result<(), Refusal> {
        let looked_at_for = match (self.settings.digest, self.settings.sparse_bytes) {
            (Some(_), _) => Some("digests are made of it"),
            (None, Some(bytes)) if bytes > 0 => Some("zeros are looked for in it"),
            _ => None,
        };
        let strand = &self.strands[0];
        let cannot = match (&strand.source, &strand.target) {
            (SourceSide::File(_), _) => Some("the source is a file"),
            (SourceSide::Stream { .. }, _) => Some("the source is a stream"),
            (_, TargetSide::File(_)) => Some("the target is a file"),
            (_, TargetSide::Stream { .. }) => Some("the target is a stream"),
            (SourceSide::Nbd(_), TargetSide::Nbd(_) | TargetSide::Null(_)) => looked_at_for,
        };
        let cannot = cannot.map(ToOwned::to_owned).or_else(|| {
            self.take_conveyor(0, conveyor_bytes)
                .map(|conveyor| self.strands[0].conveyor = Some(conveyor))
                .err()
                .map(|fault| fault.to_string())
        });
        (self.payload, self.reason) = match (self.settings.payload, cannot) {
            (PayloadChoice::Splice, Some(why)) => {
                return Err(Refusal::Fault(Fault::Request(format!(
                    "the payload cannot be spliced: {why}; use --payload auto or pooled"
                ))));
            }
            (PayloadChoice::Splice, None) => (PayloadKind::Splice, "asked for".into()),
            (PayloadChoice::Pooled, _) => (PayloadKind::Pooled, "asked for".into()),
            (PayloadChoice::Auto, Some(why)) => (PayloadKind::Pooled, why),
            (PayloadChoice::Auto, None) => (
                PayloadKind::Splice,
                "nothing of it has to be looked at, and both sides are sockets".into(),
            ),
        };
        self.inspector.digest = self.settings.digest;
        let default = if matches!(
            self.strands[0].target,
            TargetSide::Null(_) | TargetSide::Stream { .. }
        ) {
            0
        } else {
            DEFAULT_SPARSE
        };
        let sparse = self
            .settings
            .sparse_bytes
            .unwrap_or(if self.payload == PayloadKind::Pooled {
                default
            } else {
                0
            });
        self.inspector.sparse_bytes = (sparse > 0).then_some(sparse as usize);
        Ok(())
    }

    fn choose_lengths(
        &mut self,
        source: Option<&Session>,
        target: Option<&Session>,
        context: &Context<'_>,
    ) -> Result<(), Refusal> {
        let of = |session: Option<&Session>| {
            session.map_or(PAYLOAD_MAX, |session| u64::from(session.block_size.maximum))
        };
        let block = context.blocks.slot_bytes() as u64;
        self.block_bytes = 1 << block.ilog2();
        let pooled = if self.payload == PayloadKind::Pooled {
            block
        } else {
            PAYLOAD_MAX
        };
        let max = of(source).min(of(target)).min(PAYLOAD_MAX).min(pooled);
        self.data_max = 1 << max.ilog2();
        let least = self.shortest_request(source, target);
        if least > self.data_max {
            let side = if of(source) < of(target) {
                Side::Source
            } else {
                Side::Target
            };
            let what = format!(
                "it takes requests of at most {} bytes, and at least {least} are needed here (for digests, or by the other side)",
                self.data_max
            );
            return Err(Refusal::Side(side, Cause::Unfit(what)));
        }
        self.can_zero = match &self.strands[0].target {
            TargetSide::Nbd(_) => target.is_some_and(|session| session.flags.can_write_zeroes()),
            TargetSide::File(_) | TargetSide::Null(_) => true,
            TargetSide::Stream { .. } => false,
        };
        self.write_max = 1 << block.min(of(target)).ilog2();
        self.zero_max = if self.can_zero {
            ZERO_PIECE
        } else {
            self.write_max
        };
        // Runs of zeros are written apart: each has to be one that the target takes, and they
        // are counted in 16 bits.
        let least_run = usize_of(minimum(target).max(block.div_ceil(u64::from(u16::MAX))));
        self.inspector.sparse_bytes = self
            .inspector
            .sparse_bytes
            .map(|bytes| bytes.max(least_run).next_power_of_two());
        let limit = u32::try_from(self.data_max).unwrap_or(u32::MAX);
        let least = u32::try_from(least).unwrap_or(u32::MAX);
        let fixed = self
            .settings
            .request_bytes
            .map(|bytes| (1 << bytes.max(1).ilog2()).max(least).min(limit));
        self.adapt = Adapt::new(fixed, &self.settings.adapt_bytes, limit, context.now);
        Ok(())
    }

    /// Bytes of the shortest request but the disk's last one: a block of both sides, and whole
    /// digests.
    fn shortest_request(&self, source: Option<&Session>, target: Option<&Session>) -> u64 {
        let digest = match self.settings.digest {
            Some(_) => crate::digest::DIGEST_BLOCK as u64,
            None => 1,
        };
        minimum(source).max(minimum(target)).max(digest)
    }

    fn alignment(&self, source: Option<&Session>, target: Option<&Session>) -> u64 {
        let wish = match (&self.strands[0].target, self.settings.manifest.is_some()) {
            (TargetSide::Nbd(_), _) => u64::from(self.settings.cluster_bytes),
            (_, true) => crate::digest::DIGEST_BLOCK as u64,
            _ => FILE_ALIGNMENT,
        };
        let digest = if self.settings.manifest.is_some() {
            crate::digest::DIGEST_BLOCK as u64
        } else {
            1
        };
        wish.max(digest)
            .max(minimum(source))
            .max(minimum(target))
            .next_power_of_two()
    }

    fn areas(&self, alignment: u64) -> Result<AreaSet, Refusal> {
        let Some(size) = self.size else {
            return Ok(AreaSet::whole(u64::MAX >> 1));
        };
        let Extent::Areas(areas) = &self.settings.extent else {
            return Ok(AreaSet::whole(size));
        };
        if let Some(area) = areas.as_slice().last().filter(|area| area.end() > size) {
            let what = format!(
                "a changed area of {} bytes at {} lies outside of the source, which has {size} bytes",
                area.length, area.start
            );
            return Err(Refusal::Fault(Fault::Request(what)));
        }
        Ok(areas.rounded_out(alignment, size))
    }

    /// Takes out what the journal knows to be safe.
    fn resume(&mut self, areas: AreaSet) -> Result<AreaSet, Refusal> {
        let (Some(path), Some(size)) = (self.settings.journal.clone(), self.size) else {
            return Ok(areas);
        };
        let plan = plan_of(&areas, self.dirty_context.as_deref());
        let identity = Identity {
            source: JournalSide {
                name: self.source.to_string(),
                size,
            },
            target: JournalSide {
                name: self.target.to_string(),
                size: self.target_size.unwrap_or(size),
            },
            plan,
            base: None,
        };
        let resumed = Journal::resume_or_create(&path, &identity)
            .map_err(|e| Refusal::Fault(Fault::Request(e.to_string())))?;
        let safe = resumed.safe.intersect(&areas);
        if !safe.is_empty() && self.settings.manifest.is_some() {
            let what = "the journal resumes a copy whose first digests are gone; leave --manifest out, or remove the journal to start anew";
            return Err(Refusal::Fault(Fault::Request(what.into())));
        }
        self.live.skipped.add(safe.total());
        if !self.target_can_flush() {
            self.note("the target offers no FLUSH: nothing of it is known to be safe, and an interrupted copy starts anew");
        }
        self.journal = Some(resumed.journal);
        self.witnesses = resumed.witnesses;
        Ok(areas.subtract(&safe))
    }

    fn open_manifest(&mut self) -> Result<(), Refusal> {
        let (Some(path), Some(size)) = (&self.settings.manifest, self.size) else {
            return Ok(());
        };
        let Some(algorithm) = self.settings.digest else {
            return Err(Refusal::Fault(Fault::Request(
                "a manifest needs a digest: choose one with --digest".into(),
            )));
        };
        let manifest = ManifestWriter::create(path, algorithm, size)
            .map_err(|e| Refusal::Fault(Fault::Request(e.to_string())))?;
        self.inspector.manifest = Some(manifest);
        Ok(())
    }

    fn is_worth_asking(&self, source: Option<&Session>, areas: &AreaSet) -> bool {
        if self.dirty_context.is_some() {
            return true;
        }
        let can = match &self.strands[0].source {
            SourceSide::Nbd(_) => {
                source.is_some_and(|session| session.context(ALLOCATION).is_some())
            }
            SourceSide::File(_) => true,
            SourceSide::Stream { .. } => false,
        };
        let worth = !areas.is_empty() && areas.total() / areas.len() as u64 >= STATUS_WORTH;
        self.settings.extents && can && worth
    }

    /// More connections, where both sides let several of them see the same disk.
    fn add_strands(
        &mut self,
        source: Option<&Session>,
        target: Option<&Session>,
        now: std::time::Instant,
    ) -> Result<(), Refusal> {
        let several =
            |session: Option<&Session>| session.is_none_or(|session| session.flags.multi_conn());
        let both_are_nbd = source.is_some() && target.is_some();
        if !both_are_nbd || !several(source) || !several(target) || self.settings.synchronous {
            return Ok(());
        }
        for strand in 1..self.settings.connections {
            let source = self
                .link(Side::Source, strand, now)
                .map_err(|e| Refusal::Side(Side::Source, e))?;
            let target = self
                .link(Side::Target, strand, now)
                .map_err(|e| Refusal::Side(Side::Target, e))?;
            self.strands.push(Strand::new(
                SourceSide::Nbd(Box::new(source)),
                TargetSide::Nbd(Box::new(target)),
            ));
        }
        Ok(())
    }
}

/// Bytes of the shortest request that a side takes; 1 for what is no server.
fn minimum(session: Option<&Session>) -> u64 {
    session.map_or(1, |session| u64::from(session.block_size.minimum))
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Why a lane does not begin.
enum Refusal {
    Fault(Fault),
    Side(Side, Cause),
}

fn open_failed(error: io::Error) -> Cause {
    Cause::File {
        what: "cannot open it".into(),
        error,
    }
}

fn open_for_writing(path: &Path) -> io::Result<std::fs::File> {
    let options = |read| {
        OpenOptions::new()
            .read(read)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
    };
    // Reading is needed for nothing but the journal's witnesses.
    options(true).or_else(|_| options(false))
}

fn stream_of(fd: &Arc<OwnedFd>) -> Result<Rc<Descriptor>, Cause> {
    let own = fd.try_clone().map_err(open_failed)?;
    Ok(Rc::new(Descriptor::stream(own)))
}

/// The size of a regular file or block device; `None` for what is read in order.
fn size_of(file: &impl AsFd) -> io::Result<Option<u64>> {
    let stat = rustix::fs::fstat(file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(u64::try_from(stat.st_size).ok()),
        FileType::BlockDevice => Ok(Some(rustix::fs::seek(file, SeekFrom::End(0))?)),
        FileType::Directory => Err(io::ErrorKind::IsADirectory.into()),
        _ => Ok(None),
    }
}

/// Finds the data and holes of a file, from the start of a range on, up to [`FILE_RUNS`] of them.
pub(super) fn holes_of(file: &Descriptor, range: Area, runs: &mut Vec<Run>) {
    runs.clear();
    let mut at = range.start;
    while at < range.end() && runs.len() < FILE_RUNS {
        let (end, flags) = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) if data > at => (data, HOLE | ZERO),
            Ok(_) => (
                rustix::fs::seek(file, SeekFrom::Hole(at)).unwrap_or(range.end()),
                0,
            ),
            Err(rustix::io::Errno::NXIO) => (range.end(), HOLE | ZERO),
            // It cannot tell: all of it is read.
            Err(_) => (range.end(), 0),
        };
        let end = end.clamp(at + 1, range.end());
        runs.push(Run {
            length: end - at,
            flags,
        });
        at = end;
    }
}

/// Names the plan of a copy, so that a journal is not used for another.
fn plan_of(areas: &AreaSet, bitmap: Option<&str>) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(bitmap.unwrap_or_default().as_bytes());
    hasher.update(&[0]);
    for area in areas.iter() {
        hasher.update(&area.start.to_le_bytes());
        hasher.update(&area.length.to_le_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}
