//! `blockferry backup`.

mod options;
mod request;
mod run;
mod telling;

pub(crate) use options::{BackupOptions, EXAMPLES};
pub(crate) use run::command;
