//! What becomes of the leases of a hub that was ended or killed.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::error::PortError;
use super::lease::{Claimed, PortLease};
use super::pool::Ports;
use super::table::{Hold, Stage};
use crate::catalog::{ClaimKind, JobId, Jobs, Lease, Leases, SqliteCatalog};
use crate::export::{ExportError, Listener};

/// How long the exports of a hub that was killed may take to be gone, which ends with it and
/// have its ports open until then.
const BIND_DEADLINE: Duration = Duration::from_secs(5);
/// Between two attempts at such a port: there is nothing of somebody else's process to wait on.
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// What was found at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Ports that their callers still have: they are bound again.
    pub adopted: Vec<PortLease>,
    /// Why others are free now, a line each.
    pub undone: Vec<String>,
}

impl Ports {
    /// Opens the pool, adopts the ports of jobs that their callers named, and undoes those of this
    /// hub's own jobs, which start anew or are over.
    pub(crate) fn open(
        range: RangeInclusive<u16>,
        own: Arc<SqliteCatalog>,
        callers: Arc<SqliteCatalog>,
    ) -> Result<(Self, Recovery), PortError> {
        let mut recovery = Recovery::default();
        for lease in own.leases()? {
            if of_port(&lease) {
                let why = format!("job {} of this hub no longer runs", lease.owner);
                undo(&own, &[lease], &why, &mut recovery)?;
            }
        }
        let ports = Self::with(range, own, Arc::clone(&callers));
        let mut left = callers.leases()?;
        let until = Instant::now() + BIND_DEADLINE;
        while let Some(lease) = left.first().cloned() {
            // The export's lease follows on that of its port; any order would do.
            let fits =
                |other: &Lease| port_of(other).is_some() && port_of(other) == port_of(&lease);
            let (group, rest) = left.into_iter().partition::<Vec<_>, _>(|other| {
                other.id == lease.id || (other.owner == lease.owner && fits(other))
            });
            left = rest;
            adopt(&ports, &callers, &group, until, &mut recovery)?;
        }
        Ok((ports, recovery))
    }
}

fn adopt(
    ports: &Ports,
    callers: &SqliteCatalog,
    group: &[Lease],
    until: Instant,
    recovery: &mut Recovery,
) -> Result<(), PortError> {
    let owner = group[0].owner;
    let Some(Claimed { port, disk, node }) = whole(group, owner) else {
        return undo(callers, group, "the lease is not whole", recovery);
    };
    let job = callers.job(owner)?;
    let listener = match bind(port, until) {
        Ok(listener) => listener,
        Err(error) => return undo(callers, group, &error.to_string(), recovery),
    };
    let since = group[0].created;
    let lease = PortLease { since, ..PortLease::new(port, &job, &disk, node.as_ref()) };
    let leases = group.iter().map(|lease| lease.id).collect();
    let hold = Hold { leases, listener, named: true, uses: 0 };
    ports.table().put(lease.clone(), Stage::Held(hold));
    recovery.adopted.push(lease);
    Ok(())
}

/// What is leased, where both the port and the export on it are.
fn whole(group: &[Lease], owner: JobId) -> Option<Claimed> {
    let claimed = group.iter().find_map(|lease| PortLease::of_claim(&lease.claim, owner))?;
    let has_port = |lease: &Lease| lease.claim.port_number() == Some(claimed.port);
    group.iter().any(has_port).then_some(claimed)
}

fn bind(port: u16, until: Instant) -> Result<Listener, ExportError> {
    loop {
        match Listener::tcp(port) {
            Err(ExportError::PortInUse { .. }) if Instant::now() < until => {
                thread::sleep(BIND_PAUSE);
            }
            other => return other,
        }
    }
}

fn undo(
    catalog: &SqliteCatalog,
    leases: &[Lease],
    why: &str,
    recovery: &mut Recovery,
) -> Result<(), PortError> {
    for lease in leases {
        catalog.release(lease.id, lease.owner)?;
        if lease.claim.kind() == ClaimKind::Port {
            recovery.undone.push(format!("{} is free again: {why}", lease.claim));
        }
    }
    Ok(())
}

/// Whether it is a port's lease, or that of the export on one.
fn of_port(lease: &Lease) -> bool {
    port_of(lease).is_some()
}

fn port_of(lease: &Lease) -> Option<u16> {
    match lease.claim.kind() {
        ClaimKind::Port => lease.claim.port_number(),
        ClaimKind::Export => {
            PortLease::of_claim(&lease.claim, lease.owner).map(|claimed| claimed.port)
        }
        _ => None,
    }
}
