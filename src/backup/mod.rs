//! `blockferry backup`.

mod options;
mod request;
mod run;
mod telling;

pub(crate) use options::{BackupOptions, EXAMPLES, Named, named};
pub(crate) use request::source;
pub(crate) use run::command;
pub(crate) use telling::Telling;
