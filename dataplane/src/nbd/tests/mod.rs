//! One file per part of the protocol.
