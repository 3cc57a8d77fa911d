//! The command line of blockferry.

fn main() {}
