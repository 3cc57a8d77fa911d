//! What a restore writes into the notes of a VM, where everybody sees it who looks at the VM: other
//! repositories, other machines, people.
//!
//! It is one line, and goes when all disks that it names are right. While it is there, nobody knows
//! whether a restore is at work or was cut off, and no backup is made.

use std::collections::BTreeSet;
use std::fmt;

use super::vm::DeviceKey;
use crate::catalog::JobId;

/// How the line begins.
const BEGINNING: &str = "[blockferry restore ";
const END: char = ']';
/// Before the devices.
const DISKS: &str = "disks ";
const TRACKED: &str = "change tracking was on";
const NEW: &str = "this VM is being made";

/// A restore that has begun, and has not ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreMark {
    /// The job; none, if somebody has changed the line.
    pub job: Option<JobId>,
    /// What it restores into.
    pub into: MarkedVm,
}

/// What is not right of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkedVm {
    /// Disks of a VM that was there.
    There {
        /// Those that are written, or were when it was cut off.
        disks: BTreeSet<DeviceKey>,
        /// Whether changes were tracked before.
        was_tracked: bool,
    },
    /// All of a VM that is made for it.
    New,
}

impl RestoreMark {
    /// What the notes of a VM have of it.
    #[must_use]
    pub fn of_notes(notes: &str) -> Option<Self> {
        notes.split('\n').find_map(Self::of_line)
    }

    /// A line that is changed is a mark all the same: in doubt a VM is not right.
    fn of_line(line: &str) -> Option<Self> {
        let words = line.trim().strip_prefix(BEGINNING)?;
        let (job, says) = words.split_once(": ").unwrap_or((words, ""));
        let into = if says.starts_with(NEW) {
            MarkedVm::New
        } else {
            let listed = says.strip_prefix(DISKS).unwrap_or_default();
            let keys = listed.split([',', ' ']).filter(|word| !word.is_empty());
            let keys = keys.map_while(|word| word.parse().ok().map(DeviceKey));
            MarkedVm::There { disks: keys.collect(), was_tracked: says.contains(TRACKED) }
        };
        Some(Self { job: job.parse().ok(), into })
    }

    /// The notes of a VM with this in the place of any other.
    #[must_use]
    pub fn put_into(&self, notes: &str) -> String {
        match Self::taken_out(notes) {
            rest if rest.is_empty() => self.to_string(),
            rest => format!("{self}\n{rest}"),
        }
    }

    /// The notes of a VM without any.
    #[must_use]
    pub fn taken_out(notes: &str) -> String {
        let lines = notes.split('\n').filter(|line| Self::of_line(line).is_none());
        lines.collect::<Vec<_>>().join("\n")
    }

    /// For people: what is wrong, and what to do.
    #[must_use]
    pub fn advice(&self) -> String {
        let job = self.job.map_or_else(String::new, |job| format!(" (job {job})"));
        let or = "wait for its end, or if it is dead, ";
        match &self.into {
            MarkedVm::There { .. } => format!(
                "a restore{job} writes it or was cut off, and {}; {or}{}",
                self.damage(),
                self.remedy()
            ),
            MarkedVm::New => format!(
                "a restore{job} makes it or was cut off, and {}; {or}{}",
                self.damage(),
                self.remedy()
            ),
        }
    }

    /// The same where the job is known to be dead.
    #[must_use]
    pub fn advice_for_dead(&self) -> String {
        format!("was cut off, and {}: {}", self.damage(), self.remedy())
    }

    fn damage(&self) -> String {
        match &self.into {
            MarkedVm::There { disks, .. } => format!("{} partly overwritten", named(disks)),
            MarkedVm::New => "the new VM is not whole".to_owned(),
        }
    }

    fn remedy(&self) -> &'static str {
        match &self.into {
            MarkedVm::There { .. } => {
                "restore again before it is started; if it is right as it is, take the line of \
                 blockferry out of its notes; it is not backed up until then"
            }
            MarkedVm::New => "remove that VM, and restore again",
        }
    }
}

/// The line.
impl fmt::Display for RestoreMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let job = self.job.map_or_else(|| "?".to_owned(), |job| job.to_string());
        write!(f, "{BEGINNING}{job}: ")?;
        match &self.into {
            MarkedVm::There { disks, was_tracked } => {
                let keys: Vec<String> = disks.iter().map(DeviceKey::to_string).collect();
                let tracked = if *was_tracked { format!("; {TRACKED}") } else { String::new() };
                write!(
                    f,
                    "{DISKS}{} are being written{tracked}; if no restore is running, it was cut off: \
                     restore again before the VM is started{END}",
                    keys.join(", ")
                )
            }
            MarkedVm::New => {
                write!(f, "{NEW}; if no restore is running, it was cut off: remove the VM{END}")
            }
        }
    }
}

fn named(disks: &BTreeSet<DeviceKey>) -> String {
    let names: Vec<String> = disks.iter().map(|key| format!("disk-{key}")).collect();
    match names.as_slice() {
        [] => "its disks may be".to_owned(),
        [one] => format!("{one} is"),
        _ => format!("{} are", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(keys: &[i32], was_tracked: bool) -> RestoreMark {
        let disks = keys.iter().copied().map(DeviceKey).collect();
        RestoreMark { job: Some(JobId::new()), into: MarkedVm::There { disks, was_tracked } }
    }

    #[test]
    fn notes_of_others_stay_as_they_are_around_a_mark() {
        for notes in ["", "web server", "web\r\n\r\nowner: ops\n", "\n"] {
            for mark in [
                mark(&[2000, 2001], true),
                mark(&[2016], false),
                RestoreMark { job: Some(JobId::new()), into: MarkedVm::New },
            ] {
                let marked = mark.put_into(notes);
                assert_eq!(RestoreMark::of_notes(&marked), Some(mark.clone()), "{marked}");
                assert_eq!(RestoreMark::taken_out(&marked), notes);
                let again = mark.put_into(&marked);
                assert_eq!(again, marked, "there is one");
            }
            assert_eq!(RestoreMark::of_notes(notes), None);
        }
    }

    #[test]
    fn a_line_that_somebody_changed_is_a_mark_all_the_same() {
        for line in ["[blockferry restore x", "[blockferry restore x: disks a, b]\r"] {
            let found = RestoreMark::of_notes(&format!("web\n {line}")).unwrap();
            let into = MarkedVm::There { disks: BTreeSet::new(), was_tracked: false };
            assert_eq!(found, RestoreMark { job: None, into });
            assert!(found.advice().contains("its disks may be partly overwritten"));
        }
        assert_eq!(RestoreMark::of_notes("restored by blockferry from point x"), None);
    }
}
