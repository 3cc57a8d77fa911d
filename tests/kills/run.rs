//! One run of `blockferry backup`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// A backup of the workload that takes longer is stuck.
const DEADLINE: Duration = Duration::from_secs(60);
/// What it says when it begins to copy.
pub(crate) const COPYING: &str = "is copying";
/// What it says when all is copied.
pub(crate) const PUBLISHING: &str = "is publishing";

/// A backup at work; it is killed with this value.
#[derive(Debug)]
pub(crate) struct Run {
    child: Child,
    started: Instant,
    lines: Receiver<(Instant, String)>,
    heard: Vec<(Instant, String)>,
}

/// How long it took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Took {
    pub(crate) all: Duration,
    /// From its beginning to copy until all is copied.
    pub(crate) copying: Duration,
    /// From the last block's being safe to the end.
    pub(crate) publishing: Duration,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn start(mut command: Command) -> Self {
        let started = Instant::now();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (said, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // Nobody listens to one that was killed.
                let _ = said.send((Instant::now(), line));
            }
        });
        Self { child, started, lines, heard: Vec::new() }
    }

    /// Waits until it is that old. It is the moment that counts, and nothing that could be seen.
    pub(crate) fn wait_until(&self, age: Duration) {
        thread::sleep(age.saturating_sub(self.started.elapsed()));
    }

    /// Waits until it has been in a phase that long, or has ended.
    pub(crate) fn wait_until_in(&mut self, phase: &str, age: Duration) {
        while let Ok((at, line)) = self.lines.recv_timeout(DEADLINE) {
            let begins = line.contains(phase);
            self.heard.push((at, line));
            if begins {
                thread::sleep(age.saturating_sub(at.elapsed()));
                return;
            }
        }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Kills it; says whether it was not over by itself.
    pub(crate) fn kill(mut self) -> bool {
        self.child.kill().unwrap();
        self.child.wait().unwrap().code().is_none()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        self.hear_all();
        let code = self.child.wait().unwrap().code().unwrap();
        Ended { code, stderr: self.text() }
    }

    /// Waits for its end, which has to be a point.
    pub(crate) fn finish(mut self) -> Took {
        self.hear_all();
        let all = self.started.elapsed();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.text());
        let begun = |phase| self.heard.iter().find(|(_, line)| line.contains(phase)).unwrap().0;
        let (copying, publishing) = (begun(COPYING), begun(PUBLISHING));
        Took { all, copying: publishing - copying, publishing: publishing.elapsed() }
    }

    fn hear_all(&mut self) {
        let end = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(said) => self.heard.push(said),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it is stuck: {}", self.text()),
            }
        }
    }

    fn text(&self) -> String {
        let lines: Vec<&str> = self.heard.iter().map(|(_, line)| line.as_str()).collect();
        lines.join("\n")
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
