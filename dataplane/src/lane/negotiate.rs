//! The handshake of a link, carried by operations, and TLS under it.

use std::rc::Rc;

use crate::engine::Op;
use crate::fault::Cause;
use crate::nbd::{Handshake, HandshakeStatus, ReplyReader};
use crate::tls;

use super::context::Context;
use super::link::{Happened, Link, State};
use super::role::Role;

/// A handshake under way.
pub(super) struct Negotiation {
    pub(super) machine: Handshake,
    pub(super) output: Vec<u8>,
    pub(super) sent: usize,
}

impl Link {
    pub(super) fn begin_handshake(&mut self, context: &mut Context<'_>) -> Result<(), Cause> {
        let machine = Handshake::open(self.destination.wishes.clone());
        self.state =
            State::Handshaking(Box::new(Negotiation { machine, output: Vec::new(), sent: 0 }));
        self.receive_options(context)
    }

    fn receive_options(&mut self, context: &mut Context<'_>) -> Result<(), Cause> {
        let Some(socket) = self.socket.clone() else {
            return Ok(());
        };
        let buf = context
            .heads
            .claim()
            .ok_or_else(|| Cause::Unfit("no buffer is left for its handshake".into()))?;
        let most = buf.len();
        self.receiving = true;
        context
            .engine
            .submit(self.token(Role::Receive), Op::Receive { socket, buf, at: 0, least: 1, most });
        Ok(())
    }

    pub(super) fn negotiate(
        &mut self,
        input: &[u8],
        context: &mut Context<'_>,
    ) -> Result<Happened, Cause> {
        let State::Handshaking(negotiation) = &mut self.state else {
            return Ok(Happened::Nothing);
        };
        if input.is_empty() {
            return Err(Cause::Handshake(negotiation.machine.disconnected()));
        }
        let advance = negotiation
            .machine
            .advance(input, &mut negotiation.output)
            .map_err(Cause::Handshake)?;
        let early = advance.consumed < input.len();
        match advance.status {
            HandshakeStatus::NeedInput => {}
            _ if early => {
                return Err(Cause::Protocol(
                    "bytes came before they were asked for, at the end of the handshake".into(),
                ));
            }
            HandshakeStatus::StartTls => {
                self.start_tls()?;
                let State::Handshaking(negotiation) = &mut self.state else {
                    return Ok(Happened::Nothing);
                };
                // The handshake goes on inside the tunnel.
                negotiation
                    .machine
                    .advance(&[], &mut negotiation.output)
                    .map_err(Cause::Handshake)?;
            }
            HandshakeStatus::Ready(session) => {
                self.reader = Some(ReplyReader::with_limits(session.mode, self.destination.limits));
                self.session = Some(session);
                self.state = State::Ready;
                self.liveness.since = context.now;
                // A handshake is no progress of the lane.
                self.liveness.moved = self.moved();
                return Ok(Happened::Ready);
            }
            HandshakeStatus::Listed(_) => {
                return Err(Cause::Protocol("a list came where an export was opened".into()));
            }
        }
        self.continue_sending(context);
        self.receive_options(context)?;
        Ok(Happened::Nothing)
    }

    pub(super) fn continue_sending(&mut self, context: &mut Context<'_>) {
        let State::Handshaking(negotiation) = &mut self.state else {
            return;
        };
        if self.sending || negotiation.sent == negotiation.output.len() {
            return;
        }
        let (Some(socket), Some(mut head)) = (self.socket.clone(), context.heads.claim()) else {
            return;
        };
        let part = &negotiation.output[negotiation.sent..];
        let head_len = part.len().min(head.len());
        head.bytes_mut()[..head_len].copy_from_slice(&part[..head_len]);
        negotiation.sent += head_len;
        if negotiation.sent == negotiation.output.len() {
            negotiation.output.clear();
            negotiation.sent = 0;
        }
        self.sending = true;
        context
            .engine
            .submit(self.token(Role::Send), Op::Send { socket, head, head_len, payload: None });
    }

    /// From here on the bytes of the socket pass through a TLS session on a thread of its own,
    /// and the link works on the near end of a socket pair.
    fn start_tls(&mut self) -> Result<(), Cause> {
        let Some(socket) = self.socket.take() else {
            return Ok(());
        };
        let (upgrade, near) =
            tls::upgrade(&socket, &self.destination.endpoint.uri).map_err(Cause::Tls)?;
        self.tls = Some(upgrade);
        self.socket = Some(Rc::new(near));
        Ok(())
    }
}
