//! Sessions with real servers, and with one of our own for what real ones do not do.
//!
//! ```text
//!  authority  CAs, certificates, folders of them      client  an NBD client on the near end
//!  peer       a bare TLS server in a thread
//! ```

mod authority;
mod client;
mod endings;
mod peer;
mod speed;
mod traffic;
mod trust;

use std::time::{Duration, Instant};

use super::Upgrade;

/// Whatever has not happened by then will not.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for the session's thread to end, and tells how long it took.
fn end_of(upgrade: &Upgrade) -> Duration {
    let start = Instant::now();
    while upgrade.runs() {
        assert!(start.elapsed() < PATIENCE, "the thread of the session does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}
