//! One file per part of the protocol; `server` is the other side of the wire.

mod chunks;
mod corpus;
mod handshake;
mod refusals;
mod replies;
mod requests;
mod server;
mod session;
mod stream;
mod uri;
