//! `blockferry node`.
//!
//! ```text
//!  options ──► enroll  makes this machine a node of a hub
//!          └─► serve   reads what the hub asks for, until a signal
//! ```

mod enroll;
mod options;
mod secret;
mod serve;

use crate::exit::Exit;
use crate::vcenter;
use options::NodeCommand;
pub(crate) use options::{EXAMPLES, NodeOptions};

/// `blockferry node`.
///
/// # Errors
/// What kept it from being done, in one line.
pub(crate) fn command(options: &NodeOptions) -> anyhow::Result<Exit> {
    match &options.command {
        NodeCommand::Enroll(options) => enroll::command(options),
        NodeCommand::Sweep(options) => vcenter::sweep(options),
        NodeCommand::Serve(options) => serve::command(options),
    }
}
