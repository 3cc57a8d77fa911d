//! One job, on a thread of its own.

use std::sync::Arc;

use super::queue::{Shared, Ticket};
use crate::backup::{Ground, Run, Watch};
use crate::catalog::{JobState, Jobs};
use crate::hub::PortLease;

/// Runs a job to its end, which it notes in the catalog and tells on the feed.
pub(super) fn run(shared: &Shared, ticket: &Ticket, ports: Vec<PortLease>) {
    let work = match ticket.repository.begin_for(ticket.job.id) {
        Ok(work) => work,
        Err(error) => {
            let ended = shared.catalog.advance(ticket.job.id, JobState::Failed, &error.to_string());
            return match ended {
                Ok(job) => ticket.feed.job(&job),
                Err(unnoted) => ticket.feed.note(&format!("the job's end is not noted: {unnoted}")),
            };
        }
    };
    let ground = Ground {
        repository: ticket.repository.clone(),
        jobs: Arc::clone(&shared.catalog),
        exports: Arc::clone(&shared.exports),
        ports: Some((Arc::clone(&shared.ports), ports)),
    };
    let watch: Arc<dyn Watch> = Arc::new(ticket.feed.clone());
    let run = Run {
        ground: &ground,
        request: &ticket.request,
        settings: &shared.settings,
        watch: &watch,
        cancellation: &ticket.cancellation,
        job: ticket.job.id,
    };
    // How it ended is noted and told by the run itself.
    let _ = run.to_end(work);
}
