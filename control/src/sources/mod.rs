//! Where disks are read that are no NBD exports by themselves.
//!
//! Each kind runs a program that serves a disk as an NBD export, and ends it with the job.

pub mod vddk;
