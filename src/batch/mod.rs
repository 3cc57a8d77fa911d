//! `blockferry batch`: many VMs, each as `blockferry backup` would back it up.
//!
//! ```text
//!  options ──► file ──► run ──► turns ──► job: backup::Asked or AskedVm, for each VM ──► telling
//!              TOML     locks   whose it is                                              table, JSON
//!               └ vcenter: tables of servers, each of which VMs share a session of
//! ```

mod file;
mod job;
mod options;
mod run;
mod telling;
mod turns;
mod values;
mod vcenter;

pub(crate) use options::{BatchOptions, EXAMPLES};
pub(crate) use run::command;
