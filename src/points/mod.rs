//! `blockferry points`.

mod options;
mod run;
mod telling;

pub(crate) use options::{EXAMPLES, PointsOptions};
pub(crate) use run::command;
