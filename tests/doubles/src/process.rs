//! Child processes that cannot outlive the test that started them.
//!
//! A [`Child`] leads a process group of its own, is killed by the kernel when the test process
//! dies, and is killed and waited for when it is dropped. When the leader ends, what is left of
//! its group is killed. What it prints is kept.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, kill_process_group, pidfd_open,
    set_parent_process_death_signal,
};

/// What is kept of a child's stderr: the newest bytes.
const STDERR_BYTES: usize = 256 << 10;
/// What is kept of a child's stdout; maps of large disks are long.
const STDOUT_BYTES: usize = 64 << 20;
/// How long the last output may take to arrive after a child's end; longer only when a
/// grandchild holds the pipe.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

/// A running program; see the module for what it promises.
#[derive(Debug)]
pub struct Child {
    name: String,
    pid: Pid,
    inner: std::process::Child,
    status: Option<ExitStatus>,
    stdout: Arc<Kept>,
    stderr: Arc<Kept>,
}

/// What a finished program left behind.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its stdout, at most 64 MiB of it.
    pub stdout: Vec<u8>,
    /// The end of its stderr.
    pub stderr: String,
}

impl Child {
    /// Starts `command`; its stdin is as the caller set it, stdout and stderr are kept.
    pub fn spawn(mut command: Command) -> io::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let parent = getpid();
        // SAFETY: between fork and exec only prctl and getppid are called, which are
        // async-signal-safe; nothing is allocated or locked.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                // The test may have died before the line above.
                match getppid() {
                    Some(pid) if pid == parent => Ok(()),
                    _ => Err(io::ErrorKind::NotConnected.into()),
                }
            });
        }
        let mut inner = spawn_from_lasting_thread(command)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot start {name}: {e}")))?;
        let stdout = Kept::drain(inner.stdout.take().expect("stdout is piped"), STDOUT_BYTES);
        let stderr = Kept::drain(inner.stderr.take().expect("stderr is piped"), STDERR_BYTES);
        let pid = Pid::from_child(&inner);
        Ok(Self { name, pid, inner, status: None, stdout, stderr })
    }

    /// The process id, which is that of its process group too.
    pub fn pid(&self) -> u32 {
        self.inner.id()
    }

    /// The newest part of what it has written to stderr so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.bytes()).into_owned()
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.bytes()).into_owned()
    }

    /// Waits at most `deadline` for the first line that it writes to stdout.
    pub fn first_line(&self, deadline: Duration) -> io::Result<String> {
        self.stdout.wait_for_line(deadline).ok_or_else(|| {
            let (name, stderr) = (&self.name, self.stderr());
            io::Error::new(io::ErrorKind::TimedOut, format!("{name} printed no line: {stderr}"))
        })
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.wait(Duration::ZERO), Err(e) if e.kind() == io::ErrorKind::TimedOut)
    }

    /// Stops the whole group (SIGSTOP): sockets stay open, nobody answers.
    pub fn stop(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a stopped group go on.
    pub fn cont(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends `signal` to the whole group.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process_group(self.pid, signal)?)
    }

    /// Asks it to end (SIGTERM) and waits at most `deadline`.
    pub fn term_and_wait(&mut self, deadline: Duration) -> io::Result<ExitStatus> {
        if self.status.is_none() {
            self.signal(Signal::TERM)?;
        }
        self.wait(deadline)
    }

    /// Kills the group (SIGKILL) and waits for the process.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        self.reap()
    }

    /// Waits at most `deadline` for it to end; `TimedOut` after that, and it runs on.
    pub fn wait(&mut self, deadline: Duration) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let end = Instant::now() + deadline;
        let pidfd = pidfd_open(self.pid, PidfdFlags::empty())?;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(&timespec(left))) {
                Ok(0) if left.is_zero() => {
                    let stderr = self.stderr();
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("{} still runs after {deadline:?}: {stderr}", self.name),
                    ));
                }
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return self.reap(),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits for the end and takes what it has printed.
    pub fn output(mut self, deadline: Duration) -> io::Result<Output> {
        let status = self.wait(deadline)?;
        self.stdout.wait_for_end();
        self.stderr.wait_for_end();
        Ok(Output { status, stdout: self.stdout.bytes(), stderr: self.stderr() })
    }

    /// Kills what is left of the group and waits for its leader. The leader's number is taken
    /// until that wait, so the signal cannot reach someone else.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        let status = self.inner.wait()?;
        self.status = Some(status);
        self.stderr.wait_for_end();
        Ok(status)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.kill();
    }
}

/// Runs `command` to its end, whatever its exit status, but no longer than `deadline`.
pub fn run(command: Command, deadline: Duration) -> io::Result<Output> {
    Child::spawn(command)?.output(deadline)
}

/// As [`run`], and an exit status other than 0 is an error that shows stderr.
pub fn run_ok(command: Command, deadline: Duration) -> io::Result<Output> {
    let line = format!("{command:?}");
    let output = run(command, deadline)?;
    if output.status.success() {
        return Ok(output);
    }
    Err(io::Error::other(format!(
        "{line}: {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        output.stderr
    )))
}

/// The time to poll for; an absurd wait becomes the longest one.
pub(crate) fn timespec(left: Duration) -> Timespec {
    Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}

/// The death signal is bound to the *thread* that forks. A child handed from one thread to
/// another must not die with the first, so one thread that never ends starts them all.
fn spawn_from_lasting_thread(command: Command) -> io::Result<std::process::Child> {
    type Job = (Command, mpsc::Sender<io::Result<std::process::Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, answer) in jobs {
                // Drop the command first: it may own the listener that the child now has.
                let result = command.spawn();
                drop(command);
                let _ = answer.send(result);
            }
        });
        Mutex::new(sender)
    });
    let (answer, result) = mpsc::channel();
    let sent = spawner.lock().unwrap().send((command, answer));
    sent.expect("the spawner thread never ends");
    result.recv().expect("the spawner answers every job")
}

/// The newest bytes of a stream that a thread drains.
#[derive(Debug)]
struct Kept {
    state: Mutex<(VecDeque<u8>, bool)>,
    /// Or it has ended.
    grown: Condvar,
}

impl Kept {
    fn drain(mut stream: impl Read + Send + 'static, limit: usize) -> Arc<Self> {
        let kept =
            Arc::new(Self { state: Mutex::new((VecDeque::new(), false)), grown: Condvar::new() });
        let ours = Arc::clone(&kept);
        thread::spawn(move || {
            let mut buffer = [0; 16 << 10];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                let bytes = &mut ours.state.lock().unwrap().0;
                bytes.extend(&buffer[..n]);
                let excess = bytes.len().saturating_sub(limit);
                bytes.drain(..excess);
                ours.grown.notify_all();
            }
            ours.state.lock().unwrap().1 = true;
            ours.grown.notify_all();
        });
        kept
    }

    fn bytes(&self) -> Vec<u8> {
        self.state.lock().unwrap().0.iter().copied().collect()
    }

    /// The first line, as soon as it is whole.
    fn wait_for_line(&self, deadline: Duration) -> Option<String> {
        let line = |bytes: &VecDeque<u8>| bytes.iter().position(|byte| *byte == b'\n');
        let state = self.state.lock().unwrap();
        let waits = |state: &mut (VecDeque<u8>, bool)| !state.1 && line(&state.0).is_none();
        let (state, _) = self.grown.wait_timeout_while(state, deadline, waits).unwrap();
        let bytes: Vec<u8> = state.0.iter().copied().take(line(&state.0)?).collect();
        String::from_utf8(bytes).ok()
    }

    fn wait_for_end(&self) {
        let state = self.state.lock().unwrap();
        drop(self.grown.wait_timeout_while(state, DRAIN_DEADLINE, |state| !state.1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_status_are_kept() {
        let output = run(shell("echo out; echo err >&2; exit 3"), DEADLINE).unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(output.stdout, b"out\n");
        assert_eq!(output.stderr, "err\n");
    }

    #[test]
    fn the_first_line_is_there_while_the_child_runs() {
        let child = Child::spawn(shell("echo first; echo second; exec sleep 60")).unwrap();
        assert_eq!(child.first_line(DEADLINE).unwrap(), "first");
        let child = Child::spawn(shell("printf half; echo why >&2")).unwrap();
        child.first_line(DEADLINE).unwrap_err();
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let mut child = Child::spawn(shell("exec sleep 60")).unwrap();
        let error = child.wait(Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(child.is_running());
        child.stop().unwrap();
        child.cont().unwrap();
        assert!(!child.term_and_wait(DEADLINE).unwrap().success());
        assert!(!child.is_running());
    }

    #[test]
    fn drop_kills_the_whole_group() {
        let child = Child::spawn(shell("sleep 60 & sleep 60")).unwrap();
        let stderr = Arc::clone(&child.stderr);
        drop(child);
        // Both sleeps held the pipe: its end means that both are gone.
        stderr.wait_for_end();
        assert!(stderr.state.lock().unwrap().1);
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let asked = thread::spawn(|| Child::spawn(shell("exec sleep 60")));
        let mut child = asked.join().unwrap().unwrap();
        child.wait(Duration::from_millis(100)).unwrap_err();
    }
}
