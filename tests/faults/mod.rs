//! A VM with a point, and what goes wrong with the next backup of it.

mod anew;
mod answers;
mod copied;
mod interrupts;
mod lost;
mod maintenance;
mod others;
mod reading;
mod secrets;
mod server;
mod signals;
mod snapshots;
mod sweeps;
mod times;
mod together;
mod tracking;
mod unanswered;

use std::fs;
use std::process::{Child, Output};
use std::time::Duration;

use blockferry_doubles::disk::Random;
use blockferry_doubles::vsphere::{NewMachine, VirtualMachine, Vsphere, VsphereBuilder};
use serde_json::Value;

use crate::blockferry::{Backed, VmPlace, code, stderr, wait_until};

pub(crate) const MIB: u64 = 1 << 20;
/// The first disk of a VM, by the name that points have for it.
pub(crate) const DISK: &str = "disk-2000";
/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The VM `web` with two disks, and a point of it.
pub(crate) struct Stage {
    pub(crate) place: VmPlace,
    pub(crate) web: VirtualMachine,
    pub(crate) first: Backed,
    writes: Random,
}

/// How a backup failed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// The one line of it.
    pub(crate) line: String,
    /// All that was said.
    pub(crate) said: String,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with(Vsphere::builder())
    }

    pub(crate) fn with(builder: VsphereBuilder) -> Self {
        let web = NewMachine::new("web").disk(6 * MIB).disk(3 * MIB).tracked();
        let place = VmPlace::with(builder.machine(web));
        let web = place.machine("web");
        let mut writes = Random::new(5);
        for (key, size) in web.disks().unwrap() {
            let mut content = vec![0; usize::try_from(size / 2).unwrap()];
            writes.fill(&mut content);
            web.write(key, 0, &content).unwrap();
        }
        let first = place.back_up("web", "");
        place.vsphere.clear_calls();
        let mut stage = Self { place, web, first, writes };
        stage.write();
        stage
    }

    /// The guest writes a little to both disks: blocks that lie apart.
    pub(crate) fn write(&mut self) {
        for (key, size) in self.web.disks().unwrap() {
            for at in [0, 2, 5, 9] {
                let mut block = vec![0; 64 << 10];
                self.writes.fill(&mut block);
                self.web.write(key, at * size / 12 / 65536 * 65536, &block).unwrap();
            }
        }
    }

    /// A backup fails with this code and one line that has these words, and leaves nothing behind.
    pub(crate) fn fails(&self, extra: &str, exit: i32, words: &[&str]) -> Failed {
        let failed = self.fails_and_leaves(extra, exit, words);
        self.assert_tidy();
        failed
    }

    /// The same, where something is left that is for the test to look at.
    pub(crate) fn fails_and_leaves(&self, extra: &str, exit: i32, words: &[&str]) -> Failed {
        let output = self.place.kept.run(&self.place.backup("web", extra));
        Self::has_failed(&output, exit, words)
    }

    /// A backup has failed with this code and one line that has these words.
    pub(crate) fn has_failed(output: &Output, exit: i32, words: &[&str]) -> Failed {
        let said = stderr(output);
        assert_eq!(code(output), exit, "{said}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let line = report["error"].as_str().unwrap().to_owned();
        let told = format!("blockferry: {line}");
        assert_eq!(said.lines().filter(|line| *line == told).count(), 1, "{said}");
        for word in words {
            assert!(line.contains(word), "{word} is not in {line}");
        }
        Failed { line, said }
    }

    /// A backup succeeds in spite of all; it says these words on its way.
    pub(crate) fn succeeds(&self, extra: &str, words: &[&str]) -> Backed {
        let output = self.place.kept.run(&self.place.backup("web", extra));
        let said = stderr(&output);
        assert_eq!(code(&output), 0, "{said}");
        for word in words {
            assert!(said.contains(word), "{word} is not in {said}");
        }
        let report = serde_json::from_slice(&output.stdout).unwrap();
        let copies = self.place.copies_of(&self.web).pop_last().unwrap().1;
        let backed = Backed { report, copies };
        self.place.assert_equal(&backed);
        backed
    }

    /// Nothing is left of a backup, at the server neither, and what was ordered has gone wrong.
    pub(crate) fn assert_tidy(&self) {
        self.place.assert_nothing_left();
        assert_eq!(self.place.vsphere.sessions(), 0, "sessions are left open");
        let to_come = self.place.vsphere.troubles();
        assert!(to_come.is_empty(), "{to_come:?}");
    }

    /// The points from before are whole, and the next backup goes well.
    pub(crate) fn recovers(&self) -> Backed {
        self.place.vsphere.clear_plugin_faults();
        let next = self.place.back_up("web", "");
        self.place.assert_equal(&next);
        self.place.assert_equal(&self.first);
        self.verifies();
        self.assert_tidy();
        next
    }

    /// A full backup that is in the middle of its copy: no disk has to be opened any more, and
    /// several seconds of reads are to come.
    pub(crate) fn in_the_middle(&self, extra: &str) -> Child {
        let whole = vec![7; usize::try_from(6 * MIB).unwrap()];
        self.web.write(2000, 0, &whole).unwrap();
        self.place.vsphere.plugin_fault("read_delay_ms", 700.into());
        let child = self.start(&format!("--mode full {extra}"));
        let disks = self.web.disks().unwrap().len();
        wait_until("no data comes", || self.images_with_data() == disks);
        child
    }

    /// Whether data has landed in an image of a backup at work.
    pub(crate) fn has_data(&self) -> bool {
        self.images_with_data() > 0
    }

    /// An empty image has no megabyte.
    fn images_with_data(&self) -> usize {
        let work = self.place.kept.path("repository/work");
        let folders = fs::read_dir(work).into_iter().flatten().flatten();
        let files =
            folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
        // One that is renamed meanwhile is looked for again.
        files.filter_map(|file| file.metadata().ok()).filter(|file| file.len() >= MIB).count()
    }

    pub(crate) fn verifies(&self) {
        let verified = self.place.kept.run("verify --all --repository repository");
        assert_eq!(code(&verified), 0, "{}", stderr(&verified));
    }

    /// How many points there are.
    pub(crate) fn points(&self) -> usize {
        self.place.points().len()
    }
}
