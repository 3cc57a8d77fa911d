//! A workload of backups, and the means to kill them.

pub(crate) mod processes;
pub(crate) mod run;
pub(crate) mod workload;
