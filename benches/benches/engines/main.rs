//! The engines against each other: one lane, or sixteen on one thread, from a source that always
//! has its data ready into a sink that forgets, moved in every way that is worth a thought.
//!
//! Each contender runs in a process of its own, so that its processor time is known with all that
//! the kernel does in its name, io_uring's worker threads among it. Contenders take turns within a
//! round, so that a noisy minute hits all of them.
//!
//! ```text
//! cargo bench -p blockferry-benches --bench engines -- [--rounds N] [--mib N] [--only NAME]
//!     [--lanes N] [--request-kib N] [--out PREFIX]
//! cargo bench -p blockferry-benches --bench engines -- --redraw PREFIX
//! ```

mod arguments;
mod chart;
mod child;
mod lane;
mod movers;
mod results;
mod servers;
mod table;

use std::io;
use std::process::ExitCode;

use arguments::{Arguments, Mode};
use lane::Job;
use results::{Machine, Measured, Results, Scenario};
use servers::Servers;

fn main() -> ExitCode {
    match Arguments::of_process().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("engines: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> io::Result<()> {
    match &arguments.mode {
        Mode::Child(name, job) => child::run(name, job),
        Mode::Redraw(prefix) => results::read(prefix)?.write(prefix),
        Mode::Measure => {
            let results = measure(&arguments)?;
            print!("{}", table::text(&results));
            match &arguments.out {
                Some(prefix) => results.write(prefix),
                None => Ok(()),
            }
        }
    }
}

fn measure(arguments: &Arguments) -> io::Result<Results> {
    let servers = Servers::start()?;
    let load_before = results::load();
    let mut scenarios: Vec<Scenario> = Vec::new();
    for lanes in [1, 16] {
        for request in [1 << 20, 256 << 10] {
            let wanted = arguments.lanes.is_none_or(|n| n == lanes)
                && arguments.request.is_none_or(|n| n == request);
            if wanted {
                scenarios.push(Scenario::new(lanes, request, &arguments.only));
            }
        }
    }
    for round in 0..arguments.rounds {
        for scenario in &mut scenarios {
            let per_lane = arguments.bytes / scenario.lanes as u64 / scenario.request as u64;
            let job = Job {
                source: servers.source,
                target: servers.target,
                lanes: scenario.lanes,
                request: scenario.request,
                requests: per_lane.max(1),
            };
            eprintln!("round {} of {}: {}", round + 1, arguments.rounds, scenario.title());
            for contender in &mut scenario.contenders {
                contender.rounds.push(once(&servers, &contender.name, &job)?);
            }
        }
    }
    Ok(Results {
        machine: Machine::here(),
        rounds: arguments.rounds,
        bytes: arguments.bytes,
        load_before,
        load_after: results::load(),
        scenarios,
    })
}

/// One run of one contender; what it moved must have arrived.
fn once(servers: &Servers, name: &str, job: &Job) -> io::Result<Measured> {
    servers.prepare(job.disk());
    let before = child::cpu_seconds();
    let mover = child::start(name, job)?;
    let servers_cpu_s = child::cpu_seconds() - before;
    let expected = job.disk() * job.lanes as u64;
    if servers.written() != expected {
        let written = servers.written();
        let what = format!("{name}: {written} bytes arrived, and {expected} were to be moved");
        return Err(io::Error::other(what));
    }
    let gib = expected as f64 / f64::from(1 << 30);
    Ok(Measured {
        mib_s: gib * 1024.0 / mover.seconds,
        cpu_s_gib: mover.cpu_s / gib,
        servers_cpu_s_gib: servers_cpu_s / gib,
    })
}
