//! What a lane uses an operation for; travels in the operation's token.

use crate::fault::Side;

/// The use of an operation. The side is kept in the lowest bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A link connects.
    Connect,
    /// A link sends handshake or requests.
    Send,
    /// A link receives handshake or heads of replies.
    Receive,
    /// A link receives payload to be thrown away.
    Discard,
    /// A link receives payload into a buffer.
    Payload,
    /// A payload moves from source to target.
    Convey,
    /// A file or stream is read; the tag is the slot.
    Read,
    /// A file or stream is written; the tag is the slot.
    Write,
    /// A file is made durable.
    Sync,
    /// A pipe's first bytes are waited for.
    Await,
}

const ROLES: [Role; 10] = [
    Role::Connect,
    Role::Send,
    Role::Receive,
    Role::Discard,
    Role::Payload,
    Role::Convey,
    Role::Read,
    Role::Write,
    Role::Sync,
    Role::Await,
];

impl Role {
    pub(super) fn on(self, side: Side) -> u8 {
        (self as u8) << 1 | u8::from(side == Side::Target)
    }

    pub(super) fn of(number: u8) -> (Self, Side) {
        let side = if number & 1 == 1 { Side::Target } else { Side::Source };
        (ROLES[usize::from(number >> 1)], side)
    }
}
