//! The arguments, of the bench and of the processes that it starts.

use std::io;
use std::path::PathBuf;

use crate::lane::Job;

pub(crate) struct Arguments {
    pub(crate) mode: Mode,
    pub(crate) rounds: usize,
    /// Bytes of each run.
    pub(crate) bytes: u64,
    /// Only the contender of this name, or those whose name holds this.
    pub(crate) only: String,
    /// Only scenarios with this many lanes.
    pub(crate) lanes: Option<usize>,
    /// Only scenarios with requests of this many bytes.
    pub(crate) request: Option<usize>,
    /// Where the results go: this path with `.txt`, `.json` and `.svg`.
    pub(crate) out: Option<PathBuf>,
}

pub(crate) enum Mode {
    Measure,
    /// Write table and chart anew from a JSON of before.
    Redraw(PathBuf),
    /// Be a contender.
    Child(String, Job),
}

impl Arguments {
    pub(crate) fn of_process() -> io::Result<Self> {
        let mut given = std::env::args().skip(1);
        // What cargo test starts is a trial whether everything works.
        let mut parsed = Self {
            mode: Mode::Measure,
            rounds: 1,
            bytes: 64 << 20,
            only: String::new(),
            lanes: None,
            request: None,
            out: None,
        };
        while let Some(name) = given.next() {
            if name == "--bench" {
                (parsed.rounds, parsed.bytes) = (5, 2 << 30);
                continue;
            }
            let value = given.next().ok_or_else(|| usage(&name))?;
            match name.as_str() {
                "--rounds" => parsed.rounds = number(&value)?,
                "--mib" => parsed.bytes = number::<u64>(&value)? << 20,
                "--only" => parsed.only = value,
                "--lanes" => parsed.lanes = Some(number(&value)?),
                "--request-kib" => parsed.request = Some(number::<usize>(&value)? << 10),
                "--out" => parsed.out = Some(value.into()),
                "--redraw" => parsed.mode = Mode::Redraw(value.into()),
                "--contender" => {
                    let mut job = || given.next().ok_or_else(|| usage(&name));
                    let job = Job {
                        source: number(&job()?)?,
                        target: number(&job()?)?,
                        lanes: number(&job()?)?,
                        request: number(&job()?)?,
                        requests: number(&job()?)?,
                    };
                    parsed.mode = Mode::Child(value, job);
                }
                _ => return Err(usage(&name)),
            }
        }
        // cargo puts its own --bench last: what was asked for counts.
        let asked: Vec<String> = std::env::args().collect();
        for pair in asked.windows(2) {
            match pair[0].as_str() {
                "--rounds" => parsed.rounds = number(&pair[1])?,
                "--mib" => parsed.bytes = number::<u64>(&pair[1])? << 20,
                _ => {}
            }
        }
        Ok(parsed)
    }
}

fn number<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| usage(text))
}

fn usage(near: &str) -> io::Error {
    let what = format!(
        "cannot make sense of {near}; the options are --rounds N, --mib N, --only NAME, --lanes N, --request-kib N, --out PREFIX, --redraw PREFIX"
    );
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
