//! Lines on standard error.

use blockferry_dataplane::nbd::without_passwords;
use indicatif::ProgressBar;

use super::outlet;

/// Prints `text` as one line of blockferry, without the passwords that users wrote in it.
pub(crate) fn line(text: &str) {
    plain(&format!("blockferry: {}", single(&without_passwords(text))));
}

/// Prints a line, or several.
pub(crate) fn plain(text: &str) {
    outlet::say(format!("{text}\n"));
}

/// `text` without what would break the line or steer a terminal: some of it comes from servers.
fn single(text: &str) -> String {
    let printable = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.trim_end().chars().map(printable).collect()
}

/// Standard error, with or without a progress bar at its end.
#[derive(Debug)]
pub(crate) struct Console {
    bar: Option<ProgressBar>,
    verbose: bool,
}

impl Console {
    pub(crate) fn new(bar: Option<ProgressBar>, verbose: bool) -> Self {
        Self { bar, verbose }
    }

    /// A line of blockferry.
    pub(crate) fn note(&self, text: &str) {
        self.around_bar(|| line(text));
    }

    /// A line of blockferry that only `--verbose` shows.
    pub(crate) fn detail(&self, text: &str) {
        if self.verbose {
            self.note(text);
        }
    }

    /// A line of someone else.
    pub(crate) fn plain(&self, text: &str) {
        self.around_bar(|| plain(text));
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn around_bar(&self, print: impl FnOnce()) {
        match &self.bar {
            // Else the bar would be drawn where the line is to come.
            Some(bar) => bar.suspend(|| {
                print();
                outlet::drain();
            }),
            None => print(),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_a_server_says_stays_on_one_line() {
        assert_eq!(super::single("a\nb\x1b[31mc\n"), "a b [31mc");
    }
}
