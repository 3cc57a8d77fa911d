//! `blockferry hub`.
//!
//! ```text
//!  options ──► serve   the hub and its API, until a signal
//!          └─► token   who may use it
//! ```

mod options;
mod serve;
mod token;

use crate::exit::Exit;
use options::HubCommand;
pub(crate) use options::{EXAMPLES, HubOptions};

/// `blockferry hub`.
///
/// # Errors
/// What kept it from being done, in one line.
pub(crate) fn command(options: &HubOptions) -> anyhow::Result<Exit> {
    match &options.command {
        HubCommand::Serve(options) => serve::command(options),
        HubCommand::Token(options) => token::command(options),
    }
}
