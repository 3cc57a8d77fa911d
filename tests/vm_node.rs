//! VMs of a vCenter that a node of a hub backs up: the password and the snapshot are the node's.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod at_node;
mod blockferry;
