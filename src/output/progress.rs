//! How far it is: a bar, plain lines, or `N/100` on a descriptor.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use blockferry_dataplane::Counts;
use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::console::line;
use super::patient;
use crate::copy::ProgressChoice;
use crate::interrupt;

/// Length of the bar in steps.
const STEPS: u64 = 1000;
/// Time between plain lines, in place of a bar that a log file could not show.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// How long a reader that takes nothing is waited for, to tell it that all is done.
const LAST_SHARE: Duration = Duration::from_secs(10);

/// The display that `--progress` asked for.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Nothing.
    None,
    /// A bar on the terminal.
    Bar { bar: ProgressBar, start: Instant },
    /// A line now and then, since standard error is no terminal.
    Lines { start: Instant, last: Instant },
    /// Lines for a program, as nbdcopy writes them.
    Descriptor { to: Option<File>, last: u64 },
}

impl Progress {
    /// The display; a bar where there is a terminal for it.
    pub(crate) fn of(choice: Option<ProgressChoice>) -> Self {
        match choice {
            None => Self::None,
            Some(ProgressChoice::Descriptor(number)) => Self::Descriptor {
                // As for nbdcopy, a descriptor that is not open is no reason not to copy.
                to: descriptor(number).ok(),
                last: 0,
            },
            Some(ProgressChoice::Bar) if io::stderr().is_terminal() => {
                let bar = ProgressBar::with_draw_target(
                    Some(STEPS),
                    ProgressDrawTarget::stderr_with_hz(10),
                );
                // Tested: the template is a constant.
                if let Ok(style) =
                    ProgressStyle::with_template("{percent:>3} % [{bar:40}] {msg}, {eta} left")
                {
                    bar.set_style(style.progress_chars("=> "));
                }
                Self::Bar { bar, start: Instant::now() }
            }
            Some(ProgressChoice::Bar) => {
                let now = Instant::now();
                Self::Lines { start: now, last: now }
            }
        }
    }

    /// The bar, for whoever prints beside it.
    pub(crate) fn bar(&self) -> Option<ProgressBar> {
        match self {
            Self::Bar { bar, .. } => Some(bar.clone()),
            _ => None,
        }
    }

    /// Whether anyone looks.
    pub(crate) fn is_shown(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// The lanes start.
    pub(crate) fn start(&mut self) {
        if let Self::Descriptor { to, .. } = self {
            write_share_if_taken(to, 0);
        }
    }

    /// This share of the work is done, 0 to 1.
    pub(crate) fn update(&mut self, share: f64, totals: &Counts) {
        let moved = totals.finished();
        match self {
            Self::None => {}
            Self::Bar { bar, .. } => {
                bar.set_position(parts(share, STEPS));
                bar.set_message(BinaryBytes(moved).to_string());
            }
            Self::Lines { start, last } => {
                if last.elapsed() >= LINE_INTERVAL {
                    *last = Instant::now();
                    let percent = parts(share, 100);
                    line(&format!(
                        "{percent} %, {} in {} s",
                        BinaryBytes(moved),
                        start.elapsed().as_secs()
                    ));
                }
            }
            Self::Descriptor { to, last } => {
                // 100 is said once, when it is certain.
                let percent = parts(share, 100).min(99);
                // Whoever reads slowly gets fewer of them.
                if percent > *last && write_share_if_taken(to, percent) {
                    *last = percent;
                }
            }
        }
    }

    /// The lanes are over.
    pub(crate) fn finish(&mut self, done: bool, totals: &Counts) {
        let moved = BinaryBytes(totals.finished());
        let sum = |percent, start: &Instant| {
            line(&format!("{percent} %, {moved} in {:.1} s", start.elapsed().as_secs_f64()));
        };
        match self {
            Self::None => {}
            // A bar that stays ends in no newline, and the next line would be written behind it.
            Self::Bar { bar, start } => {
                let percent = percent_shown(bar);
                bar.finish_and_clear();
                sum(if done { 100 } else { percent }, start);
            }
            Self::Lines { start, .. } if done => sum(100, start),
            Self::Descriptor { to, .. } if done => {
                let end = Instant::now() + LAST_SHARE;
                write_share(to, 100, || Instant::now() < end && !interrupt::was_asked());
            }
            Self::Lines { .. } | Self::Descriptor { .. } => {}
        }
    }
}

/// What the bar shows, in percent.
fn percent_shown(bar: &ProgressBar) -> u64 {
    bar.position() * 100 / STEPS
}

/// A share as a whole number of `steps`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
fn parts(share: f64, steps: u64) -> u64 {
    // The share is from 0 to 1 and there are few steps: nothing is cut but the fraction.
    (share * steps as f64) as u64
}

/// Writes it if it is taken at once; says whether it was.
fn write_share_if_taken(to: &mut Option<File>, percent: u64) -> bool {
    let taken = to.as_ref().is_some_and(patient::takes_something);
    if taken {
        write_share(to, percent, || false);
    }
    taken
}

/// A reader that has gone away, or takes nothing, is no reason to stop. The line is worth waiting for
/// as long as that is said.
fn write_share(to: &mut Option<File>, percent: u64, waits_on: impl Fn() -> bool) {
    if let Some(file) = to
        && patient::write_all(file, format!("{percent}/100\n").as_bytes(), waits_on).is_err()
    {
        *to = None;
    }
}

/// A copy of the caller's descriptor `number`, had without unsafe code: through a handle of our own
/// process, or, where that is forbidden, through its name in /proc.
fn descriptor(number: i32) -> io::Result<File> {
    let copied: rustix::io::Result<OwnedFd> = pidfd_open(getpid(), PidfdFlags::empty())
        .and_then(|process| pidfd_getfd(process, number, PidfdGetfdFlags::empty()));
    match copied {
        Ok(copy) => Ok(copy.into()),
        Err(_) => OpenOptions::new().append(true).open(format!("/proc/self/fd/{number}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_descriptor_gets_each_percentage_once_and_100_at_the_end() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut progress = Progress::of(Some(ProgressChoice::Descriptor(writer.as_raw_fd())));
        drop(writer);
        progress.start();
        for share in [0.0, 0.125, 0.128, 0.5, 1.0] {
            progress.update(share, &Counts::default());
        }
        progress.finish(true, &Counts::default());
        drop(progress);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "0/100\n12/100\n50/100\n99/100\n100/100\n");
    }

    #[test]
    fn a_descriptor_that_is_not_open_or_not_read_is_no_failure() {
        let mut progress = Progress::of(Some(ProgressChoice::Descriptor(987)));
        progress.start();
        let (reader, writer) = std::io::pipe().unwrap();
        let mut progress = Progress::of(Some(ProgressChoice::Descriptor(writer.as_raw_fd())));
        drop(reader);
        progress.start();
        progress.finish(true, &Counts::default());
    }
}
