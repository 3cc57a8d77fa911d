//! A program that runs to its end, within a deadline.

use std::io::Read;
use std::process::ExitStatus;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::launch::{Launch, LaunchError, Streams};

/// Most bytes that are taken of what a program writes to standard output.
const MAX_OUTPUT_BYTES: u64 = 16 << 20;
/// Time from SIGTERM to SIGKILL for a program that took too long.
const END_DEADLINE: Duration = Duration::from_secs(2);

/// What came of it.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How it exited.
    pub(crate) status: ExitStatus,
    /// Its standard output.
    pub(crate) output: Vec<u8>,
    /// The last lines of its stderr.
    pub(crate) said: Vec<String>,
}

/// Why it came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// It did not start.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// It did not end in time, and was ended.
    #[error("it did not end in time")]
    TimedOut {
        /// The last lines of its stderr.
        said: Vec<String>,
    },
}

/// Runs a program, and ends it when `deadline` has passed.
///
/// # Errors
/// When it cannot be started, or takes too long. Its exit status is the caller's to judge.
pub(crate) fn run(launch: Launch, deadline: Duration) -> Result<Finished, RunError> {
    let end = Instant::now() + deadline;
    let (child, output) = launch.start(Streams::Output, |_| {})?;
    let (sender, read) = mpsc::channel();
    if let Some(output) = output {
        let reader = thread::Builder::new().name("child-output".into()).spawn(move || {
            let mut bytes = Vec::new();
            // What came before an error is shorter than what the program wrote, and its reader
            // says so.
            let _ = output.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes);
            let _ = sender.send(bytes);
        });
        if let Err(error) = reader {
            let program = child.program().to_owned();
            let what = "starting a thread for its output";
            return Err(LaunchError::System { program, what, error }.into());
        }
    }
    let Some(status) = child.wait(end.saturating_duration_since(Instant::now())) else {
        child.end(END_DEADLINE);
        child.hear_out();
        return Err(RunError::TimedOut { said: child.said().lines() });
    };
    child.hear_out();
    let left = end.saturating_duration_since(Instant::now()).max(END_DEADLINE);
    let output = read.recv_timeout(left).unwrap_or_default();
    Ok(Finished { status, output, said: child.said().lines() })
}
