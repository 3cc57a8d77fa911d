//! Copies one disk: `copy_one SOURCE-URI TARGET-URI`.

use std::process::ExitCode;

use blockferry_dataplane::nbd::NbdUri;
use blockferry_dataplane::{Endpoint, Lane, Mover, MoverSettings};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, target] = arguments.as_slice() else {
        eprintln!("usage: copy_one SOURCE-URI TARGET-URI");
        return ExitCode::from(2);
    };
    match copy(source, target) {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("copy_one: {error}");
            ExitCode::FAILURE
        }
    }
}

fn copy(source: &str, target: &str) -> Result<String, Box<dyn std::error::Error>> {
    let endpoint = |text: &str| text.parse::<NbdUri>().map(Endpoint::nbd);
    let lane = Lane::new(endpoint(source)?, endpoint(target)?);
    let report = Mover::new(MoverSettings::default()).start(vec![lane])?.wait();
    let totals = report.totals();
    for lane in report.lanes {
        lane.outcome?;
    }
    Ok(format!(
        "{} bytes read, {} zero, {} sent, in {:.2} s by the {} engine",
        totals.read,
        totals.zero,
        totals.sent,
        report.elapsed.as_secs_f64(),
        report.engine
    ))
}
