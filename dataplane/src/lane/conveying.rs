//! Payload that moves inside the kernel: announced by the source, moved into the target.

use std::rc::Rc;

use crate::engine::{Completion, Conveyor, End, Op, Token};
use crate::fault::{Fault, Side};
use crate::nbd::{Command, CommandFlags, MAX_REQUEST_LEN, Request};

use super::context::Context;
use super::issue::{bytes, index};
use super::role::Role;
use super::slots::{SlotIndex, SlotState};
use super::strand::{PayloadState, TargetSide};
use super::task::Task;

impl Task {
    /// Begins the move of an announced payload, if the target's direction is free.
    pub(super) fn convey_announced(&mut self, strand: usize, context: &mut Context<'_>) {
        let PayloadState::Announced(slot) = self.strands[strand].payload else {
            return;
        };
        let piece = self.slots[slot].piece;
        let cookie = self.slots.await_reply(slot, 0);
        let (to, head, target_epoch) = match &mut self.strands[strand].target {
            TargetSide::Null(null) => (Rc::clone(null), None, 0),
            TargetSide::Nbd(link) => {
                let (true, false, Some(socket)) =
                    (link.is_ready(), link.sending, link.socket.clone())
                else {
                    return self.throw_away_if_unwanted(strand, slot);
                };
                let request = Request {
                    command: Command::Write,
                    flags: CommandFlags::NONE,
                    cookie: cookie.number(),
                    offset: piece.start,
                    length: piece.length,
                };
                let mut head = [0; MAX_REQUEST_LEN];
                let length = link.encode(&request, &mut head);
                (socket, Some((head, length)), link.epoch)
            }
            TargetSide::File(_) | TargetSide::Stream { .. } => return,
        };
        let mut conveyor = match self.take_conveyor(strand, context.conveyor_bytes) {
            Ok(conveyor) => conveyor,
            Err(fault) => return self.fail(fault, context.now),
        };
        if let Some((head, length)) = head
            && let Err(error) = conveyor.put_head(&head[..length])
        {
            return self.fail(
                Fault::Local { what: "cannot put a header into a pipe".into(), error },
                context.now,
            );
        }
        if let Some(link) = self.strands[strand].target_link() {
            link.sending = true;
        }
        let end = conveyor.watch_end();
        let id = self.id;
        let Some(link) = self.strands[strand].source_link() else {
            return;
        };
        let Some(from) = link.socket.clone() else {
            return;
        };
        link.receiving = true;
        let token = Token {
            lane: id,
            strand: index(strand),
            role: Role::Convey.on(Side::Source),
            tag: link.epoch,
        };
        self.strands[strand].payload = PayloadState::Conveying { slot, target_epoch };
        self.strands[strand].move_end = Some(end);
        self.slots[slot].state = SlotState::Conveying;
        context
            .engine
            .submit(token, Op::Convey { from, conveyor, to, length: bytes(piece.length) });
    }

    /// A move has ended, or failed at one of its ends.
    pub(super) fn conveyed(
        &mut self,
        strand: usize,
        tag: u32,
        completion: Completion,
        context: &mut Context<'_>,
    ) {
        let Op::Convey { conveyor, length, .. } = completion.op else {
            return;
        };
        let state = &mut self.strands[strand];
        let PayloadState::Conveying { slot, target_epoch } = state.payload else {
            return;
        };
        if state.source_link().is_none_or(|link| link.epoch != tag) {
            return; // both sides were given up; so is the pipe, with what may be in it
        }
        state.payload = PayloadState::None;
        let target_is_same = state.target_link().is_none_or(|link| link.epoch == target_epoch);
        if let Some(link) = state.target_link()
            && target_is_same
        {
            link.sending = false;
        }
        if let Some(link) = state.source_link() {
            link.receiving = false;
        }
        match completion.result {
            Ok(_) if target_is_same => {
                state.conveyor = Some(conveyor);
                if let Some(link) = state.source_link()
                    && let Some(reader) = &mut link.reader
                {
                    reader.payload_taken();
                }
                self.conveyed_whole(strand, slot, length as u64, context);
                self.take_replies(strand, Side::Source, context);
            }
            Err(e) if conveyor.end() == End::From => {
                let Some(link) = self.strands[strand].source_link() else {
                    return;
                };
                let cause = link.lost(&e.to_string());
                // The target has a part of a payload: nothing but the end of its connection can
                // follow it.
                self.strands[strand].payload = PayloadState::Conveying { slot, target_epoch };
                self.side_failed(strand, Side::Source, cause, context);
            }
            result => {
                // The target is gone, the source is not: what is left of the payload is taken
                // out of its stream.
                let left = if result.is_ok() { 0 } else { length - conveyor.taken() };
                if let Some(link) = self.strands[strand].source_link() {
                    link.discard = left;
                    if link.discard == 0
                        && let Some(reader) = &mut link.reader
                    {
                        reader.payload_taken();
                    }
                }
                self.request_ended(strand, Side::Source);
                self.put_back(slot);
                if target_is_same && let Some(link) = self.strands[strand].target_link() {
                    let how = result.err().map_or_else(|| "it ended".into(), |e| e.to_string());
                    let cause = link.lost(&how);
                    self.side_failed(strand, Side::Target, cause, context);
                }
                self.take_replies(strand, Side::Source, context);
            }
        }
    }

    fn conveyed_whole(
        &mut self,
        strand: usize,
        slot: SlotIndex,
        length: u64,
        context: &mut Context<'_>,
    ) {
        self.live.read.add(length);
        self.live.sent.add(length);
        self.request_ended(strand, Side::Source);
        self.slots[slot].state = SlotState::Writing;
        self.slots[slot].parts = 1;
        self.slots.stamp(slot, context.now);
        match self.strands[strand].target_link() {
            Some(link) => {
                if link.outstanding == 0 {
                    link.liveness.begins(context.now);
                }
                link.outstanding += 1;
            }
            None => self.part_acknowledged(slot, context),
        }
    }

    /// The conveyor of a strand, made when it is first needed.
    pub(super) fn take_conveyor(
        &mut self,
        strand: usize,
        bytes: usize,
    ) -> Result<Box<Conveyor>, Fault> {
        match self.strands[strand].conveyor.take() {
            Some(conveyor) => Ok(conveyor),
            None => Conveyor::new(bytes).map(Box::new).map_err(|error| Fault::Local {
                what:
                    "cannot make a pipe for the payload (raise ulimit -n, or use --payload pooled)"
                        .into(),
                error,
            }),
        }
    }
}
