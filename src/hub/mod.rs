//! `blockferry hub`.
//!
//! ```text
//!  options ──► serve   the hub and its API, until a signal
//!          ├─► enroll  which nodes may dial it
//!          └─► token   who may use its API
//! ```

mod enroll;
mod options;
mod serve;
mod token;

use crate::exit::Exit;
use options::HubCommand;
pub(crate) use options::{EXAMPLES, HubOptions, NamedFolder, PortRange};

/// `blockferry hub`.
///
/// # Errors
/// What kept it from being done, in one line.
pub(crate) fn command(options: &HubOptions) -> anyhow::Result<Exit> {
    match &options.command {
        HubCommand::Serve(options) => serve::command(options),
        HubCommand::Enroll(options) => enroll::command(options),
        HubCommand::Token(options) => token::command(options),
    }
}
