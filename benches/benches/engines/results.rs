//! What was measured, and where.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::{chart, movers, table};

#[derive(Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) rounds: usize,
    /// Bytes of each run.
    pub(crate) bytes: u64,
    pub(crate) load_before: String,
    pub(crate) load_after: String,
    pub(crate) scenarios: Vec<Scenario>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) rustc: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Scenario {
    pub(crate) lanes: usize,
    /// Bytes of a request.
    pub(crate) request: usize,
    pub(crate) contenders: Vec<Measurements>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Measurements {
    pub(crate) name: String,
    pub(crate) rounds: Vec<Measured>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) mib_s: f64,
    /// Of the mover alone, with its kernel threads.
    pub(crate) cpu_s_gib: f64,
    /// Of source and sink together.
    pub(crate) servers_cpu_s_gib: f64,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let cpu = cpuinfo
            .lines()
            .find(|line| line.starts_with("model name"))
            .and_then(|line| line.split_once(": "))
            .map_or("unknown", |(_, name)| name);
        let rustc = Command::new("rustc").arg("--version").output();
        Self {
            cpu: cpu.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            rustc: rustc.map_or_else(
                |_| "unknown".into(),
                |out| String::from_utf8_lossy(&out.stdout).trim().to_owned(),
            ),
        }
    }
}

/// The load averages of one, five and fifteen minutes.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let averages: Vec<&str> = text.split_whitespace().take(3).collect();
    averages.join(" ")
}

impl Scenario {
    pub(crate) fn new(lanes: usize, request: usize, only: &str) -> Self {
        let contenders = movers::ALL.iter().map(|contender| contender.name);
        let one = contenders.clone().any(|name| name == only);
        Self {
            lanes,
            request,
            contenders: contenders
                .filter(|name| if one { *name == only } else { name.contains(only) })
                .map(|name| Measurements { name: name.to_owned(), rounds: Vec::new() })
                .collect(),
        }
    }

    pub(crate) fn title(&self) -> String {
        let lanes =
            if self.lanes == 1 { "1 lane".to_owned() } else { format!("{} lanes", self.lanes) };
        format!("{lanes}, requests of {} KiB", self.request / 1024)
    }
}

impl Measurements {
    /// The median of each figure by itself.
    pub(crate) fn median(&self) -> Measured {
        let of = |pick: fn(&Measured) -> f64| median(self.rounds.iter().map(pick).collect());
        Measured {
            mib_s: of(|m| m.mib_s),
            cpu_s_gib: of(|m| m.cpu_s_gib),
            servers_cpu_s_gib: of(|m| m.servers_cpu_s_gib),
        }
    }

    /// The slowest and the fastest round, in MiB/s.
    pub(crate) fn range(&self) -> (f64, f64) {
        let rates = self.rounds.iter().map(|m| m.mib_s);
        (rates.clone().fold(f64::INFINITY, f64::min), rates.fold(0.0, f64::max))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

impl Results {
    /// Writes the table, the raw figures, and the chart.
    pub(crate) fn write(&self, prefix: &Path) -> io::Result<()> {
        let json = serde_json::to_string_pretty(self)? + "\n";
        fs::write(with_ending(prefix, "json"), json)?;
        fs::write(with_ending(prefix, "txt"), table::text(self))?;
        fs::write(with_ending(prefix, "svg"), chart::svg(self))
    }
}

/// Reads what [`Results::write`] wrote.
pub(crate) fn read(prefix: &Path) -> io::Result<Results> {
    let text = fs::read_to_string(with_ending(prefix, "json"))?;
    Ok(serde_json::from_str(&text)?)
}

fn with_ending(prefix: &Path, ending: &str) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(".");
    path.push(ending);
    path.into()
}
