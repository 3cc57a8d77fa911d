//! Lists points, or deletes one.

use std::io::{self, Write};

use anyhow::Context as _;
use blockferry_control::client::PointsWanted;
use blockferry_control::reading::list_points;
use blockferry_control::record::PointRecord;
use blockferry_control::repository::{Repository, RepositoryError};

use super::options::{Action, DeleteOptions, PointsOptions};
use super::telling::{Deleted, Json, listing};
use crate::exit::{Exit, Refusal};
use crate::output::{json, line, print};
use crate::reading::{open, refusal};
use crate::remote::{self, repository_name};

/// `blockferry points`.
///
/// # Errors
/// Why there is no list, or why a point is still there.
pub(crate) fn command(options: &PointsOptions) -> anyhow::Result<Exit> {
    if let Some(Action::Delete(options)) = &options.action {
        return delete(options);
    }
    let listed = list(options);
    let told = match &listed {
        Ok(points) if options.json => json::print(&Json::of(points)),
        Ok(points) => print(&listing(points)),
        Err(error) if options.json => {
            json::print(&Json::of_failure(Exit::of_error(error), format!("{error:#}")))
        }
        Err(_) => Ok(()),
    };
    ended(listed.map(|_points| ()), told)
}

fn list(options: &PointsOptions) -> anyhow::Result<Vec<PointRecord>> {
    if let Some(hub) = options.remote.client()? {
        let repository = repository_name(options.repository.as_ref())?;
        let wanted = PointsWanted { vm: options.vm.clone(), repository };
        return hub.points(&wanted).map_err(|error| remote::refusal(&error));
    }
    let root = options.repository.as_deref().context("--repository is required")?;
    let failed = |error: RepositoryError| refusal(&error.into());
    let repository = open(root).map_err(failed)?;
    let points = list_points(&repository, options.vm.clone()).map_err(failed)?;
    Ok(points.iter().map(PointRecord::from).collect())
}

fn deleted(options: &DeleteOptions) -> anyhow::Result<()> {
    if let Some(hub) = options.remote.client()? {
        let name = repository_name(options.repository.as_ref())?;
        return hub
            .delete_point(options.point, name.as_ref())
            .map_err(|error| remote::refusal(&error));
    }
    let root = options.repository.as_deref().context("--repository is required")?;
    // What is deleted is written: the repository is the target.
    let failed =
        |error: RepositoryError| Refusal::of(Exit::of_repository(&error), error.to_string());
    let repository = Repository::open_to_delete(root).map_err(failed)?;
    repository.delete(options.point).map_err(failed)
}

fn delete(options: &DeleteOptions) -> anyhow::Result<Exit> {
    let deleted = deleted(options);
    let told = match &deleted {
        Ok(()) if options.json => json::print(&Deleted::of(options.point.as_str())),
        Ok(()) => {
            let mut output = io::stdout().lock();
            writeln!(output, "point {} is deleted", options.point)
                .context("writing to standard output")
        }
        Err(error) if options.json => {
            let (exit, words) = (Exit::of_error(error), format!("{error:#}"));
            json::print(&Deleted::of_failure(exit, words, options.point.as_str()))
        }
        Err(_) => Ok(()),
    };
    ended(deleted, told)
}

fn ended(ended: anyhow::Result<()>, told: anyhow::Result<()>) -> anyhow::Result<Exit> {
    match (ended, told) {
        (Ok(()), told) => told.map(|()| Exit::Done),
        (Err(error), told) => {
            if let Err(untold) = told {
                line(&format!("{untold:#}"));
            }
            Err(error)
        }
    }
}
