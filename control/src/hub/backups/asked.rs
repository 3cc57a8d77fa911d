//! What a backup is asked for, as a hash: a key that is used again has to stand for the same.

use blockferry_dataplane::nbd::without_passwords;
use serde_json::{Value, json};

use super::repositories::RepositoryName;
use crate::backup::{Changes, DiskRequest, SnapshotChoice};
use crate::catalog::{BackupMode, RequestHash};
use crate::hub::NodeName;
use crate::snapshots::QuiescePolicy;

/// All that can be said of a backup when it is asked for, in the words of whoever asks.
pub(super) struct Asked<'a> {
    /// What the VM is called in the repository.
    pub(super) vm: &'a str,
    /// The word that it is found by at its hypervisor, where that has another name for it.
    pub(super) sought: Option<&'a str>,
    pub(super) mode: BackupMode,
    pub(super) repository: Option<&'a RepositoryName>,
    pub(super) node: Option<&'a NodeName>,
    /// None of a VM of a node's hypervisor.
    pub(super) disks: &'a [DiskRequest],
    /// What is chosen for the snapshot of such a VM.
    pub(super) choice: SnapshotChoice,
}

impl Asked<'_> {
    /// What tells it from any other one. It is kept: what is added here is left out where nothing is
    /// said of it, or keys of before an update would stand for something else after it.
    pub(super) fn hash(&self) -> RequestHash {
        let mut words = json!({
            "vm": self.vm,
            "mode": self.mode.as_str(),
            "repository": self.repository.map(RepositoryName::as_str),
            "node": self.node.map(NodeName::as_str),
            "disks": self.disks.iter().map(disk).collect::<Vec<_>>(),
        });
        if let Some(sought) = self.sought {
            words["sought"] = sought.into();
        }
        if !self.choice.is_none() {
            let SnapshotChoice { quiesce, audit_percent, enable_tracking } = self.choice;
            words["snapshot"] =
                json!([quiesce.map(QuiescePolicy::as_str), audit_percent, enable_tracking]);
        }
        let hash = blake3::hash(words.to_string().as_bytes()).to_hex();
        hash.parse().expect("a hash of BLAKE3 has 64 hexadecimal digits")
    }
}

fn disk(disk: &DiskRequest) -> Value {
    let (areas, bitmap) = match &disk.changes {
        Changes::Areas(areas) => (Some(areas), None),
        Changes::Bitmap(name) => (None, Some(name)),
        Changes::Compared | Changes::Tracked { .. } => (None, None),
    };
    let pairs = |area: blockferry_dataplane::plan::Area| (area.start, area.length);
    json!({
        "name": disk.name.as_str(),
        "uuid": disk.uuid.as_ref().map(ToString::to_string),
        "source": without_passwords(&disk.source.to_string()),
        "areas": areas.map(|areas| areas.iter().map(pairs).collect::<Vec<_>>()),
        "bitmap": bitmap,
    })
}

#[cfg(test)]
mod tests {
    use blockferry_dataplane::Endpoint;
    use blockferry_dataplane::plan::{Area, AreaSet};

    use super::*;

    fn disk_at(source: &str) -> DiskRequest {
        DiskRequest {
            name: "root".parse().unwrap(),
            uuid: None,
            source: Endpoint::nbd(source.parse().unwrap()),
            changes: Changes::Compared,
        }
    }

    #[test]
    fn whatever_is_asked_for_otherwise_has_another_hash_and_the_same_has_the_same() {
        let (weekly, rack2) = ("weekly".parse().unwrap(), "rack2".parse().unwrap());
        let disks = [disk_at("nbd://h:1/x")];
        let other_source = [disk_at("nbd://h:1/y")];
        let changed = AreaSet::from_unsorted([Area::new(0, 512)], 1 << 20).unwrap();
        let areas = [DiskRequest { changes: Changes::Areas(changed), ..disk_at("nbd://h:1/x") }];
        let (vm, mode) = ("db1", BackupMode::Auto);
        let choice = SnapshotChoice::default();
        let one = || Asked {
            vm,
            sought: None,
            mode,
            repository: None,
            node: None,
            disks: &disks,
            choice,
        };
        let audited = |percent| SnapshotChoice { audit_percent: Some(percent), ..choice };
        assert_eq!(one().hash(), one().hash());
        let others = [
            Asked { vm: "db2", ..one() },
            Asked { sought: Some("db1"), ..one() },
            Asked { sought: Some("dc/db1"), ..one() },
            Asked { mode: BackupMode::Full, ..one() },
            Asked { repository: Some(&weekly), ..one() },
            Asked { node: Some(&rack2), ..one() },
            Asked { disks: &[], ..one() },
            Asked { disks: &other_source, ..one() },
            Asked { disks: &areas, ..one() },
            Asked { choice: audited(0), ..one() },
            Asked { choice: audited(1), ..one() },
        ];
        for (at, other) in others.iter().enumerate() {
            assert_ne!(other.hash(), one().hash(), "{at}");
            assert!(others[..at].iter().all(|before| before.hash() != other.hash()), "{at}");
        }
    }
}
