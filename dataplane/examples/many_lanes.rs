//! Runs many lanes at once with a progress display of one's own: `many_lanes < PAIRS`, where each
//! line of standard input is `SOURCE-URI TARGET-URI`. The display is one line that is written
//! again and again.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use blockferry_dataplane::nbd::NbdUri;
use blockferry_dataplane::{Endpoint, Event, Lane, LaneSettings, Mover, MoverSettings};

/// How often the display is written.
const REFRESH: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("many_lanes: {failed} lanes failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("many_lanes: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<usize, Box<dyn std::error::Error>> {
    let mut lanes = Vec::new();
    for line in io::stdin().lock().lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let (source, target) =
            line.trim().split_once(' ').ok_or("a line is SOURCE-URI TARGET-URI")?;
        let endpoint = |text: &str| text.trim().parse::<NbdUri>().map(Endpoint::nbd);
        // An embedder sets what its users would: here, to notice a dead server sooner.
        let settings =
            LaneSettings { deadline: Duration::from_secs(10), ..LaneSettings::default() };
        lanes.push(Lane::new(endpoint(source)?, endpoint(target)?).with_settings(settings));
    }
    let count = lanes.len();

    // Events come on the mover's threads; a channel brings them here.
    let (sender, events) = mpsc::channel();
    let mover = Mover::new(MoverSettings::default()).on_event(move |event| {
        if let Event::Finished { lane, fault, counts } = event {
            let outcome = fault.map(ToString::to_string);
            // The display may have ended already; the report at the end tells the same.
            let _display_is_gone = sender.send((*lane, outcome, *counts));
        }
    });
    let running = mover.start(lanes)?;
    let mut over = 0;
    while !running.wait_for(REFRESH) {
        for (lane, outcome, counts) in events.try_iter() {
            over += 1;
            let outcome = outcome.unwrap_or_else(|| format!("{} bytes", counts.acknowledged));
            println!("\rlane {lane}: {outcome}");
        }
        let so_far = running.progress();
        let percent = so_far.finished() * 100 / so_far.planned.max(1);
        print!("\r{over} of {count} lanes, {percent} %");
        io::stdout().flush()?;
    }
    let report = running.wait();
    let totals = report.totals();
    println!(
        "\r{count} lanes: {} bytes read, {} zero, {} sent",
        totals.read, totals.zero, totals.sent
    );
    Ok(report.lanes.iter().filter(|lane| lane.outcome.is_err()).count())
}
