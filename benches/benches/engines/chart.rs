//! The results as a picture: for each scenario the rate on the left, the processor time on the
//! right, a bar for each contender.

use std::fmt::Write;

use crate::results::{Measured, Results, Scenario};

const ROW: usize = 20;
const TITLE: usize = 46;
const NAMES: usize = 150;
/// Width of the longest bar.
const BAR: usize = 300;
/// Room for the figure behind a bar.
const FIGURE: usize = 60;
const WIDTH: usize = NAMES + 2 * (BAR + FIGURE) + 20;

pub(crate) fn svg(results: &Results) -> String {
    let mut out = String::new();
    // Writing into a string cannot fail.
    let _ = write_all(results, &mut out);
    out
}

fn write_all(results: &Results, out: &mut String) -> std::fmt::Result {
    let rows: usize =
        results.scenarios.iter().map(|scenario| TITLE + scenario.contenders.len() * ROW).sum();
    let height = rows + 70;
    writeln!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12" fill="#222">"##
    )?;
    writeln!(out, r##"<rect width="{WIDTH}" height="{height}" fill="#fff"/>"##)?;
    text(out, 10, 22, "bold", "Moving NBD payload between two sockets on one machine")?;
    let machine = &results.machine;
    let below = format!(
        "{} cores of {}, Linux {}; medians of {} rounds of {} MiB; blue: blockferry",
        machine.cores,
        machine.cpu,
        machine.kernel,
        results.rounds,
        results.bytes >> 20
    );
    text(out, 10, 40, "normal", &below)?;
    let mut top = 50;
    for scenario in &results.scenarios {
        panel(out, scenario, top)?;
        top += TITLE + scenario.contenders.len() * ROW;
    }
    writeln!(out, "</svg>")
}

fn panel(out: &mut String, scenario: &Scenario, top: usize) -> std::fmt::Result {
    let medians: Vec<Measured> = scenario.contenders.iter().map(|c| c.median()).collect();
    let largest = |pick: fn(&Measured) -> f64| medians.iter().map(pick).fold(0.0, f64::max);
    let (rate, cpu) = (largest(|m| m.mib_s), largest(|m| m.cpu_s_gib));
    let right = NAMES + BAR + FIGURE;
    text(out, 10, top + 34, "bold", &scenario.title())?;
    text(out, NAMES + 60, top + 34, "normal", "MiB/s (longer is better)")?;
    text(out, right, top + 34, "normal", "CPU seconds of the mover a GiB (shorter is better)")?;
    for (row, (contender, median)) in scenario.contenders.iter().zip(&medians).enumerate() {
        let y = top + TITLE + row * ROW;
        text(out, 10, y + 12, "normal", &contender.name)?;
        let color = match (contender.name.starts_with("ours"), contender.name.contains("splice")) {
            (true, true) => "#1f5fbf",
            (true, false) => "#7fa8e0",
            (false, true) => "#8a8a8a",
            (false, false) => "#c4c4c4",
        };
        bar(out, NAMES, y, median.mib_s / rate, color, &format!("{:.0}", median.mib_s))?;
        let figure = format!("{:.3}", median.cpu_s_gib);
        bar(out, right, y, median.cpu_s_gib / cpu, color, &figure)?;
    }
    Ok(())
}

fn bar(
    out: &mut String,
    x: usize,
    y: usize,
    share: f64,
    color: &str,
    figure: &str,
) -> std::fmt::Result {
    let width = share * BAR as f64;
    writeln!(out, r#"<rect x="{x}" y="{y}" width="{width:.1}" height="15" fill="{color}"/>"#)?;
    writeln!(out, r#"<text x="{:.1}" y="{}">{figure}</text>"#, x as f64 + width + 5.0, y + 12)
}

fn text(out: &mut String, x: usize, y: usize, weight: &str, words: &str) -> std::fmt::Result {
    writeln!(out, r#"<text x="{x}" y="{y}" font-weight="{weight}">{words}</text>"#)
}
