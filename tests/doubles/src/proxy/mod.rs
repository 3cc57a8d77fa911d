//! A line between client and server that can be slow, narrow, frozen or cut.
//!
//! Each connection has a thread for each direction. It reads what comes, notes when each chunk
//! is due at the other end, and writes it then: the delay is that of a long line, not a pause
//! between chunks, so many chunks are on their way at once.

mod flow;
mod line;

pub use line::{Line, Proxy};
