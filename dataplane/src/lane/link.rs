//! One connection to one NBD server: dialled, negotiated, and kept.
//!
//! ```text
//!            dial            connected           Ready
//!   Down ───────────▶ Connecting ───▶ Handshaking ───▶ Ready ──goodbye──▶ Leaving
//!    ▲                    │                │             │                  │
//!    └────────────────────┴── reset ───────┴─────────────┴──────────────────┘  each with a new epoch
//! ```
//!
//! A link carries requests out and replies in; what they mean is its lane's affair. It has at most
//! one operation in flight for each direction. Every operation carries the link's epoch, so that
//! what completes after a reset is recognised and dropped.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use crate::engine::{Completion, Descriptor, Op, Token};
use crate::fault::{Cause, Side};
use crate::nbd::{MAX_REQUEST_LEN, ReplyReader, Request, Session};
use crate::pool::Buf;
use crate::tls;

use super::context::Context;
use super::destination::Destination;
use super::liveness::Liveness;
use super::negotiate::Negotiation;
use super::role::Role;
use super::spare::Spare;

/// One connection.
pub(super) struct Link {
    pub(super) side: Side,
    pub(super) lane: u32,
    pub(super) strand: u16,
    pub(super) destination: Destination,
    /// Of the destination's addresses, the one that is dialled next.
    pub(super) next_address: usize,
    pub(super) epoch: u32,
    /// Epochs of this link and of those beside it are never used twice.
    pub(super) last_epoch: u32,
    pub(super) state: State,
    pub(super) socket: Option<Rc<Descriptor>>,
    /// What the last handshake agreed on; kept over a loss, to be compared with the next.
    pub(super) session: Option<Session>,
    pub(super) reader: Option<ReplyReader>,
    /// The direction is busy: with an operation of the link, or of the lane (payload).
    pub(super) receiving: bool,
    pub(super) sending: bool,
    pub(super) outbox: VecDeque<Outgoing>,
    /// Requests handed to the link whose last reply has not come.
    pub(super) outstanding: u32,
    /// Chunks without payload that did not end their reply, since a reply last ended.
    pub(super) unended: u32,
    /// Bytes to take out of the stream and throw away before the next head.
    pub(super) discard: usize,
    pub(super) liveness: Liveness,
    pub(super) tls: Option<tls::Upgrade>,
    /// The connection that may take the place of this one, while it is silent.
    pub(super) spare: Option<Spare>,
}

/// Where a connection is.
pub(super) enum State {
    Down,
    Connecting,
    Handshaking(Box<Negotiation>),
    Ready,
    /// Told goodbye at this time: nothing follows.
    Leaving(Instant),
}

/// A request on its way out, with its payload (buffer, start, length).
pub(super) struct Outgoing {
    pub(super) request: Request,
    pub(super) payload: Option<(Buf, usize, usize)>,
}

/// What a completion made of a link.
pub(super) enum Happened {
    /// Nothing that the lane has to know.
    Nothing,
    /// The handshake is over; `session` is set.
    Ready,
    /// Bytes came: the lane takes the replies out of `reader`.
    Received,
}

impl Link {
    /// A link that is to be dialled at once.
    pub(super) fn new(
        side: Side,
        lane: u32,
        strand: u16,
        destination: Destination,
        now: Instant,
    ) -> Self {
        Self {
            side,
            lane,
            strand,
            destination,
            next_address: 0,
            epoch: 0,
            last_epoch: 0,
            state: State::Down,
            socket: None,
            session: None,
            reader: None,
            receiving: false,
            sending: false,
            outbox: VecDeque::new(),
            outstanding: 0,
            unended: 0,
            discard: 0,
            liveness: Liveness::new(now),
            tls: None,
            spare: None,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }

    pub(super) fn is_down(&self) -> bool {
        matches!(self.state, State::Down)
    }

    pub(super) fn token(&self, role: Role) -> Token {
        Token { lane: self.lane, strand: self.strand, role: role.on(self.side), tag: self.epoch }
    }

    /// Begins a connection.
    pub(super) fn dial(&mut self, context: &mut Context<'_>) -> Result<(), Cause> {
        self.liveness.retry_at = None;
        self.liveness.since = context.now;
        self.liveness.moved = 0;
        let descriptor = if let Some(dialer) = &self.destination.endpoint.dialer {
            dialer.dial().and_then(Descriptor::socket)
        } else {
            Descriptor::connect(&self.destination.addresses[self.next_address])
        };
        let socket = Rc::new(descriptor.map_err(Cause::Connect)?);
        self.socket = Some(Rc::clone(&socket));
        self.state = State::Connecting;
        context.engine.submit(self.token(Role::Connect), Op::Connect { socket });
        Ok(())
    }

    /// True when the address that failed is not the last one: it is worth dialling the next.
    pub(super) fn try_next_address(&mut self) -> bool {
        self.next_address += 1;
        if self.next_address < self.destination.addresses.len() {
            return true;
        }
        self.next_address = 0;
        false
    }

    /// Drops the connection; operations in flight on it end by themselves.
    pub(super) fn reset(&mut self) {
        if let Some(socket) = self.socket.take() {
            socket.shutdown();
        }
        self.epoch = self.next_epoch();
        self.state = State::Down;
        self.reader = None;
        self.receiving = false;
        self.sending = false;
        self.outbox.clear();
        self.outstanding = 0;
        self.unended = 0;
        self.discard = 0;
        self.tls = None;
    }

    /// An epoch that no connection of this side has had.
    pub(super) fn next_epoch(&mut self) -> u32 {
        self.last_epoch = self.last_epoch.wrapping_add(1);
        self.last_epoch
    }

    /// The TLS session under the connection, for whoever ends the link for good.
    pub(super) fn take_tls(&mut self) -> Option<tls::Upgrade> {
        self.tls.take()
    }

    /// Queues a request.
    pub(super) fn request(
        &mut self,
        request: Request,
        payload: Option<(Buf, usize, usize)>,
        now: Instant,
    ) {
        if self.outstanding == 0 {
            self.liveness.begins(now);
        }
        self.outstanding += 1;
        self.outbox.push_back(Outgoing { request, payload });
    }

    /// Encodes a request for this connection, outside of the outbox.
    pub(super) fn encode(&self, request: &Request, out: &mut [u8; MAX_REQUEST_LEN]) -> usize {
        let session = self.session.as_ref().expect("a link encodes requests only when it is ready");
        request.encode(session.mode, out)
    }

    pub(super) fn outbox_is_empty(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Sends what is queued and receives what may come, where the directions are idle.
    pub(super) fn pump(&mut self, context: &mut Context<'_>) {
        if let Some(spare) = &mut self.spare {
            spare.pump(context);
        }
        if !self.is_ready() {
            return;
        }
        self.pump_out(context);
        self.pump_in(context);
    }

    pub(super) fn pump_out(&mut self, context: &mut Context<'_>) {
        if self.sending || self.outbox.is_empty() {
            return;
        }
        let (Some(socket), Some(session)) = (self.socket.clone(), self.session.as_ref()) else {
            return;
        };
        let Some(mut head) = context.heads.claim() else {
            return;
        };
        let mode = session.mode;
        let (mut head_len, mut payload) = (0, None);
        // As many requests as fit, up to the first that carries a payload.
        while payload.is_none() && head_len + MAX_REQUEST_LEN <= head.len() {
            let Some(outgoing) = self.outbox.pop_front() else {
                break;
            };
            let mut encoded = [0; MAX_REQUEST_LEN];
            let length = outgoing.request.encode(mode, &mut encoded);
            head.bytes_mut()[head_len..head_len + length].copy_from_slice(&encoded[..length]);
            head_len += length;
            payload = outgoing.payload;
        }
        self.sending = true;
        context.engine.submit(self.token(Role::Send), Op::Send { socket, head, head_len, payload });
    }

    fn pump_in(&mut self, context: &mut Context<'_>) {
        if self.receiving {
            return;
        }
        let (Some(socket), Some(reader)) = (self.socket.clone(), &self.reader) else {
            return;
        };
        let (role, most) = match self.discard {
            0 => (Role::Receive, reader.wanted()),
            bytes => (Role::Discard, bytes),
        };
        if most == 0 {
            return;
        }
        let Some(buf) = context.heads.claim() else {
            return;
        };
        let most = most.min(buf.len());
        self.receiving = true;
        context.engine.submit(self.token(role), Op::Receive { socket, buf, at: 0, least: 1, most });
    }

    /// Receives `length` bytes of payload into `buf[at..]`; the lane gets the completion.
    pub(super) fn receive_payload(
        &mut self,
        context: &mut Context<'_>,
        buf: Buf,
        at: usize,
        length: usize,
    ) {
        let Some(socket) = self.socket.clone() else {
            return;
        };
        self.receiving = true;
        context.engine.submit(
            self.token(Role::Payload),
            Op::Receive { socket, buf, at, least: length, most: length },
        );
    }

    /// Takes the completion of one of the link's own operations of the present epoch.
    pub(super) fn complete(
        &mut self,
        role: Role,
        completion: Completion,
        context: &mut Context<'_>,
    ) -> Result<Happened, Cause> {
        match role {
            Role::Connect => {
                completion.result.map_err(Cause::Connect)?;
                self.begin_handshake(context)?;
                Ok(Happened::Nothing)
            }
            Role::Send => {
                self.sending = false;
                completion.result.map_err(|e| self.lost(&e.to_string()))?;
                if let State::Handshaking(_) = self.state {
                    self.continue_sending(context);
                }
                Ok(Happened::Nothing)
            }
            Role::Receive => {
                self.receiving = false;
                let count = completion.result.map_err(|e| self.lost(&e.to_string()))?;
                let Op::Receive { buf, .. } = completion.op else {
                    return Ok(Happened::Nothing);
                };
                if let State::Handshaking(_) = self.state {
                    return self.negotiate(&buf[..count], context);
                }
                if count == 0 {
                    return Err(self.lost("the server closed it"));
                }
                if let Some(reader) = &mut self.reader {
                    reader.feed(&buf[..count]);
                }
                Ok(Happened::Received)
            }
            Role::Discard => {
                self.receiving = false;
                let count = completion.result.map_err(|e| self.lost(&e.to_string()))?;
                if count == 0 {
                    return Err(self.lost("the server closed it"));
                }
                self.discard -= count;
                if self.discard == 0
                    && let Some(reader) = &mut self.reader
                {
                    reader.payload_taken();
                }
                Ok(Happened::Nothing)
            }
            _ => Ok(Happened::Nothing),
        }
    }

    /// The connection ended, as a cause; a failed TLS session tells why.
    pub(super) fn lost(&self, how: &str) -> Cause {
        if let Some(reason) = self.tls.as_ref().and_then(tls::Upgrade::failure) {
            return Cause::Tls(reason);
        }
        Cause::Lost { how: how.into(), waiting_for: self.waiting_for() }
    }
}
