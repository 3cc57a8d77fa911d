//! Reading a few bytes of a side, outside of the pieces: the witnesses of a journal.
//!
//! After a FLUSH, a small range is read back from the target and its digest goes into the
//! journal. A run that resumes reads the same range of both sides: if either holds something
//! else, it is another image at the same address, and the journal is not its journal.

use crate::fault::{Cause, Fault, Side};
use crate::journal::Witness;
use crate::nbd::{Command, CommandFlags, ReplyMode, Request};

use super::context::Context;
use super::durable::WITNESS_BYTES;
use super::replies::{Go, Heard};
use super::slots::Cookie;
use super::strand::{SourceSide, TargetSide};
use super::task::{Phase, Task};

/// A read of a few bytes that is in flight.
pub(super) struct Probe {
    side: Side,
    offset: u64,
    length: u32,
    /// What was received; `None` until then, or if the answer had another form.
    bytes: Option<Vec<u8>>,
    receiving: bool,
    done: bool,
    /// The witness that it is compared with; `None`: it makes one.
    compare: Option<Witness>,
    /// Only one side holds it.
    is_seal: bool,
}

impl Task {
    /// Reads back some ranges of what the FLUSH covered.
    pub(super) fn probe_witnesses(&mut self, context: &mut Context<'_>) {
        self.places = self.witness_places();
        self.probe_next_witness(context);
    }

    fn probe_next_witness(&mut self, context: &mut Context<'_>) {
        match self.places.pop() {
            Some(place) => {
                self.begin_probe(Side::Target, place.start, place.length, None, context);
            }
            None => self.journal_flushed(context),
        }
    }

    /// Compares the seal and the next witness of a resumed journal, or sets a seal; the lane runs
    /// when all is as it should be.
    pub(super) fn check_witnesses(&mut self, context: &mut Context<'_>) {
        if let Some(seal) = self.seal.take_unchecked() {
            let area = seal.area();
            let compare = Some((seal, true));
            return self.begin_probe(Side::Target, area.start, area.length, compare, context);
        }
        match self.witnesses.pop() {
            None if self.seal.is_pending() => self.set_seal(context),
            None => {
                if let Err(refusal) = self.begin_running() {
                    self.refuse(refusal, context.now);
                }
            }
            Some(witness) => {
                let area = witness.area();
                let compare = Some((witness, false));
                self.begin_probe(Side::Target, area.start, area.length, compare, context);
            }
        }
    }

    fn begin_probe(
        &mut self,
        side: Side,
        offset: u64,
        length: u64,
        compare: Option<(Witness, bool)>,
        context: &mut Context<'_>,
    ) {
        let length = u32::try_from(length.min(WITNESS_BYTES)).expect("bounded just now");
        self.probe = Some(Probe {
            side,
            offset,
            length,
            bytes: None,
            receiving: false,
            done: false,
            is_seal: compare.as_ref().is_some_and(|(_, is_seal)| *is_seal),
            compare: compare.map(|(witness, _)| witness),
        });
        let file = match (side, &self.strands[0].source, &self.strands[0].target) {
            (Side::Source, SourceSide::File(file), _)
            | (Side::Target, _, TargetSide::File(file)) => Some(file),
            _ => None,
        };
        if let Some(file) = file {
            // A few KiB of a local file, once a FLUSH: read on the spot.
            let mut bytes = vec![0; length as usize];
            let read = rustix::io::pread(&**file, &mut bytes, offset);
            let probe = self.probe.as_mut().expect("set above");
            probe.bytes = (read == Ok(bytes.len())).then_some(bytes);
            return self.probe_ended(context);
        }
        let Some(link) = self.strands[0].link(side).filter(|link| link.is_ready()) else {
            return self.probe_ended(context);
        };
        let whole = link.session.as_ref().is_some_and(|session| session.flags.send_df());
        let flags = if whole { CommandFlags::DF } else { CommandFlags::NONE };
        link.request(
            Request {
                command: Command::Read,
                flags,
                cookie: Cookie::Probe.number(),
                offset,
                length: u64::from(length),
            },
            None,
            context.now,
        );
        link.pump(context);
    }

    /// A reply to a probe came.
    pub(super) fn probe_said(
        &mut self,
        strand: usize,
        side: Side,
        heard: Heard,
        context: &mut Context<'_>,
    ) -> Result<Go, Cause> {
        let Some(probe) = self.probe.as_mut().filter(|probe| probe.side == side) else {
            return Err(Cause::Protocol("a reply came to a read that nobody asked for".into()));
        };
        let (wanted, at) = (probe.length, probe.offset);
        let simple = self.strands[strand]
            .link(side)
            .and_then(|link| link.session.as_ref())
            .is_some_and(|session| session.mode == ReplyMode::Simple);
        let done = match heard {
            Heard::Simple { error: None, .. } if simple => {
                self.probe_data(strand, side, wanted, true, true, context);
                return Ok(Go::Payload);
            }
            Heard::Data { offset, length, done, .. } => {
                self.probe_data(
                    strand,
                    side,
                    length,
                    done,
                    offset == at && length == wanted,
                    context,
                );
                return Ok(Go::Payload);
            }
            Heard::Hole { done, .. } | Heard::Error { done, .. } => done,
            Heard::Done { .. } | Heard::Simple { .. } | Heard::Status { .. } => true,
        };
        if done {
            self.request_ended(strand, side);
            self.probe_ended(context);
        }
        Ok(Go::On)
    }

    fn probe_data(
        &mut self,
        strand: usize,
        side: Side,
        length: u32,
        done: bool,
        whole: bool,
        context: &mut Context<'_>,
    ) {
        let Some(link) = self.strands[strand].link(side) else {
            return;
        };
        let room = whole && (length as usize) <= super::context::HEAD_BYTES;
        let buf = if room { context.heads.claim() } else { None };
        match buf {
            Some(buf) => {
                if let Some(probe) = &mut self.probe {
                    (probe.receiving, probe.done) = (true, done);
                }
                link.receive_payload(context, buf, 0, length as usize);
            }
            None => {
                link.discard = length as usize;
                if done {
                    self.request_ended(strand, side);
                    self.probe_ended(context);
                }
            }
        }
    }

    /// The bytes of a probe came. False when the payload was somebody else's.
    pub(super) fn probe_received(
        &mut self,
        strand: usize,
        side: Side,
        bytes: &[u8],
        context: &mut Context<'_>,
    ) -> bool {
        let Some(probe) = self.probe.as_mut().filter(|probe| probe.side == side && probe.receiving)
        else {
            return false;
        };
        probe.receiving = false;
        probe.bytes = Some(bytes.to_vec());
        if probe.done {
            self.request_ended(strand, side);
            self.probe_ended(context);
        }
        true
    }

    /// A probe's connection was lost: what it was for goes on without it.
    pub(super) fn probe_lost(&mut self, side: Side) {
        if self.probe.as_ref().is_some_and(|probe| probe.side == side) {
            let probe = self.probe.take();
            self.places.clear();
            self.made.clear();
            match probe.map(|probe| (probe.compare, probe.is_seal)) {
                Some((Some(seal), true)) => self.seal.is_unchecked(seal),
                Some((Some(witness), false)) => self.witnesses.push(witness),
                Some((None, _)) | None => {}
            }
        }
        if side == Side::Target {
            self.seal.lost();
        }
    }

    fn probe_ended(&mut self, context: &mut Context<'_>) {
        let Some(probe) = self.probe.take() else {
            return;
        };
        if self.phase == Phase::Closing {
            return; // the lane failed before it was answered
        }
        let Some(witness) = probe.compare else {
            self.made.extend(probe.bytes.map(|bytes| Witness::of(probe.offset, &bytes)));
            return self.probe_next_witness(context);
        };
        let side = probe.side;
        if !probe.bytes.is_some_and(|bytes| witness.matches(&bytes)) {
            let what = format!(
                "the resume journal is not of this {side}: the {} bytes at {} are not what the journal says; remove the journal to start anew",
                probe.length, probe.offset
            );
            return self.fail(Fault::Request(what), context.now);
        }
        match side {
            Side::Target if !probe.is_seal => self.begin_probe(
                Side::Source,
                probe.offset,
                u64::from(probe.length),
                Some((witness, false)),
                context,
            ),
            Side::Target | Side::Source => self.check_witnesses(context),
        }
    }
}
