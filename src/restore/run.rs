//! Restores, and tells how it went.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use anyhow::Context as _;
use blockferry_control::reading::{
    ReadError, RestoreReport, RestoreRequest, RestoreTarget, RestoredDisk, restore,
};
use blockferry_dataplane::{Counts, Endpoint};

use super::options::RestoreOptions;
use super::telling::{Json, summary};
use super::vm;
use crate::copy::{Place, named_place};
use crate::exit::{Exit, Refusal};
use crate::output::{json, line, tell};
use crate::reading::{refusal, settings, watched};

/// `blockferry restore`.
///
/// # Errors
/// Why a disk is not restored.
pub(crate) fn command(options: &RestoreOptions) -> anyhow::Result<Exit> {
    let as_json = |ended: Result<&RestoreReport, (Exit, String)>| match ended {
        Ok(report) => json::print(&Json::of(exit_of(report), report)),
        Err((exit, words)) => json::print(&Json::of_failure(exit, words, options.point.as_str())),
    };
    let untold = |_: &RestoreReport| "the disks could not be told of".to_owned();
    let report = tell(restore_as_asked(options), options.output.json, as_json, summary, untold)?;
    let exit = exit_of(&report);
    let mut failed = report.disks.iter().filter_map(|disk| disk.outcome.as_ref().err()).peekable();
    if failed.peek().is_none() {
        return Ok(Exit::Done);
    }
    // One line for each that failed; the last one is the command's.
    let words: Vec<String> = failed.map(ToString::to_string).collect();
    let (last, others) = words.split_last().context("a disk failed")?;
    for words in others {
        line(words);
    }
    Err(Refusal::of(exit, last.clone()))
}

fn restore_as_asked(options: &RestoreOptions) -> anyhow::Result<RestoreReport> {
    if vm::is_meant(options)? {
        return vm::restore(options);
    }
    let target = target(options)?;
    let request = RestoreRequest { point: options.point, disks: options.disk.clone(), target };
    let settings = settings(&options.lane)?;
    // Who has the repository serves the disks; they are moved and compared here in any case.
    if let Some(hub) = options.repository.remote.client()? {
        let (name, node) = (options.repository.name()?, options.node.clone());
        return watched(&options.output, totals, |watch, cancellation| {
            hub.restore(&request, name, node, &settings, watch, cancellation)
                .map_err(|error| refusal(&error))
        });
    }
    let repository = options.repository.open()?;
    watched(&options.output, totals, |watch, cancellation| {
        restore(&repository, &request, &settings, watch, cancellation)
            .map_err(|error| refusal(&error))
    })
}

/// What was moved of all disks.
pub(super) fn totals(report: &RestoreReport) -> Counts {
    report.disks.iter().fold(Counts::default(), |sum, disk| sum.plus(&disk.counts))
}

fn target(options: &RestoreOptions) -> anyhow::Result<RestoreTarget> {
    let whole = |endpoint| match (options.format, options.force) {
        (None, false) => Ok(RestoreTarget::Whole(endpoint)),
        _ => Err(Refusal::usage(
            "--format and --force are about files, and --to names an export or a device",
        )),
    };
    if options.to == "-" {
        return Err(Refusal::usage(
            "--to is a folder, an NBD URI or a block device, and not standard output; write ./- for \
             a folder of that name",
        ));
    }
    match named_place(&options.to).map_err(Refusal::usage)? {
        Place::Uri(uri) => whole(Endpoint::nbd(*uri)),
        Place::Path(path) => match fs::metadata(&path).map(|data| data.file_type()) {
            Ok(kind) if kind.is_block_device() => whole(Endpoint::File(path)),
            Ok(kind) if !kind.is_dir() => Err(Refusal::usage(format!(
                "{} is no folder and no block device; name the folder that the files go to",
                path.display()
            ))),
            _ => Ok(folder(path, options)),
        },
        Place::Command(_) | Place::Standard | Place::Null => Err(Refusal::usage(format!(
            "--to is a folder, an NBD URI or a block device, and not {}",
            options.to.display()
        ))),
    }
}

fn folder(path: PathBuf, options: &RestoreOptions) -> RestoreTarget {
    RestoreTarget::Folder { path, format: options.format.unwrap_or_default(), force: options.force }
}

/// Where some disks are right, the others are told one by one. Where none is, content that differs
/// goes first: it is what a person has to know.
fn exit_of(report: &RestoreReport) -> Exit {
    let exit = |disk: &RestoredDisk| disk.outcome.as_ref().err().map_or(Exit::Done, Exit::of_read);
    // Disks that went with their new VM did so for the sake of others, which count.
    let is_cause = |disk: &&RestoredDisk| !matches!(disk.outcome, Err(ReadError::NotKept { .. }));
    let exits: Vec<Exit> = report.disks.iter().filter(is_cause).map(exit).collect();
    if exits.contains(&Exit::Differs) && !exits.contains(&Exit::Done) {
        return Exit::Differs;
    }
    Exit::of_lanes(exits.iter().copied())
}
