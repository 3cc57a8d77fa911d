//! The data plane of blockferry.

mod engine;
pub mod nbd;
mod pool;
