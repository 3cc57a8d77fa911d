//! Verifies, and tells what was found.

use blockferry_control::catalog::{DiskName, Points};
use blockferry_control::reading::{AgainstOutcome, Content, VerifyReport, VerifyRequest, verify};
use blockferry_control::repository::RepositoryError;
use blockferry_dataplane::{Counts, Fault};

use super::options::VerifyOptions;
use super::telling::{Json, finding, summary};
use crate::backup::source;
use crate::exit::{Exit, Refusal};
use crate::output::{json, tell};
use crate::reading::{refusal, settings, watched};

/// `blockferry verify`.
///
/// # Errors
/// What differs, or why that could not be found out.
pub(crate) fn command(options: &VerifyOptions) -> anyhow::Result<Exit> {
    let as_json = |ended: Result<&VerifyReport, (Exit, String)>| match ended {
        Ok(report) => json::print(&Json::of(exit_of(report), report)),
        Err((exit, words)) => json::print(&Json::of_failure(exit, words)),
    };
    let untold = |_: &VerifyReport| "what was found could not be told".to_owned();
    let report = tell(verify_as_asked(options), options.output.json, as_json, summary, untold)?;
    match exit_of(&report) {
        Exit::Done => Ok(Exit::Done),
        exit => Err(Refusal::of(exit, finding(&report))),
    }
}

fn verify_as_asked(options: &VerifyOptions) -> anyhow::Result<VerifyReport> {
    let mut against = Vec::with_capacity(options.against.len());
    for named in &options.against {
        if !options.disk.is_empty() && !options.disk.contains(&named.disk) {
            let disk = &named.disk;
            return Err(Refusal::usage(format!("--against is about {disk}, and --disk is not")));
        }
        against.push((named.disk.clone(), source(named)?));
    }
    let request = VerifyRequest {
        points: options.point.into_iter().collect(),
        disks: options.disk.clone(),
        against,
    };
    let repository = options.repository.open()?;
    if let Some(point) = options.point {
        let failed = |error: RepositoryError| refusal(&error.into());
        let layers = repository.catalog().layers(point).map_err(|error| failed(error.into()))?;
        let has: Vec<DiskName> = layers.into_iter().map(|layer| layer.disk_name).collect();
        if let Some((disk, _)) = request.against.iter().find(|(disk, _)| !has.contains(disk)) {
            return Err(failed(RepositoryError::NoSuchDisk { point, disk: disk.clone(), has }));
        }
    }
    let settings = settings(&options.lane);
    let totals = |report: &VerifyReport| {
        let disks = report.points.iter().flat_map(|point| &point.disks);
        disks.fold(Counts::default(), |sum, disk| sum.plus(&disk.counts))
    };
    watched(&options.output, totals, |watch, cancellation| {
        verify(&repository, &request, &settings, watch, cancellation)
    })
}

fn exit_of(report: &VerifyReport) -> Exit {
    let mut disks = report.points.iter().flat_map(|point| &point.disks);
    let differs = !report.damage.is_empty() || disks.any(|disk| disk.content != Content::Same);
    let live = |wanted: fn(&AgainstOutcome) -> bool| {
        report.against.iter().any(|against| wanted(&against.outcome))
    };
    if differs
        || live(|outcome| {
            matches!(outcome, AgainstOutcome::Differs(_) | AgainstOutcome::Size { .. })
        })
    {
        Exit::Differs
    } else if live(|outcome| matches!(outcome, AgainstOutcome::Failed(Fault::Request(_)))) {
        Exit::Usage
    } else if live(|outcome| matches!(outcome, AgainstOutcome::Failed(_))) {
        Exit::Source
    } else {
        Exit::Done
    }
}
