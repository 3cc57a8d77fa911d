//! The data plane of blockferry.

pub mod digest;
pub mod journal;
pub mod manifest;
pub mod nbd;
pub mod plan;
pub mod rate;
pub mod units;
pub mod zero;
