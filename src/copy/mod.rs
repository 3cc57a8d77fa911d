//! `blockferry copy`.
//!
//! ```text
//!  words ──► options ──► request ──► endpoints, lanes file ──► run ──► output
//!  argv      clap        checked     opened, servers started   mover
//! ```
//!
//! All that can be refused is refused in `request`, before anything is opened or started.

mod apart;
mod beside;
mod descriptors;
mod endpoints;
mod lanes_file;
mod options;
mod request;
mod run;
mod settings;
mod words;

pub(crate) use beside::areas;
pub(crate) use descriptors::raise as raise_open_files;
pub(crate) use options::{CopyOptions, DigestChoice, EXAMPLES, ProgressChoice, digest};
pub(crate) use request::{LaneRequest, Place, named_place};
pub(crate) use run::command;
pub(crate) use settings::{TunnelWords, tunnel_settings};
pub(crate) use words::{OptionNames, Words};
