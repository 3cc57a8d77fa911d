//! `blockferry restore`.

mod options;
mod run;
mod telling;
mod vm;

pub(crate) use options::{EXAMPLES, RestoreOptions};
pub(crate) use run::command;
