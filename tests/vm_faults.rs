//! Backups of VMs while the server, its tasks, nbdkit or the program itself fail: a job fails or
//! recovers, with one line that says why; points stay whole, and nothing is left behind.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;
mod faults;
