//! A contender's own process.

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::lane::Job;
use crate::movers;

/// A run that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a contender says of itself.
pub(crate) struct Said {
    pub(crate) seconds: f64,
    pub(crate) cpu_s: f64,
}

/// Runs a contender in this process, and prints its seconds and its processor seconds.
pub(crate) fn run(name: &str, job: &Job) -> io::Result<()> {
    let contender = movers::ALL
        .iter()
        .find(|contender| contender.name == name)
        .ok_or_else(|| io::Error::other("no contender has that name"))?;
    let (started, cpu) = (Instant::now(), cpu_seconds());
    (contender.run)(job)?;
    println!("{} {}", started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    Ok(())
}

/// Runs a contender in a process of its own.
pub(crate) fn start(name: &str, job: &Job) -> io::Result<Said> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--contender", name])
        .args([job.source.to_string(), job.target.to_string()])
        .args([job.lanes.to_string(), job.request.to_string()])
        .arg(job.requests.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let until = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > until {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut said = String::new();
    if let Some(out) = &mut child.stdout {
        out.read_to_string(&mut said)?;
    }
    let mut numbers = said.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(seconds)), Some(Ok(cpu_s))) if status.success() => Ok(Said { seconds, cpu_s }),
        _ => Err(io::Error::other(format!("{name} failed: {status}"))),
    }
}

/// Processor time of this process so far, with all its threads, in seconds.
pub(crate) fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
