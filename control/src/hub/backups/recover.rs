//! What an earlier run of the hub has left.

use super::repositories::Repositories;
use crate::catalog::{
    CatalogError, ClaimKind, FailureKind, JobFilter, JobState, Jobs, Leases, Points, SqliteCatalog,
};

/// Ends the jobs of a hub that is gone: those whose point is published are done, the others have
/// failed. Their ports are given back by [`Ports`](crate::hub::Ports), their folders by the
/// repositories, and the VMs that they had here.
pub(super) fn settle(
    catalog: &SqliteCatalog,
    repositories: &Repositories,
) -> Result<(), CatalogError> {
    use JobState::{Copying, Done, Planning, Publishing, Queued};
    let states = vec![Queued, Planning, Copying, Publishing];
    for job in catalog.jobs(&JobFilter { states, ..JobFilter::default() })? {
        let mut published = None;
        for (_, repository) in repositories.iter() {
            published = published.or(repository.catalog().point_of(job.id)?);
        }
        match published {
            // It publishes in that state only.
            Some(point) if job.state == Publishing => {
                catalog.advance(job.id, Done, &format!("published point {}", point.id))?;
            }
            _ => {
                let reason = format!("the hub ended while it was {}", job.state);
                catalog.fail(job.id, FailureKind::Other, &reason)?;
            }
        }
    }
    // Nobody is at work yet, so whoever holds a VM is dead. An earlier version kept VMs here, which
    // the repositories do now.
    for lease in catalog.leases()? {
        if matches!(lease.claim.kind(), ClaimKind::Image | ClaimKind::Snapshot) {
            catalog.release(lease.id, lease.owner)?;
        }
    }
    Ok(())
}
