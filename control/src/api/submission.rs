//! What a client asks for when it asks for a backup, and what of it is taken.

use std::str::FromStr;

use axum::http::StatusCode;
use blockferry_dataplane::Endpoint;
use blockferry_dataplane::nbd::NbdUri;
use blockferry_dataplane::plan::{Area, AreaSet};
use serde::Deserialize;
use utoipa::ToSchema;

use super::body::Object;
use super::error::ApiError;
use crate::backup::{BackupRequest, Changes, DiskRequest, VmRequest, names_files};
use crate::catalog::{BackupMode, IdempotencyKey};
use crate::hub::{NodeName, RepositoryName};
use crate::record::ChoiceRecord;

/// Longest name of a dirty bitmap, in bytes; NBD has 4,096 for it with what stands before it.
const MAX_BITMAP_BYTES: usize = 1024;
/// Longest word that a VM is found by, in bytes: paths have many parts.
const MAX_WORD_BYTES: usize = 2000;

/// A backup that is asked for: all disks of a VM, into one point. The patterns are the rules of
/// `catalog::{VmName, DiskName, DiskUuid}` and `hub::RepositoryName`, for programs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Submission {
    /// The VM: its name, in at most 200 bytes, and without `disks` also its path, `uuid=...` or
    /// `moref=...` at the node's vCenter.
    #[schema(
        min_length = 1,
        max_length = 2000,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$",
        example = "db1"
    )]
    vm: String,
    /// What a VM of the node's vCenter is called in the repository, if not as it is; not with `disks`.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\s.\-/\\\u0000-\u001f\u007f-\u009f]([^/\\\u0000-\u001f\u007f-\u009f]*[^\s/\\\u0000-\u001f\u007f-\u009f])?$",
        example = "db1-old"
    )]
    #[serde(rename = "as")]
    name: Option<String>,
    /// Its disks, each of another name: no more than the hub has ports. Without them the VM is one of
    /// the node's vCenter or ESXi host, and all its disks are backed up by one snapshot.
    #[schema(value_type = Vec<SubmittedDisk>)]
    #[serde(default)]
    disks: Vec<Object<SubmittedDisk>>,
    /// auto (the default): what has changed, where that can be told, else all; full; or
    /// incremental: or fail.
    #[schema(pattern = "^(auto|full|incremental)$", example = "auto")]
    mode: Option<String>,
    /// The repository of the hub; where there is but one, it need not be named.
    #[schema(pattern = "^[a-z0-9_-]{1,64}$", example = "default")]
    repository: Option<String>,
    /// The node that reads the disks, which are named as it sees them; without one the hub does.
    #[schema(pattern = "^[a-z0-9_-]{1,64}$", example = "esx-rack2")]
    node: Option<String>,
    /// How the snapshot of a VM of the node's vCenter is made, where that is to be otherwise than the
    /// node does it; not with `disks`.
    #[schema(value_type = Option<ChoiceRecord>)]
    snapshot: Option<Object<ChoiceRecord>>,
    /// Asking again with the same key gives the same job. It may come as the header
    /// `Idempotency-Key` instead.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[!-~]+$", example = "db1-2026-11-24")]
    idempotency_key: Option<String>,
}

/// A disk to back up. What has changed is told by `changed` or by `bitmap`, not by both; with
/// neither, all is read and compared with the digests of the newest point.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SubmittedDisk {
    /// Its name, in at most 200 bytes. The next backup of the same name continues its chain.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\s.\-/\\\u0000-\u001f\u007f-\u009f]([^/\\\u0000-\u001f\u007f-\u009f]*[^\s/\\\u0000-\u001f\u007f-\u009f])?$",
        example = "root"
    )]
    name: String,
    /// Where the hub reads it, or the node: an NBD URI over TCP, as nbd://HOST:PORT/EXPORT. A node
    /// may allow others.
    #[schema(
        pattern = r"^nbds?://[a-z0-9.-]+(:[0-9]{1,5})?(/[!-~]*)?$",
        example = "nbd://127.0.0.1:10809/root"
    )]
    source: String,
    /// What it is known by, whatever it is called.
    #[schema(min_length = 1, max_length = 128, pattern = r"^[!-~]+$")]
    uuid: Option<String>,
    /// What has changed since the newest point. Whoever gives it vouches for it.
    #[schema(value_type = Option<Vec<ChangedArea>>)]
    changed: Option<Vec<Object<ChangedArea>>>,
    /// The dirty bitmap of the source that marks what has changed since then.
    #[schema(min_length = 1, max_length = 1024, example = "daily")]
    bitmap: Option<String>,
}

/// Bytes that may have changed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangedArea {
    /// First byte.
    start: u64,
    /// Bytes.
    length: u64,
}

/// A submission that was checked.
pub(super) struct Asked {
    pub(super) what: What,
    pub(super) repository: Option<RepositoryName>,
    pub(super) key: Option<IdempotencyKey>,
}

/// What is to be backed up.
pub(super) enum What {
    /// Disks that are named, by the node that reads them if the hub does not.
    Disks(BackupRequest, Option<NodeName>),
    /// A VM of the node's hypervisor.
    Vm(VmRequest, NodeName),
}

impl Submission {
    /// Checks it; `header` is the key that came beside it.
    pub(super) fn check(
        self,
        header: Option<&str>,
        local_sources: bool,
    ) -> Result<Asked, ApiError> {
        let key = match (header, self.idempotency_key.as_deref()) {
            (Some(header), Some(field)) if header != field => {
                return Err(ApiError::unfit(
                    "the header Idempotency-Key and the field idempotency_key differ",
                ));
            }
            (header, field) => header.or(field).map(IdempotencyKey::from_str).transpose()?,
        };
        let mode = self.mode.as_deref().map_or(Ok(BackupMode::Auto), str::parse)?;
        let repository = self.repository.as_deref().map(RepositoryName::from_str).transpose();
        let node = self.node.as_deref().map(NodeName::from_str).transpose();
        let node = node.map_err(ApiError::unfit)?;
        // Which files of its machine a node opens is the node's to say.
        let local_sources = local_sources || node.is_some();
        let choice = self.snapshot.map(|Object(choice)| choice.choice()).transpose();
        let choice = choice.map_err(|what| ApiError::unfit(format!("snapshot.{what}")))?;
        let what = match node {
            Some(node) if self.disks.is_empty() => {
                let name = self.name.as_deref().map(str::parse).transpose()?;
                let choice = choice.unwrap_or_default();
                What::Vm(VmRequest { vm: word(self.vm)?, name, mode, choice }, node)
            }
            node => {
                for (given, what) in [(choice.is_some(), "snapshot"), (self.name.is_some(), "as")] {
                    if given {
                        return Err(ApiError::unfit(format!(
                            "{what} is about a VM of a node's vCenter: name the node, and no disks"
                        )));
                    }
                }
                let disks = self.disks.into_iter().map(|Object(disk)| disk.check(local_sources));
                let disks = disks.collect::<Result<_, _>>()?;
                What::Disks(BackupRequest { vm: self.vm.parse()?, disks, mode }, node)
            }
        };
        Ok(Asked { what, repository: repository.map_err(ApiError::unfit)?, key })
    }
}

/// What a VM is found by at a hypervisor.
fn word(word: String) -> Result<String, ApiError> {
    if word.is_empty() || word.len() > MAX_WORD_BYTES || word.chars().any(char::is_control) {
        return Err(ApiError::unfit(format!(
            "vm has 1 to {MAX_WORD_BYTES} bytes and no control characters"
        )));
    }
    Ok(word)
}

impl SubmittedDisk {
    fn check(self, local_sources: bool) -> Result<DiskRequest, ApiError> {
        let source = source(&self.source, &self.name, local_sources)?;
        let changes = match (self.changed, self.bitmap) {
            (None, None) => Changes::Compared,
            (Some(areas), None) => Changes::Areas(area_set(areas, &self.name)?),
            (None, Some(bitmap)) => Changes::Bitmap(bitmap_name(&bitmap, &self.name)?),
            (Some(_), Some(_)) => {
                let name = &self.name;
                let said = "what changed is told twice: give changed or bitmap";
                return Err(ApiError::unfit(format!("disk {name:?}: {said}")));
            }
        };
        Ok(DiskRequest {
            name: self.name.parse()?,
            uuid: self.uuid.as_deref().map(str::parse).transpose()?,
            source,
            changes,
        })
    }
}

/// The source of a disk, if the hub may read it.
pub(super) fn source(uri: &str, disk: &str, local_sources: bool) -> Result<Endpoint, ApiError> {
    let uri: NbdUri = uri
        .parse()
        .map_err(|error| ApiError::unfit(format!("the source of disk {disk:?}: {error}")))?;
    if names_files(&uri) && !local_sources {
        return Err(local_source(disk));
    }
    Ok(Endpoint::nbd(uri))
}

fn local_source(disk: &str) -> ApiError {
    ApiError::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "local_source",
        format!(
            "the source of disk {disk:?} names files of the hub's machine (a Unix socket, or \
             certificates), which a token does not open"
        ),
        "serve the disk over TCP, or start the hub with --local-sources",
    )
}

fn area_set(areas: Vec<Object<ChangedArea>>, disk: &str) -> Result<AreaSet, ApiError> {
    let areas = areas.iter().map(|Object(area)| Area::new(area.start, area.length));
    // The size of the disk is not known yet; the lane checks the areas against it.
    AreaSet::from_unsorted(areas, u64::MAX)
        .map_err(|error| ApiError::unfit(format!("what changed on disk {disk:?}: {error}")))
}

fn bitmap_name(name: &str, disk: &str) -> Result<String, ApiError> {
    // What nbdinfo shows is the name behind a prefix.
    let name = name.strip_prefix("qemu:dirty-bitmap:").unwrap_or(name);
    if (1..=MAX_BITMAP_BYTES).contains(&name.len()) && !name.chars().any(char::is_control) {
        Ok(name.to_owned())
    } else {
        Err(ApiError::unfit(format!(
            "the bitmap of disk {disk:?} has 1 to {MAX_BITMAP_BYTES} bytes and no control \
             characters"
        )))
    }
}
