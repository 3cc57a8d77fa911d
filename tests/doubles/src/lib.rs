//! Servers for blockferry's tests.
//!
//! ```text
//!  process   a child that never outlives its test        socket   TCP and Unix under one name
//!     |                                                     |
//!  disk      test disks and their comparison
//! ```
//!
//! Nothing here depends on the data plane: the protocol is encoded a second time, so that the
//! two implementations check each other.

// A double that meets something it did not foresee should end the test loudly.
#![allow(clippy::unwrap_used)]

pub mod disk;
pub mod nbdkit;
pub mod process;
pub mod qemu;
pub mod server;
pub mod socket;

pub use disk::TestDisk;
pub use nbdkit::Nbdkit;
pub use process::Child;
pub use qemu::QemuNbd;
pub use server::Server;
pub use socket::Address;
