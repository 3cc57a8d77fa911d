//! What a backup says: while it runs, and of its end.

use std::borrow::Borrow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blockferry_control::backup::{
    BackupReport, DiskPlan, DiskReport, Watch, lane_words, plan_words,
};
use blockferry_control::catalog::{BackupMode, DiskName, Job, JobId, UnixMillis};
use blockferry_control::record::BytesRecord;
use blockferry_dataplane::{Counts, Event};
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::exit::Exit;
use crate::interrupt;
use crate::output::{Console, Estimate, Progress, cpu_seconds, table};

/// How far all disks are that this process backs up, of one VM or of many.
#[derive(Debug)]
pub(crate) struct Display {
    shown: Mutex<Shown>,
}

#[derive(Debug)]
struct Shown {
    progress: Progress,
    estimate: Estimate,
    /// The disks of each VM.
    vms: Vec<Vec<Counts>>,
}

impl Display {
    /// Of VMs that have so many disks each, as far as that is known.
    pub(crate) fn new(progress: Progress, disks: impl IntoIterator<Item = usize>) -> Self {
        let vms = disks.into_iter().map(|disks| vec![Counts::default(); disks]).collect();
        Self { shown: Mutex::new(Shown { progress, estimate: Estimate::default(), vms }) }
    }

    /// The disks of a VM are that far.
    fn update(&self, vm: usize, counts: &[Counts]) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let Shown { progress, estimate, vms } = &mut *shown;
        let disks = &mut vms[vm];
        disks.resize(disks.len().max(counts.len()), Counts::default());
        disks[..counts.len()].copy_from_slice(counts);
        if progress.is_shown() {
            let all = vms.iter().flatten();
            progress.update(estimate.share(all.clone().copied()), &totals(all));
        }
    }

    /// It is not needed any more.
    pub(crate) fn finish(&self, done: bool, totals: &Counts) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.progress.finish(done, totals);
    }
}

/// What was moved of each disk of a point.
pub(crate) fn counts(report: &BackupReport) -> impl Iterator<Item = &Counts> {
    report.disks.iter().map(|disk| &disk.counts)
}

/// The sum of counts.
pub(crate) fn totals(counts: impl IntoIterator<Item = impl Borrow<Counts>>) -> Counts {
    counts.into_iter().fold(Counts::default(), |sum, counts| sum.plus(counts.borrow()))
}

/// How far a backup was when it failed.
#[derive(Clone, Debug, Default)]
pub(crate) struct SoFar {
    /// Its job, if it had become one.
    job: Option<(JobId, UnixMillis)>,
    counts: Counts,
    elapsed: Duration,
}

impl SoFar {
    /// What was moved of it.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }
}

/// Tells of a backup on a console and a display.
#[derive(Debug)]
pub(crate) struct Telling {
    began: Instant,
    so_far: Mutex<SoFar>,
    console: Arc<Console>,
    display: Arc<Display>,
    /// Which VM it is there.
    number: usize,
    /// Before each line.
    about: String,
}

impl Telling {
    pub(crate) fn new(console: Arc<Console>, progress: Progress) -> Self {
        let display = Arc::new(Display::new(progress, [0]));
        Self::at(console, display, 0, String::new())
    }

    /// Of one VM of many, on the display of all, where it has this number.
    pub(crate) fn of_one(
        vm: &str,
        console: Arc<Console>,
        display: Arc<Display>,
        number: usize,
    ) -> Self {
        Self::at(console, display, number, format!("VM {vm}: "))
    }

    fn at(console: Arc<Console>, display: Arc<Display>, number: usize, about: String) -> Self {
        Self { began: Instant::now(), so_far: Mutex::default(), console, display, number, about }
    }

    /// How far it is.
    pub(crate) fn so_far(&self) -> SoFar {
        SoFar { elapsed: self.began.elapsed(), ..self.noted().clone() }
    }

    fn noted(&self) -> MutexGuard<'_, SoFar> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The display is not needed any more.
    pub(crate) fn finish(&self, done: bool, totals: &Counts) {
        self.display.finish(done, totals);
    }

    /// A line.
    pub(crate) fn say(&self, text: &str) {
        self.console.note(&format!("{}{text}", self.about));
    }

    /// A line that only `--verbose` shows.
    pub(crate) fn detail(&self, text: &str) {
        self.console.detail(&format!("{}{text}", self.about));
    }
}

impl Watch for Telling {
    fn job(&self, job: &Job) {
        self.noted().job = Some((job.id, job.created));
        self.detail(&format!("job {} is {}: {}", job.id, job.state, job.reason));
    }

    fn planned(&self, plan: &DiskPlan) {
        let mode = plan.kind.mode().as_str();
        self.detail(&plan_words(plan.name.as_str(), mode, &plan.reason));
    }

    fn note(&self, text: &str) {
        self.say(text);
    }

    fn detail(&self, text: &str) {
        // The method above, which names the VM.
        Self::detail(self, text);
    }

    fn last_words(&self, text: Option<&str>) {
        let words = text.map(|text| format!("{}{text}", self.about));
        interrupt::last_words(self.number, words);
    }

    fn lane(&self, disk: &DiskName, event: &Event<'_>) {
        if let Some(words) = lane_words(disk, event) {
            self.detail(&words);
        }
    }

    fn progress(&self, disks: &[Counts]) {
        self.noted().counts = totals(disks);
        self.display.update(self.number, disks);
    }
}

/// The published point, for people.
pub(super) fn summary(report: &BackupReport) -> String {
    let rows = report.disks.iter().map(|disk| {
        let DiskReport { plan, counts, stored_bytes, .. } = disk;
        let bytes = [counts.read, counts.zero, counts.sent, counts.skipped, *stored_bytes];
        let mut row = vec![plan.name.to_string(), plan.kind.mode().to_string()];
        row.push(BinaryBytes(plan.size_bytes).to_string());
        row.extend(bytes.map(|bytes| BinaryBytes(bytes).to_string()));
        row.push(plan.reason.clone());
        row
    });
    let heads = ["disk", "mode", "size", "read", "zero", "sent", "skipped", "stored", "because"];
    format!(
        "point {} of VM {} is published, after {:.1} s\n{}",
        report.point.id,
        report.point.vm,
        report.elapsed.as_secs_f64(),
        table(&heads, rows)
    )
}

/// The end of a backup, for programs. Fields are added, never taken away.
#[derive(Debug, Serialize)]
pub(crate) struct Json<'a> {
    /// The exit code in a word.
    outcome: &'static str,
    exit_code: u8,
    error: Option<String>,
    point: Option<&'a str>,
    vm: &'a str,
    /// What was asked for.
    mode: &'a str,
    job: Option<&'a str>,
    created_ms: Option<u64>,
    seconds: f64,
    /// Of the process; not where it backs up others too.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_seconds: Option<f64>,
    bytes: BytesRecord,
    disks: Vec<Disk<'a>>,
}

#[derive(Debug, Serialize)]
struct Disk<'a> {
    name: &'a str,
    /// What it became: full or incremental.
    mode: &'static str,
    reason: &'a str,
    layer: &'a str,
    /// The point that an incremental one stands on.
    parent: Option<&'a str>,
    size: u64,
    stored: u64,
    seconds: f64,
    bytes: BytesRecord,
}

impl<'a> Json<'a> {
    pub(crate) fn of(report: &'a BackupReport) -> Self {
        Self {
            outcome: Exit::Done.word(),
            exit_code: Exit::Done.code(),
            error: None,
            point: Some(report.point.id.as_str()),
            vm: report.point.vm.as_str(),
            mode: report.point.mode.as_str(),
            job: Some(report.point.job.as_str()),
            created_ms: Some(report.point.created.get()),
            seconds: report.elapsed.as_secs_f64(),
            cpu_seconds: Some(cpu_seconds()),
            bytes: totals(counts(report)).into(),
            disks: report.disks.iter().map(Disk::of).collect(),
        }
    }

    pub(crate) fn of_failure(
        exit: Exit,
        error: String,
        vm: &'a str,
        mode: BackupMode,
        so_far: &'a SoFar,
    ) -> Self {
        Self {
            outcome: exit.word(),
            exit_code: exit.code(),
            error: Some(error),
            point: None,
            vm,
            mode: mode.as_str(),
            job: so_far.job.as_ref().map(|(job, _)| job.as_str()),
            created_ms: so_far.job.as_ref().map(|(_, created)| created.get()),
            seconds: so_far.elapsed.as_secs_f64(),
            cpu_seconds: Some(cpu_seconds()),
            bytes: so_far.counts.into(),
            disks: Vec::new(),
        }
    }
}

impl Json<'_> {
    /// The same as one of many.
    pub(crate) fn of_many(self) -> Self {
        Self { cpu_seconds: None, ..self }
    }
}

impl<'a> Disk<'a> {
    fn of(disk: &'a DiskReport) -> Self {
        let plan = &disk.plan;
        Self {
            name: plan.name.as_str(),
            mode: plan.kind.mode().as_str(),
            reason: &plan.reason,
            layer: plan.layer.as_str(),
            parent: plan.parent.as_ref().map(|parent| parent.point.as_str()),
            size: plan.size_bytes,
            stored: disk.stored_bytes,
            seconds: disk.elapsed.as_secs_f64(),
            bytes: disk.counts.into(),
        }
    }
}
