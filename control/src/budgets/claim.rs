//! What a job needs, and what is in its way.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// VMware recommends at most 50 disks at once of a host, whose memory for transfers is 48 MB up to
/// 7.0; this leaves it to others too.
const DISKS_PER_HOST: u32 = 8;
/// Transfers (NFC) through one vCenter, as VMware documents them.
const CONNECTIONS_PER_SERVER: u32 = 52;
/// A snapshot grows on its datastore with all that its VM writes, and is merged there.
const SNAPSHOTS_PER_DATASTORE: u32 = 4;

/// What is limited. Each has the ids of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// Disks of a host that are open at once.
    Host,
    /// Disks that are open at once through one vCenter, or one ESXi host that is asked itself.
    Server,
    /// Snapshots on a datastore.
    Datastore,
}

/// How much may be taken at once; 0 is without limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Disks of one host.
    pub disks_per_host: u32,
    /// Disks through one server, each of which is a connection there.
    pub connections_per_server: u32,
    /// VMs with a snapshot on one datastore.
    pub snapshots_per_datastore: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            disks_per_host: DISKS_PER_HOST,
            connections_per_server: CONNECTIONS_PER_SERVER,
            snapshots_per_datastore: SNAPSHOTS_PER_DATASTORE,
        }
    }
}

impl Limits {
    fn of(&self, pool: Pool) -> u32 {
        match pool {
            Pool::Host => self.disks_per_host,
            Pool::Server => self.connections_per_server,
            Pool::Datastore => self.snapshots_per_datastore,
        }
    }
}

/// A part of what a job needs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Share {
    /// Of which kind.
    pub pool: Pool,
    /// The server that has it: what it is the same server by, or else its name.
    pub server: String,
    /// The server's id of it.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Disks, or snapshots.
    pub amount: u32,
}

impl Share {
    fn key(&self) -> Key<'_> {
        (self.pool, &self.server, &self.id)
    }
}

/// All that a job needs at once.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Claim {
    /// The job.
    pub job: String,
    /// Where its VM stands, for people.
    pub vm: String,
    /// Its parts.
    pub shares: Vec<Share>,
}

/// A claim as it stands among others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Standing {
    pub(super) claim: Claim,
    /// Its turn: who came before has a lower one.
    pub(super) ticket: u64,
    /// Whether it has its shares, or waits for them.
    pub(super) granted: bool,
}

/// What a claim waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Obstacle {
    share: Share,
    limit: u32,
    /// The VMs that have a part of it, and how much.
    has: Vec<(String, u32)>,
    /// The VMs whose turn comes before.
    before: Vec<(String, u32)>,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { share: Share { pool, name, amount, .. }, limit, .. } = self;
        let used: u32 = self.has.iter().map(|(_, amount)| amount).sum();
        match pool {
            Pool::Host => write!(f, "disks of host {name}: {amount}")?,
            Pool::Server => write!(f, "connections of {name}: {amount}")?,
            Pool::Datastore => write!(f, "snapshots on datastore {name}: {amount}")?,
        }
        write!(f, ", where {used} of {limit} are taken")?;
        told(f, "by VM", &self.has)?;
        told(f, "and before it is VM", &self.before)
    }
}

fn told(f: &mut fmt::Formatter<'_>, words: &str, vms: &[(String, u32)]) -> fmt::Result {
    for (at, (vm, amount)) in vms.iter().enumerate() {
        let words = if at == 0 { format!(" {words}") } else { ",".to_owned() };
        write!(f, "{words} {vm} ({amount})")?;
    }
    Ok(())
}

/// Kind, server and id.
type Key<'a> = (Pool, &'a str, &'a str);

/// Who counts in each pool, and by how much.
#[derive(Default)]
struct Taken<'a> {
    pools: BTreeMap<Key<'a>, Vec<(&'a Standing, u32)>>,
}

impl<'a> Taken<'a> {
    fn add(&mut self, by: &'a Standing, share: &'a Share) {
        self.pools.entry(share.key()).or_default().push((by, share.amount));
    }

    fn obstacle(&self, share: &Share, limits: &Limits) -> Option<Obstacle> {
        let limit = limits.of(share.pool);
        let all = self.pools.get(&share.key()).map(Vec::as_slice).unwrap_or_default();
        let used = all.iter().fold(0_u32, |sum, (_, amount)| sum.saturating_add(*amount));
        // One that needs more than there is has it alone, rather than never.
        if limit == 0 || used.saturating_add(share.amount.min(limit)) <= limit {
            return None;
        }
        let of = |granted: bool| {
            let some = all.iter().filter(|(by, _)| by.granted == granted);
            some.map(|(by, amount)| (by.claim.vm.clone(), *amount)).collect()
        };
        Some(Obstacle { share: share.clone(), limit, has: of(true), before: of(false) })
    }
}

/// What is in the way of a claim that waits; nothing, if it may have its shares. The others are in
/// the order of their turns.
///
/// Turns are kept: what the first one in the queue waits for, all of its shares, is given to nobody
/// behind it, so it gets them when those end that have them now. Of the others behind it only what
/// each of them lacks is kept back, so that a host that is busy stops nobody on another whose
/// datastore is the same.
pub(super) fn obstacles(mine: &Standing, others: &[Standing], limits: &Limits) -> Vec<Obstacle> {
    let mut taken = Taken::default();
    for other in others.iter().filter(|other| other.granted) {
        other.claim.shares.iter().for_each(|share| taken.add(other, share));
    }
    let queue = others.iter().filter(|other| !other.granted && other.ticket < mine.ticket);
    let mut is_first = true;
    for other in queue {
        let shares = &other.claim.shares;
        let lacks: Vec<bool> =
            shares.iter().map(|share| taken.obstacle(share, limits).is_some()).collect();
        let waits = lacks.contains(&true);
        for (share, lacks) in shares.iter().zip(lacks) {
            if lacks || is_first || !waits {
                taken.add(other, share);
            }
        }
        is_first &= !waits;
    }
    mine.claim.shares.iter().filter_map(|share| taken.obstacle(share, limits)).collect()
}
