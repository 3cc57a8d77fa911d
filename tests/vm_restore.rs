//! `restore --to vsphere`: disks of a point into a VM that is there, and into a new one.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;
mod restore;
