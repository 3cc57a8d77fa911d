//! Prints criterion's medians as a table: `medians TARGET-FOLDER/criterion`.

#![forbid(unsafe_code)]

use std::io;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: medians TARGET-FOLDER/criterion");
        return ExitCode::from(2);
    };
    let mut lines = Vec::new();
    if let Err(e) = collect(Path::new(&folder), &mut lines) {
        eprintln!("medians: {}: {e}", folder.display());
        return ExitCode::FAILURE;
    }
    lines.sort();
    println!("{:<58} {:>12} {:>12} {:>16}", "", "median", "+-", "rate");
    for line in lines {
        println!("{}", line.1);
    }
    ExitCode::SUCCESS
}

/// Looks for `new/estimates.json` in all folders below.
fn collect(folder: &Path, lines: &mut Vec<(String, String)>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        if path.ends_with("new") {
            lines.push(line(&path)?);
        } else {
            collect(&path, lines)?;
        }
    }
    Ok(())
}

fn line(folder: &Path) -> io::Result<(String, String)> {
    let read = |name: &str| -> io::Result<Value> {
        let text = std::fs::read_to_string(folder.join(name))?;
        Ok(serde_json::from_str(&text)?)
    };
    let (about, estimates) = (read("benchmark.json")?, read("estimates.json")?);
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "a field is missing");
    let name = about["full_id"].as_str().ok_or_else(missing)?;
    let median = &estimates["median"];
    let nanoseconds = median["point_estimate"].as_f64().ok_or_else(missing)?;
    let bound = |which| median["confidence_interval"][which].as_f64().ok_or_else(missing);
    let spread = (bound("upper_bound")? - bound("lower_bound")?) / 2.0;
    let line = format!(
        "{name:<58} {:>12} {:>12} {:>16}",
        time(nanoseconds),
        time(spread),
        rate(&about["throughput"], nanoseconds)
    );
    Ok((name.to_owned(), line))
}

fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        ns if ns < 1e3 => format!("{ns:.2} ns"),
        ns if ns < 1e6 => format!("{:.2} us", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}

fn rate(throughput: &Value, nanoseconds: f64) -> String {
    if let Some(bytes) = throughput["Bytes"].as_f64() {
        return format!("{:.1} GiB/s", bytes / f64::from(1 << 30) / (nanoseconds / 1e9));
    }
    match throughput["Elements"].as_f64() {
        Some(elements) if elements > 1.0 => format!("{:.1} M/s", elements / nanoseconds * 1e3),
        _ => String::new(),
    }
}
