//! blockferry as a library: the data plane, under the name of the package.
//!
//! A program that embeds copies and wants nothing of the command line depends on
//! `blockferry-dataplane` alone; what is here is the same.

#![forbid(unsafe_code)]

#[doc(inline)]
pub use blockferry_dataplane::*;
