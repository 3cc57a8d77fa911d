//! The file of `--lanes`: a JSON object a line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::exit::Refusal;
use crate::inherited::{Stream, is_closed};

/// Bytes of a line at most: two NBD URIs and a path, of 4 KiB each at most, with every byte
/// escaped, fit five times over.
const MAX_LINE_BYTES: u64 = 256 << 10;
/// Lanes at most: the fleet that this is built for, a hundred times over.
const MAX_LANES: usize = 10_000;

/// A line.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct LaneLine {
    pub(crate) source: String,
    pub(crate) target: String,
    #[serde(default)]
    pub(crate) changed: Option<PathBuf>,
    /// Number of the line in the file, from 1.
    #[serde(skip)]
    pub(crate) number: usize,
}

/// Reads the file at `path`, or standard input for `-`.
///
/// # Errors
/// With the file and the line: what is no JSON object of the right fields; no lanes at all.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<LaneLine>> {
    if path == Path::new("-") {
        if is_closed(Stream::Input) {
            return Err(Refusal::usage("--lanes - reads standard input, which is closed"));
        }
        return parse(io::stdin().lock(), "standard input");
    }
    let shown = path.display().to_string();
    match File::open(path) {
        Ok(file) => parse(BufReader::new(file), &shown),
        Err(error) => Err(Refusal::usage(format!("cannot read the lanes file {shown}: {error}"))),
    }
}

fn parse(mut text: impl BufRead, shown: &str) -> anyhow::Result<Vec<LaneLine>> {
    let mut lanes = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        let wrong = |what: String| Refusal::usage(format!("{shown}, line {number}: {what}"));
        line.clear();
        let read = (&mut text).take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
        match read {
            Ok(0) => break,
            Ok(_) if line.ends_with(b"\n") || (line.len() as u64) < MAX_LINE_BYTES => {}
            Ok(_) => return Err(wrong(format!("longer than {MAX_LINE_BYTES} bytes"))),
            Err(error) => return Err(wrong(format!("cannot be read: {error}"))),
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        // serde would take an array for the fields in their order.
        if line.trim_ascii_start().starts_with(b"[") {
            let expected = "expected {\"source\": ..., \"target\": ...}";
            return Err(wrong(format!("invalid type: an array; {expected}")));
        }
        let lane: LaneLine = serde_json::from_slice(&line).map_err(|error| wrong(plain(&error)))?;
        if lanes.len() == MAX_LANES {
            return Err(wrong(format!("more than {MAX_LANES} lanes")));
        }
        lanes.push(LaneLine { number, ..lane });
    }
    if lanes.is_empty() {
        return Err(Refusal::usage(format!("{shown}: there is no lane in it")));
    }
    Ok(lanes)
}

/// The error with the column alone: the line is counted in the file, not in the object.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(problem) => format!(
            "{problem} at column {}; expected {{\"source\": ..., \"target\": ...}}",
            error.column()
        ),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        parse(text.as_bytes(), "lanes").unwrap_err().to_string()
    }

    #[test]
    fn lines_are_lanes_and_blank_lines_nothing() {
        let text = "\n{\"source\":\"nbd://a\",\"target\":\"b\"}\n  \n\
                    {\"source\":\"c\",\"target\":\"null:\",\"changed\":\"d.json\"}";
        let lanes = parse(text.as_bytes(), "lanes").unwrap();
        assert_eq!(lanes.len(), 2);
        assert_eq!((lanes[0].source.as_str(), lanes[0].number), ("nbd://a", 2));
        assert_eq!(lanes[1].changed.as_deref(), Some(Path::new("d.json")));
        assert_eq!(lanes[1].number, 4);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let good = "{\"source\":\"a\",\"target\":\"b\"}\n";
        for (bad, what) in [
            ("{\"source\":\"a\"}", "missing field `target`"),
            ("{\"source\":\"a\",\"target\":\"b\",\"speed\":1}", "unknown field `speed`"),
            ("{\"source\":\"a\",\"target\":1}", "invalid type"),
            ("[]", "invalid"),
            (" [\"a\",\"b\"]", "an array"),
            ("{\"source\":\"a\",\"source\":\"a\",\"target\":\"b\"}", "duplicate field"),
            ("nbd://a nbd://b", "expected"),
            ("{\"source\":\"a\",\"target\":\"b\"} x", "trailing"),
        ] {
            let error = refusal(&format!("{good}{bad}\n"));
            assert!(error.starts_with("lanes, line 2: "), "{error}");
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_file_without_lanes_is_refused() {
        assert!(refusal("").contains("no lane"));
        assert!(refusal("\n\n").contains("no lane"));
    }

    #[test]
    fn a_line_without_end_is_refused_before_memory_runs_out() {
        assert!(refusal(&" ".repeat(300 << 10)).contains("longer than"));
    }
}
