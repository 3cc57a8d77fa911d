//! Verifies, and tells what was found.

use blockferry_control::catalog::{DiskName, FailureKind, Points};
use blockferry_control::client::{HubClient, Verification};
use blockferry_control::reading::{VerifyRequest, verify};
use blockferry_control::record::VerifyRecord;
use blockferry_control::repository::RepositoryError;
use blockferry_dataplane::{Counts, Endpoint};

use super::options::VerifyOptions;
use super::telling::{Json, finding, summary};
use crate::backup::{source, source_for_hub};
use crate::exit::{Exit, Refusal};
use crate::output::{json, tell};
use crate::reading::{refusal, settings, watched};
use crate::remote;

/// `blockferry verify`.
///
/// # Errors
/// What differs, or why that could not be found out.
pub(crate) fn command(options: &VerifyOptions) -> anyhow::Result<Exit> {
    let as_json = |ended: Result<&VerifyRecord, (Exit, String)>| match ended {
        Ok(report) => json::print(&Json::of(exit_of(report), report)),
        Err((exit, words)) => json::print(&Json::of_failure(exit, words)),
    };
    let untold = |_: &VerifyRecord| "what was found could not be told".to_owned();
    let report = tell(verify_as_asked(options), options.output.json, as_json, summary, untold)?;
    match exit_of(&report) {
        Exit::Done => Ok(Exit::Done),
        exit => Err(Refusal::of(exit, finding(&report))),
    }
}

fn verify_as_asked(options: &VerifyOptions) -> anyhow::Result<VerifyRecord> {
    let mut against = Vec::with_capacity(options.against.len());
    for named in &options.against {
        if !options.disk.is_empty() && !options.disk.contains(&named.disk) {
            let disk = &named.disk;
            return Err(Refusal::usage(format!("--against is about {disk}, and --disk is not")));
        }
        against.push((named.disk.clone(), source(named)?));
    }
    match options.repository.remote.client()? {
        Some(hub) => verify_by_hub(&hub, options, against),
        None => verify_here(options, against),
    }
}

/// The repository is here.
fn verify_here(
    options: &VerifyOptions,
    against: Vec<(DiskName, Endpoint)>,
) -> anyhow::Result<VerifyRecord> {
    let request = VerifyRequest {
        points: options.point.into_iter().collect(),
        disks: options.disk.clone(),
        against,
    };
    let repository = options.repository.open()?;
    if let (Some(point), false) = (options.point, request.against.is_empty()) {
        let failed = |error: RepositoryError| refusal(&error.into());
        let layers = repository.catalog().layers(point).map_err(|error| failed(error.into()))?;
        let has: Vec<DiskName> = layers.into_iter().map(|layer| layer.disk_name).collect();
        if let Some((disk, _)) = request.against.iter().find(|(disk, _)| !has.contains(disk)) {
            return Err(failed(RepositoryError::NoSuchDisk { point, disk: disk.clone(), has }));
        }
    }
    let settings = settings(&options.lane)?;
    watched(&options.output, totals, |watch, cancellation| {
        let verified = verify(&repository, &request, &settings, watch, cancellation);
        verified.map(|report| (&report).into()).map_err(|error| refusal(&error))
    })
}

/// A hub has it, and reads it.
fn verify_by_hub(
    hub: &HubClient,
    options: &VerifyOptions,
    against: Vec<(DiskName, Endpoint)>,
) -> anyhow::Result<VerifyRecord> {
    options.lane.refuse_for_hub()?;
    let mut sources = Vec::with_capacity(against.len());
    for (disk, source) in against {
        sources.push((disk.clone(), source_for_hub(&disk, source)?));
    }
    let asked = Verification {
        point: options.point,
        repository: options.repository.name()?,
        disks: options.disk.clone(),
        against: sources,
    };
    watched(&options.output, totals, |watch, cancellation| {
        hub.verify(&asked, watch, cancellation).map_err(|error| remote::refusal(&error))
    })
}

fn totals(report: &VerifyRecord) -> Counts {
    report.bytes.into()
}

fn exit_of(report: &VerifyRecord) -> Exit {
    let mut disks = report.points.iter().flat_map(|point| &point.disks);
    let live = |result: &str| report.against.iter().find(|against| against.result == result);
    if !report.damage.is_empty()
        || !report.catalog.is_empty()
        || disks.any(|disk| disk.content != "same")
        || live("differs").is_some()
        || live("size").is_some()
    {
        return Exit::Differs;
    }
    let failed = report.against.iter().filter(|against| against.result == "failed");
    let failures: Vec<_> = failed.map(|against| against.failure.as_deref()).collect();
    if failures.contains(&Some(FailureKind::Request.as_str())) {
        Exit::Usage
    } else if !failures.is_empty() {
        Exit::Source
    } else {
        Exit::Done
    }
}
