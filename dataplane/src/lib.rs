//! The data plane of blockferry.

pub mod digest;
pub mod nbd;
pub mod plan;
pub mod rate;
pub mod units;
pub mod zero;
