//! What people and programs get to see. Data goes to standard output, all else to standard error.
//!
//! ```text
//!  console   lines on standard error, around the bar     telling   events and outcomes in words
//!  outlet    their way out, which keeps nobody waiting   patient   the same for what else is written
//!  progress  bar, plain lines, N/100 on a descriptor     json      the report for programs
//!  table     rows under heads                            ending    the report on standard output
//!  estimate  how far all lanes are                       hint      what may help
//!  time      RFC 3339                                    escaped  names that others gave
//! ```

mod console;
mod ending;
mod escaped;
mod estimate;
mod hint;
pub(crate) mod json;
mod listing;
mod outlet;
mod patient;
mod progress;
mod table;
mod telling;
mod time;

pub(crate) use console::{Console, line, plain};
pub(crate) use ending::tell;
pub(crate) use escaped::escaped;
pub(crate) use estimate::Estimate;
pub(crate) use hint::{hint, hint_of_error};
pub(crate) use json::cpu_seconds;
pub(crate) use json::print as print_json;
pub(crate) use listing::print;
pub(crate) use outlet::finish;
pub(crate) use progress::Progress;
pub(crate) use table::table;
pub(crate) use telling::{Outcome, Telling};
pub(crate) use time::rfc3339;
