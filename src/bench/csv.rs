//! Samples as lines, for spreadsheets.

use std::fmt::Write as _;

use blockferry_control::bench::Run;

use super::report::{step_rate, steps};

/// The heads of the columns. `connection` is `all`, or the number of one of a tunnel's, from 1.
const HEADS: &str = "way,connections,lanes,round,connection,seconds,bytes,mib_per_second\n";

/// A line for each sample: what was carried since the one before. Those of `all` make the bytes of
/// the run; those of a connection have NBD's own bytes with them.
pub(super) fn text(runs: &[Run]) -> String {
    let mut text = HEADS.to_owned();
    for run in runs {
        for step in steps(run) {
            let of_each = step.connections.iter().enumerate();
            let of_each = of_each.map(|(index, bytes)| ((index + 1).to_string(), *bytes));
            for (connection, bytes) in [("all".to_owned(), step.bytes)].into_iter().chain(of_each) {
                // A string takes whatever is written to it.
                let _infallible = writeln!(
                    text,
                    "{},{},{},{},{connection},{:.6},{bytes},{:.3}",
                    run.way.word(),
                    run.connections,
                    run.lanes,
                    run.round,
                    step.at.as_secs_f64(),
                    step_rate(bytes, step.length),
                );
            }
        }
    }
    text
}
