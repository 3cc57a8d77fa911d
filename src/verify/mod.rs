//! `blockferry verify`.

mod options;
mod run;
mod telling;

pub(crate) use options::{EXAMPLES, VerifyOptions};
pub(crate) use run::command;
