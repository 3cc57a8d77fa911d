//! `blockferry bench`.
//!
//! ```text
//!  options ──► lane, fleet, tunnel ──► measuring ──► report (JSON), csv, plot (SVG), table
//!              what is asked for        runs it, told of signals
//! ```

mod csv;
mod fleet;
mod lane;
mod measuring;
mod options;
mod plot;
mod report;
mod tunnel;

use crate::exit::Exit;
use options::Bench;
pub(crate) use options::{BenchOptions, EXAMPLES};

/// `blockferry bench`.
///
/// # Errors
/// What kept it from being measured, in one line.
pub(crate) fn command(options: &BenchOptions) -> anyhow::Result<Exit> {
    match &options.what {
        Bench::Lane(options) => lane::command(options),
        Bench::Fleet(options) => fleet::command(options),
        Bench::Tunnel(options) => tunnel::command(options),
    }
}
