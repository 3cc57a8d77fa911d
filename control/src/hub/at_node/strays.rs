//! What nodes have of jobs that are over at the hub.

use std::time::Instant;

use hyper::Method;

use super::lines::{HEALTH_DEADLINE, NodesAtWork};
use crate::call::{CallError, Sent};
use crate::catalog::JobId;
use crate::hub::NodeName;
use crate::node::PassId;
use crate::node::wire::{Done, JobsRecord, SnapshotAnswer};

impl NodesAtWork {
    /// Has a node call off what it does for jobs that are over, and let their VMs go. Whether it has
    /// nothing of such jobs any more; of one that is no node any more nothing is known, and nothing will
    /// be.
    pub(in super::super) fn dismiss_strays(
        &self,
        node: &NodeName,
        is_over: impl Fn(JobId) -> bool,
    ) -> bool {
        let Ok(callee) = self.callee(node) else { return true };
        let due = Instant::now() + HEALTH_DEADLINE;
        let late = || Instant::now() >= due;
        let Ok(there) = callee.ask::<JobsRecord>(&late, Method::GET, "/jobs", Sent::Nothing) else {
            return false;
        };
        let passes = there.jobs.iter().filter_map(|id| id.parse::<PassId>().ok());
        let strays: Vec<PassId> = passes.filter(|pass| is_over(pass.job)).collect();
        for pass in &strays {
            let call = format!("/jobs/{pass}");
            // One that is gone meanwhile is what is wanted, and one that is not is there the next time.
            let _: Result<Done, CallError> =
                callee.ask(&late, Method::DELETE, &call, Sent::Nothing);
        }
        let held = there.snapshots.iter().filter_map(|id| id.parse::<JobId>().ok());
        let held: Vec<JobId> = held.filter(|job| is_over(*job)).collect();
        for job in &held {
            // What still reads it ends first.
            if strays.iter().all(|pass| pass.job != *job) {
                let call = format!("/jobs/{job}/snapshot");
                let _: Result<SnapshotAnswer, CallError> =
                    callee.ask(&late, Method::DELETE, &call, Sent::Nothing);
            }
        }
        strays.is_empty() && held.is_empty()
    }
}
