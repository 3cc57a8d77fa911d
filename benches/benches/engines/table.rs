//! The results as text.

use std::fmt::Write;

use crate::movers;
use crate::results::Results;

pub(crate) fn text(results: &Results) -> String {
    let mut out = String::new();
    // Writing into a string cannot fail.
    let _ = write_all(results, &mut out);
    out
}

fn write_all(results: &Results, out: &mut String) -> std::fmt::Result {
    let machine = &results.machine;
    writeln!(out, "The engines against each other.\n")?;
    writeln!(
        out,
        "command   cargo bench -p blockferry-benches --bench engines -- --rounds {} --mib {}",
        results.rounds,
        results.bytes >> 20
    )?;
    writeln!(out, "machine   {} cores of {}", machine.cores, machine.cpu)?;
    writeln!(out, "kernel    Linux {}", machine.kernel)?;
    writeln!(out, "compiler  {}", machine.rustc)?;
    writeln!(
        out,
        "load      {} before, {} after (1, 5, 15 minutes; the bench itself keeps the cores busy)",
        results.load_before, results.load_after
    )?;
    writeln!(
        out,
        "\nOver TCP on loopback, 16 requests of a lane in flight, source and sink in another process."
    )?;
    writeln!(
        out,
        "Medians of {} rounds in which the contenders took turns. CPU of the mover with its kernel",
        results.rounds
    )?;
    writeln!(out, "threads; that of the servers shows what a mover saves or costs them.\n")?;
    for contender in movers::ALL {
        writeln!(out, "{:<18} {}", contender.name, contender.what)?;
    }
    for scenario in &results.scenarios {
        writeln!(out, "\n{}", scenario.title())?;
        writeln!(
            out,
            "{:<18} {:>7} {:>15} {:>15} {:>17}",
            "", "MiB/s", "from..to", "mover CPU s/GiB", "servers CPU s/GiB"
        )?;
        for contender in &scenario.contenders {
            let (median, (slowest, fastest)) = (contender.median(), contender.range());
            writeln!(
                out,
                "{:<18} {:>7.0} {:>15} {:>15.3} {:>17.3}",
                contender.name,
                median.mib_s,
                format!("{slowest:.0}..{fastest:.0}"),
                median.cpu_s_gib,
                median.servers_cpu_s_gib
            )?;
        }
    }
    writeln!(out, "\nEvery round: MiB/s / mover CPU s/GiB / servers CPU s/GiB")?;
    for scenario in &results.scenarios {
        writeln!(out, "\n{}", scenario.title())?;
        for contender in &scenario.contenders {
            write!(out, "{:<18}", contender.name)?;
            for round in &contender.rounds {
                write!(
                    out,
                    "  {:.0}/{:.3}/{:.3}",
                    round.mib_s, round.cpu_s_gib, round.servers_cpu_s_gib
                )?;
            }
            writeln!(out)?;
        }
    }
    Ok(())
}
