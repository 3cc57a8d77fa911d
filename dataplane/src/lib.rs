//! The data plane of blockferry.

pub mod nbd;
