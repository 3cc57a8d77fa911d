//! Ctrl-C, SIGTERM and SIGHUP: the first ends in order, the second at once. Nobody who fails to read
//! what is said of it can keep either from its work.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::exit::Exit;
use crate::output::{self, Console};

/// What the first signal makes of work that moves data.
const DRAINING: &str = "interrupted: finishing what is in flight; once more to stop at once";

/// How long the words for a signal may take.
const WORDS: Duration = Duration::from_secs(1);

/// A signal has come. There is one set of signals for the whole process.
static ASKED: AtomicBool = AtomicBool::new(false);

/// What is told of jobs when the process ends at once, by their numbers.
static LAST_WORDS: Mutex<BTreeMap<usize, String>> = Mutex::new(BTreeMap::new());

/// What is told of a job if a signal ends the process at once; nothing any more, if there is nothing.
pub(crate) fn last_words(job: usize, words: Option<String>) {
    let mut all = LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    match words {
        Some(words) => drop(all.insert(job, words)),
        None => drop(all.remove(&job)),
    }
}

/// Whether a signal has asked for the end.
pub(crate) fn was_asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Starts to listen. The first signal calls off what is at work, by `call_off`, which says whether
/// there was anything; if not, and at the second one, the process ends. Signals that the caller has
/// had ignored stay so: nohup, and background jobs of a script.
pub(crate) fn listen(
    console: Arc<Console>,
    call_off: impl Fn() -> bool + Send + 'static,
) -> anyhow::Result<()> {
    listen_and_say(console, DRAINING, call_off)
}

/// The same; the first signal is told by these words.
pub(crate) fn listen_and_say(
    console: Arc<Console>,
    words: &'static str,
    call_off: impl Fn() -> bool + Send + 'static,
) -> anyhow::Result<()> {
    // With a handler, a file that grows past ulimit -f is an error of that file, and not the end
    // of the process; unlike an ignored signal it is not passed on to the servers.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).context("listening for signals")?;
    let ignored = ignored_signals();
    let wanted =
        [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    let mut signals = Signals::new(wanted).context("listening for signals")?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for (earlier, _signal) in signals.forever().enumerate() {
                let called_off = earlier == 0 && call_off();
                ASKED.store(true, Ordering::Relaxed);
                if called_off {
                    say(&console, move |console| console.note(words));
                } else {
                    say(&console, |console| {
                        let words = LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner);
                        words.values().for_each(|words| console.note(words));
                        console.note("interrupted");
                        console.clear();
                        output::finish();
                    });
                    std::process::exit(Exit::Interrupted.code().into());
                }
            }
        })
        .context("starting the thread for signals")?;
    Ok(())
}

/// Says something, by a thread that is left behind if that takes too long: a terminal may have been
/// stopped in the middle of the bar.
fn say(console: &Arc<Console>, words: impl FnOnce(&Console) + Send + 'static) {
    let (said, heard) = mpsc::channel();
    let console = Arc::clone(console);
    let thread = thread::Builder::new().name("words".into()).spawn(move || {
        words(&console);
        // Nobody listens after the deadline.
        let _too_late = said.send(());
    });
    if thread.is_ok() {
        // Also an end without words is an end.
        let _late = heard.recv_timeout(WORDS);
    }
}

/// A bit for each signal that is ignored, as the kernel tells it; 0 if it does not.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_tells_which_signals_are_ignored() {
        // The Rust runtime ignores SIGPIPE, the 13th.
        assert_eq!(super::ignored_signals() >> 12 & 1, 1);
    }
}
