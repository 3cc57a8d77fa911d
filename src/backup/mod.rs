//! `blockferry backup`, and what `blockferry batch` does to each VM.
//!
//! ```text
//!  options ──► request ──► asked ──► control::backup ──► telling
//!  clap        checked     one VM                        console, bar, JSON
//! ```

mod asked;
mod options;
mod request;
mod run;
mod telling;
mod vm;

pub(crate) use asked::{Asked, AskedChanges, AskedDisk, source_from};
pub(crate) use options::{BackupOptions, EXAMPLES, Named, named};
pub(crate) use request::{source, source_for_hub};
pub(crate) use run::command;
pub(crate) use telling::{Display, Json, SoFar, Telling, counts, totals};
pub(crate) use vm::AskedVm;
