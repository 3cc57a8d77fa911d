//! What a child writes to stderr: handed on line by line, the last lines kept.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::ChildStderr;
use std::sync::{Arc, Mutex};

use super::held;

/// Lines of stderr that are kept to explain an early end.
const KEPT_LINES: usize = 8;
/// Bytes of a line of stderr; a longer one is cut in pieces.
const MAX_LINE_BYTES: u64 = 4096;

/// The last lines of a child's stderr.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Said {
    /// Reads `stderr` to its end.
    pub(super) fn read(&self, stderr: ChildStderr, on_line: impl Fn(&str)) {
        let mut stderr = BufReader::with_capacity(1024, stderr);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut stderr).take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches(['\n', '\r']);
            {
                let mut kept = held(&self.lines);
                if kept.len() == KEPT_LINES {
                    kept.pop_front();
                }
                kept.push_back(text.to_owned());
            }
            on_line(text);
        }
    }

    /// The lines that are kept, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        held(&self.lines).iter().cloned().collect()
    }

    /// The last line that is not empty.
    pub(crate) fn last(&self) -> Option<String> {
        held(&self.lines).iter().rev().find(|line| !line.is_empty()).cloned()
    }
}
