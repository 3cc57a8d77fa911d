//! All that depends on what the two sides are: whether they fit, and how the lane goes about it.

use std::path::PathBuf;

use crate::digest::DigestAlgorithm;
use crate::fault::{Cause, Fault, Side};
use crate::journal::{Identity, Journal, Resumed, Side as JournalSide};
use crate::manifest::{Manifest, ManifestMark, ManifestWriter};
use crate::nbd::Session;
use crate::plan::AreaSet;
use crate::report::PayloadKind;
use crate::settings::{Extent, PayloadChoice};

use super::adapt::Adapt;
use super::context::Context;
use super::file::state_of;
use super::open::{PAYLOAD_MAX, Refusal};
use super::replies::ALLOCATION;
use super::strand::{SourceSide, Strand, TargetSide};
use super::task::Task;

/// Bytes that one WRITE_ZEROES makes zero at most: a server that has to write them all takes its
/// time, and the deadline counts.
const ZERO_PIECE: u64 = 256 << 20;
/// Bytes of an area on average from which block status is worth a question: below, an answer
/// costs as much as the read that it might save.
const STATUS_WORTH: u64 = 1 << 20;
/// Runs of zeros that are found where the payload is looked at anyway, in bytes.
const DEFAULT_SPARSE: u32 = 4096;
/// The alignment of a file's holes, in bytes.
const FILE_ALIGNMENT: u64 = 4096;

impl Task {
    /// Bytes of the disk: what the source serves, or what it is said to have of that.
    pub(super) fn disk_size(&self) -> Result<Option<u64>, Refusal> {
        if let (Some(expected), Some(served)) = (self.settings.expected_bytes, self.served)
            && expected != served
        {
            let what = format!("it has {served} bytes now, and had {expected} before: it changed");
            return Err(Refusal::Side(Side::Source, Cause::Unfit(what)));
        }
        match (self.settings.source_bytes, self.served) {
            (None, served) => Ok(served),
            (Some(size), Some(served)) if size <= served => Ok(Some(size)),
            (Some(size), Some(served)) => {
                let what = format!("it is too small: {served} bytes, and the disk has {size}");
                Err(Refusal::Side(Side::Source, Cause::Unfit(what)))
            }
            (Some(_), None) => {
                let what = "a source that is a stream ends where it ends: its size cannot be given";
                Err(Refusal::Fault(Fault::Request(what.into())))
            }
        }
    }

    pub(super) fn check_fit(
        &self,
        source: Option<&Session>,
        target: Option<&Session>,
    ) -> Result<(), Refusal> {
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
        // A source whose own size is no multiple of its own blocks takes that of its last one.
        let cut = self.size != self.served;
        let sides = [(Side::Target, target), (Side::Source, source.filter(|_| cut))];
        for (side, minimum) in sides.map(|(side, session)| (side, minimum(session))) {
            if let Some(size) = self.size.filter(|size| size % minimum != 0) {
                let what = format!(
                    "it takes only multiples of {minimum} bytes, and the source's size of {size} bytes is none"
                );
                return Err(Refusal::Side(side, Cause::Unfit(what)));
            }
        }
        if let Some(name) = &self.dirty_context
            && source.is_none_or(|session| session.context(name).is_none())
        {
            return Err(Refusal::Side(Side::Source, Cause::NoBitmap { name: name.clone() }));
        }
        let whole = matches!(self.settings.extent, Extent::Whole);
        if matches!(self.strands[0].target, TargetSide::Stream { .. })
            && (self.settings.journal.is_some() || self.settings.base.is_some() || !whole)
        {
            let what = "a target that is a stream takes the whole source, in order: it cannot have changed areas, a bitmap, a base or a resume journal";
            return Err(Refusal::Fault(Fault::Request(what.into())));
        }
        Ok(())
    }

    /// Refuses what needs a size where there is none.
    pub(super) fn check_size_is_known(&self) -> Result<(), Refusal> {
        if self.size.is_none()
            && (self.settings.journal.is_some()
                || self.settings.manifest.is_some()
                || self.settings.base.is_some()
                || !matches!(self.settings.extent, Extent::Whole))
        {
            let what = "a source that is a stream has no size: it cannot have changed areas, a manifest, a base or a resume journal";
            return Err(Refusal::Fault(Fault::Request(what.into())));
        }
        Ok(())
    }

    pub(super) fn choose_payload(&mut self, conveyor_bytes: usize) -> Result<(), Refusal> {
        let looked_at_for = match (self.settings.digest, self.settings.sparse_bytes) {
            _ if self.settings.base.is_some() => Some("it is compared with the base"),
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
        let default =
            if matches!(self.strands[0].target, TargetSide::Null(_) | TargetSide::Stream { .. }) {
                0
            } else {
                DEFAULT_SPARSE
            };
        let sparse = self.settings.sparse_bytes.unwrap_or(if self.payload == PayloadKind::Pooled {
            default
        } else {
            0
        });
        self.inspector.sparse_bytes = (sparse > 0).then_some(sparse as usize);
        Ok(())
    }

    pub(super) fn choose_lengths(
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
        let pooled = if self.payload == PayloadKind::Pooled { block } else { PAYLOAD_MAX };
        let max = of(source).min(of(target)).min(PAYLOAD_MAX).min(pooled);
        self.data_max = 1 << max.ilog2();
        let least = self.shortest_request(source, target);
        if least > self.data_max {
            let side = if of(source) < of(target) { Side::Source } else { Side::Target };
            let what = format!(
                "it takes requests of at most {} bytes, and at least {least} are needed here (for digests, or by the other side)",
                self.data_max
            );
            return Err(Refusal::Side(side, Cause::Unfit(what)));
        }
        if let Some(piece) = context.rate.piece_bytes() {
            // No less than what the target writes without reading the rest of a cluster.
            let piece = piece.max(self.alignment(source, target)).max(least);
            self.data_max = self.data_max.min(1 << piece.ilog2());
        }
        self.can_zero = match &self.strands[0].target {
            TargetSide::Nbd(_) => target.is_some_and(|session| session.flags.can_write_zeroes()),
            TargetSide::File(_) | TargetSide::Null(_) => true,
            TargetSide::Stream { .. } => false,
        };
        self.write_max = 1 << block.min(of(target)).ilog2();
        self.zero_max = if self.can_zero { ZERO_PIECE } else { self.write_max };
        // Runs of zeros are written apart: each has to be one that the target takes, and they
        // are counted in 16 bits.
        let least_run = usize_of(minimum(target).max(block.div_ceil(u64::from(u16::MAX))));
        self.inspector.sparse_bytes =
            self.inspector.sparse_bytes.map(|bytes| bytes.max(least_run).next_power_of_two());
        let limit = u32::try_from(self.data_max).unwrap_or(u32::MAX);
        let least = u32::try_from(least).unwrap_or(u32::MAX);
        let adapt = &self.settings.adapt_bytes;
        self.settings.adapt_bytes = *adapt.start().max(&least)..=*adapt.end().max(&least);
        let fixed = self
            .settings
            .request_bytes
            .map(|bytes| (1 << bytes.max(1).ilog2()).max(least).min(limit));
        self.adapt = Adapt::new(fixed, &self.settings, limit, context.now);
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

    pub(super) fn alignment(&self, source: Option<&Session>, target: Option<&Session>) -> u64 {
        let wish = match (&self.strands[0].target, self.settings.manifest.is_some()) {
            (TargetSide::Nbd(_), _) => u64::from(self.settings.cluster_bytes),
            (_, true) => crate::digest::DIGEST_BLOCK as u64,
            _ => FILE_ALIGNMENT,
        };
        let by_blocks = self.settings.manifest.is_some() || self.settings.base.is_some();
        let digest = if by_blocks { crate::digest::DIGEST_BLOCK as u64 } else { 1 };
        wish.max(digest).max(minimum(source)).max(minimum(target)).next_power_of_two()
    }

    pub(super) fn areas(&self, alignment: u64) -> Result<AreaSet, Refusal> {
        let Some(size) = self.size else {
            return Ok(AreaSet::whole(u64::MAX >> 1));
        };
        let Extent::Areas(areas) = &self.settings.extent else {
            return Ok(AreaSet::whole(size));
        };
        let served = self.served.unwrap_or(size);
        if let Some(area) = areas.as_slice().last().filter(|area| area.end() > served) {
            let what = format!(
                "a changed area of {} bytes at {} lies outside of the source, which has {served} bytes",
                area.length, area.start
            );
            return Err(Refusal::Fault(Fault::Request(what)));
        }
        if areas.as_slice().last().is_some_and(|area| area.end() > size) {
            // What is served behind the disk's end is no part of it.
            return Ok(areas.intersect(&AreaSet::whole(size)).rounded_out(alignment, size));
        }
        Ok(areas.rounded_out(alignment, size))
    }

    /// Takes out what the journal knows to be safe.
    pub(super) fn resume(&mut self, areas: AreaSet, alignment: u64) -> Result<AreaSet, Refusal> {
        let (Some(path), Some(size)) = (self.settings.journal.clone(), self.size) else {
            return Ok(areas);
        };
        let plan = Identity::plan_of(&areas, self.dirty_context.as_deref().unwrap_or_default());
        let identity = Identity {
            source: JournalSide { name: self.source.to_string(), size },
            target: JournalSide {
                name: self.target.to_string(),
                size: self.target_size.unwrap_or(size),
            },
            plan,
            base: self.base_identity(alignment)?,
            source_file: match &self.strands[0].source {
                SourceSide::File(file) => state_of(&**file),
                SourceSide::Nbd(_) | SourceSide::Stream { .. } => None,
            },
        };
        let resumed = Journal::resume_or_create(&path, &identity)
            .map_err(|e| beside("cannot use the resume journal", e.is_wrong_request(), &e))?;
        let safe = self.safe_with_digests(&resumed, &areas)?;
        self.live.skipped.add(safe.total());
        if !self.target_can_flush() {
            self.note("the target offers no FLUSH: nothing of it is known to be safe, and an interrupted copy starts anew");
        }
        self.journal = Some(resumed.journal);
        self.witnesses = resumed.witnesses;
        let fresh = resumed.safe.is_empty();
        let areas = self.keep_place_for_seal(areas, alignment, resumed.seal, fresh);
        Ok(areas.subtract(&safe))
    }

    /// What of `areas` need not be moved again: all that is safe, or where digests are wanted only
    /// what the manifest in the making has them of, with which the lane goes on.
    fn safe_with_digests(
        &mut self,
        resumed: &Resumed,
        areas: &AreaSet,
    ) -> Result<AreaSet, Refusal> {
        let safe = resumed.safe.intersect(areas);
        let Some((path, algorithm, size)) = self.manifest_wanted()? else {
            return Ok(safe);
        };
        let digested = resumed.digested.intersect(areas);
        let why = match &resumed.manifest {
            None => "the run that was interrupted made none".to_owned(),
            Some(mark @ ManifestMark::Partial { .. }) => {
                match ManifestWriter::resume(&path, algorithm, size, mark) {
                    Ok(manifest) => {
                        self.inspector.manifest = Some(manifest);
                        if digested != safe {
                            self.note("what was moved without digests is moved again");
                        }
                        return Ok(digested);
                    }
                    Err(e) => e.to_string(),
                }
            }
            Some(mark) => {
                let is_done = Manifest::mark(&path).is_ok_and(|found| found == *mark)
                    && Manifest::open(&path).is_ok_and(|found| found.algorithm() == algorithm);
                if is_done && digested == *areas {
                    self.manifest_is_complete = true;
                    return Ok(digested);
                }
                format!("the manifest {} is not the one that the journal is about", path.display())
            }
        };
        if !safe.is_empty() {
            self.note(&format!("all is moved again for its digests: {why}"));
        }
        Ok(AreaSet::new())
    }

    /// The manifest that is asked for: its path, its digests, and the size of the disk.
    fn manifest_wanted(&self) -> Result<Option<(PathBuf, DigestAlgorithm, u64)>, Refusal> {
        let (Some(path), Some(size)) = (&self.settings.manifest, self.size) else {
            return Ok(None);
        };
        let Some(algorithm) = self.settings.digest else {
            return Err(Refusal::Fault(Fault::Request(
                "a manifest needs a digest: choose one with --digest".into(),
            )));
        };
        Ok(Some((path.clone(), algorithm, size)))
    }

    /// Begins the manifest, unless the lane goes on with one or finds it complete.
    pub(super) fn open_manifest(&mut self) -> Result<(), Refusal> {
        let there = self.inspector.manifest.is_some() || self.manifest_is_complete;
        let Some((path, algorithm, size)) = self.manifest_wanted()?.filter(|_| !there) else {
            return Ok(());
        };
        let manifest = ManifestWriter::create(&path, algorithm, size)
            .map_err(|e| beside("cannot begin the manifest", e.is_wrong_request(), &e))?;
        self.inspector.manifest = Some(manifest);
        Ok(())
    }

    pub(super) fn is_worth_asking(&self, source: Option<&Session>, areas: &AreaSet) -> bool {
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
    pub(super) fn add_strands(
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
            let source =
                self.link(Side::Source, strand, now).map_err(|e| Refusal::Side(Side::Source, e))?;
            let target =
                self.link(Side::Target, strand, now).map_err(|e| Refusal::Side(Side::Target, e))?;
            self.strands.push(Strand::new(
                SourceSide::Nbd(Box::new(source)),
                TargetSide::Nbd(Box::new(target)),
            ));
        }
        Ok(())
    }
}

/// The refusal for a file beside the copy: what was asked for is wrong, or this machine failed.
pub(super) fn beside(what: &str, wrong_request: bool, error: &dyn std::error::Error) -> Refusal {
    let words = error.to_string();
    Refusal::Fault(if wrong_request {
        Fault::Request(words)
    } else {
        Fault::Local { what: what.into(), error: std::io::Error::other(words) }
    })
}

/// Bytes of the shortest request that a side takes; 1 for what is no server.
fn minimum(session: Option<&Session>) -> u64 {
    session.map_or(1, |session| u64::from(session.block_size.minimum))
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
