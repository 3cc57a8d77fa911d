//! `blockferry export`.

mod offering;
mod options;
mod run;
mod telling;

pub(crate) use options::{EXAMPLES, ExportOptions};
pub(crate) use run::command;
