//! What jobs that are over have left at nodes: a hub that was killed has told nobody of their end,
//! and a node that was away has not heard of it. It would let go by itself, but only after it has
//! heard nothing for long, and its VM could not be backed up until then.

use std::sync::PoisonError;
use std::time::Duration;

use super::queue::Shared;
use crate::catalog::{JobId, Jobs};

/// How often a node is asked that may have something left.
const PERIOD: Duration = Duration::from_secs(5);

impl Shared {
    /// Looks after nodes until the hub stops.
    pub(super) fn dismiss_strays(&self) {
        let Some(nodes) = &self.nodes else { return };
        let mut state = self.state();
        while !state.stopping {
            let asked = std::mem::take(&mut state.strays_at);
            if asked.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(state);
            let mut left = asked;
            left.retain(|node| !nodes.dismiss_strays(node, |job| self.is_over(job)));
            state = self.state();
            state.strays_at.append(&mut left);
            if !state.strays_at.is_empty() && !state.stopping {
                let waited = self.changed.wait_timeout(state, PERIOD);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// Whether it is a job of this hub, and nobody here looks after it any more: one that is done still
    /// waits for its node to let the VM go, and for what that has to say.
    fn is_over(&self, job: JobId) -> bool {
        !self.state().running.contains_key(&job)
            && self.catalog.job(job).is_ok_and(|job| job.state.is_over())
    }
}
