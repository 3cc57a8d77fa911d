//! `blockferry batch`: many VMs, each as `blockferry backup` would back it up.
//!
//! ```text
//!  options ──► file ──► run ──► turns ──► backup::Asked, for each VM ──► telling
//!              TOML     locks   whose it is                              table, JSON
//! ```

mod file;
mod options;
mod run;
mod telling;
mod turns;

pub(crate) use options::{BatchOptions, EXAMPLES};
pub(crate) use run::command;
