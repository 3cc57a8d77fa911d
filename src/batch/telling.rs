//! What a batch says at its end.

use std::time::Duration;

use blockferry_control::backup::BackupReport;
use blockferry_control::record::BytesRecord;
use blockferry_dataplane::Counts;
use indicatif::BinaryBytes;
use serde::Serialize;

use super::job::Job;
use crate::backup::{Json, SoFar, counts, totals};
use crate::exit::Exit;
use crate::output::{cpu_seconds, table};

/// How one VM ended.
#[derive(Debug)]
pub(super) enum Ended {
    Done(Box<BackupReport>),
    Failed { exit: Exit, error: String, so_far: SoFar },
}

impl Ended {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Done(_) => Exit::Done,
            Self::Failed { exit, .. } => *exit,
        }
    }

    /// What was moved.
    pub(super) fn counts(&self) -> Counts {
        match self {
            Self::Done(report) => totals(counts(report)),
            Self::Failed { so_far, .. } => so_far.counts(),
        }
    }
}

/// All VMs, for people.
pub(super) fn summary(vms: &[Job], ended: &[Ended], elapsed: Duration) -> String {
    let rows = vms.iter().zip(ended).map(|(job, ended)| {
        let mut row = vec![job.name().to_owned(), ended.exit().word().replace('_', " ")];
        match ended {
            Ended::Done(report) => {
                let counts = totals(counts(report));
                let stored = report.disks.iter().map(|disk| disk.stored_bytes).sum();
                let sizes = [counts.read, counts.sent, stored];
                row.push(report.disks.len().to_string());
                row.extend(sizes.map(|bytes| BinaryBytes(bytes).to_string()));
                row.push(format!("{:.1} s", report.elapsed.as_secs_f64()));
                row.push(format!("point {}", report.point.id));
            }
            Ended::Failed { error, .. } => {
                row.push(job.disks().map_or_else(String::new, |disks| disks.to_string()));
                row.extend(["", "", "", ""].map(String::from));
                row.push(error.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        }
        row
    });
    let heads = ["VM", "outcome", "disks", "read", "sent", "stored", "time", "point, or reason"];
    let done = ended.iter().filter(|ended| ended.exit() == Exit::Done).count();
    let rows: Vec<_> = rows.collect();
    format!(
        "{done} of {} VMs are backed up, after {:.1} s\n{}",
        vms.len(),
        elapsed.as_secs_f64(),
        table(&heads, rows)
    )
}

/// The end of a batch, for programs. Fields are added, never taken away.
#[derive(Debug, Serialize)]
pub(super) struct BatchJson<'a> {
    /// The exit code in a word.
    outcome: &'static str,
    exit_code: u8,
    /// What kept it from starting; what happened to each VM is told with it.
    error: Option<String>,
    seconds: f64,
    cpu_seconds: f64,
    bytes: BytesRecord,
    /// Each as `backup --json` tells of it, in the order of the file.
    vms: Vec<Json<'a>>,
}

impl<'a> BatchJson<'a> {
    pub(super) fn of(exit: Exit, vms: &'a [Job], ended: &'a [Ended], elapsed: Duration) -> Self {
        let told = vms.iter().zip(ended).map(|(job, ended)| match ended {
            Ended::Done(report) => Json::of(report).of_many(),
            Ended::Failed { exit, error, so_far } => {
                let (error, vm, mode) = (error.clone(), job.name(), job.mode());
                Json::of_failure(*exit, error, vm, mode, so_far).of_many()
            }
        });
        Self {
            outcome: exit.word(),
            exit_code: exit.code(),
            error: None,
            seconds: elapsed.as_secs_f64(),
            cpu_seconds: cpu_seconds(),
            bytes: totals(ended.iter().map(Ended::counts)).into(),
            vms: told.collect(),
        }
    }

    pub(super) fn of_refusal(exit: Exit, error: String) -> Self {
        Self {
            outcome: exit.word(),
            exit_code: exit.code(),
            error: Some(error),
            seconds: 0.0,
            cpu_seconds: cpu_seconds(),
            bytes: BytesRecord::default(),
            vms: Vec::new(),
        }
    }
}
