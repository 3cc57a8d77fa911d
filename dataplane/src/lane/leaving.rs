//! Taking leave: what a server still owes is taken first, then it is told goodbye.
//!
//! ```text
//!            nothing on its way ──────────────────────────▶ DISC ──▶ closed
//!   source:  owes replies ──received and thrown away──▶ DISC ──▶ closed
//!   target:  is busy ──────────────────────────────────────────▶ closed
//! ```
//!
//! A source that is hung up on while it sends may die of it, and with it what others read there:
//! nbdkit before 1.33.10 aborts. So it is heard out, for as long as a lane may drain; what it sends
//! has nowhere to go any more, for nothing is written once a lane closes. A target that is still
//! busy has had that time already, while the lane drained.

use std::time::{Duration, Instant};

use crate::fault::Side;
use crate::nbd::{Command, CommandFlags, Request};
use crate::tls::Upgrade;

use super::context::Context;
use super::issue::bytes;
use super::link::{Link, Outgoing, State};
use super::slots::{SlotIndex, SlotState};
use super::strand::PayloadState;
use super::task::{Phase, Task};

/// How long a failed or interrupted lane waits for what is in flight, at most; and then once more
/// for what its sources still send.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// How long the sending of a goodbye may take.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

impl Link {
    /// Whether nothing is on its way, in either direction.
    fn is_idle(&self) -> bool {
        let owed = self.outstanding > 0 || self.discard > 0;
        !owed && !self.sending && self.outbox_is_empty()
    }

    /// Tells the server goodbye as soon as nothing is on its way any more, and the one of the
    /// connection beside this one too. True while that has to be waited for.
    pub(super) fn takes_leave(&mut self, context: &mut Context<'_>) -> bool {
        if self.is_ready() && self.is_idle() {
            self.say_goodbye(context.now);
        }
        let waits = match self.state {
            State::Ready => true,
            State::Leaving(since) => {
                self.pump_out(context);
                let sending = self.sending || !self.outbox_is_empty();
                sending && context.now.duration_since(since) <= GOODBYE_LIMIT
            }
            State::Down | State::Connecting | State::Handshaking(_) => false,
        };
        let beside = self.spare.as_mut().is_some_and(|spare| spare.takes_leave(context));
        waits || beside
    }

    /// Tells the server that nothing more will come.
    fn say_goodbye(&mut self, now: Instant) {
        let disconnect = Request {
            command: Command::Disconnect,
            flags: CommandFlags::NONE,
            cookie: 0,
            offset: 0,
            length: 0,
        };
        self.outbox.push_back(Outgoing { request: disconnect, payload: None });
        self.state = State::Leaving(now);
    }
}

impl Task {
    /// Whether a lane that failed has waited long enough for what is in flight.
    pub(super) fn drain_is_over(&self, now: Instant) -> bool {
        now.duration_since(self.draining_since) > self.drain_limit()
    }

    fn drain_limit(&self) -> Duration {
        DRAIN_LIMIT.min(self.settings.deadline)
    }

    /// Takes leave of all servers; the lane is over when that is done.
    pub(super) fn close(&mut self, context: &mut Context<'_>) {
        if self.closing_since.is_none() {
            self.let_go();
        }
        let since = *self.closing_since.get_or_insert(context.now);
        let mut waits = false;
        for link in self.strands.iter_mut().flat_map(|strand| strand.links()) {
            waits |= link.takes_leave(context);
        }
        if !waits || context.now.duration_since(since) > self.drain_limit() {
            self.phase = Phase::Over;
            self.elapsed = context.now.duration_since(self.started);
        }
    }

    /// Gives up what will not be written any more, and the targets that are busy.
    fn let_go(&mut self) {
        for slot in self.slots.indices() {
            if self.slots[slot].state == SlotState::Loaded {
                self.give_up(slot);
            }
        }
        for link in self.strands.iter_mut().filter_map(|strand| strand.target_link()) {
            // A payload that is on its way into it comes back to be taken from the source.
            if link.is_ready() && !link.is_idle() {
                link.reset();
            }
            link.spare.take_if(|spare| !spare.is_answered());
        }
    }

    /// Whether what a strand's source still sends has nowhere to go.
    pub(super) fn is_unwanted(&self, strand: usize) -> bool {
        let writable = || self.strands[strand].side_is_ready(Side::Target);
        self.fault.is_some() && (self.phase == Phase::Closing || !writable())
    }

    /// Takes an announced payload out of the source's stream, if nobody wants it any more.
    pub(super) fn throw_away_if_unwanted(&mut self, strand: usize, slot: SlotIndex) {
        if !self.is_unwanted(strand) {
            return; // its turn will come
        }
        let length = bytes(self.slots[slot].piece.length);
        let Some(link) = self.strands[strand].source_link().filter(|link| link.is_ready()) else {
            return;
        };
        link.discard = length;
        self.strands[strand].payload = PayloadState::None;
        self.request_ended(strand, Side::Source);
        self.put_back(slot);
    }

    /// Drops connections and pipes, after the goodbyes have been sent.
    /// Gives back the TLS sessions that have yet to take their leave.
    pub(crate) fn hang_up(&mut self) -> Vec<Upgrade> {
        let mut leaving = Vec::new();
        for strand in &mut self.strands {
            for link in strand.links() {
                leaving.extend(link.take_tls());
                link.reset();
            }
            strand.conveyor = None;
        }
        leaving
    }
}
