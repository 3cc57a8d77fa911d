//! Rows as what they stand for. Each value is checked: a file can be damaged, or made by hand.

use std::str::FromStr;

use rusqlite::types::Type;
use rusqlite::{Error, OptionalExtension, Params, Row};

use super::failure::Outcome;
use crate::catalog::error::CatalogError;
use crate::catalog::id::{DiskId, JobId, LayerId, LeaseId, PointId};
use crate::catalog::job::{Job, JobStep};
use crate::catalog::lease::{Claim, Lease};
use crate::catalog::point::{
    ByteCounts, CheckedFile, Disk, FoundDamage, Layer, LayerFacts, ManifestFacts, Point, PointNote,
};
use crate::catalog::time::UnixMillis;

pub(super) const JOB: &str = "id, vm, mode, state, idempotency_key, created_ms, changed_ms, reason,
    failure, kind, asked";
pub(super) const LEASE: &str = "id, kind, key, owner, created_ms";
pub(super) const DISK: &str = "id, vm, name, uuid";
pub(super) const POINT: &str = "id, vm, created_ms, published_ms, mode, job, vm_uuid";
/// Of `layers` joined with the `points` that they are in.
pub(super) const LAYER: &str = "layers.id, points.id, layers.disk, layers.disk_name, layers.kind,
    layers.reason, layers.parent, layers.path, layers.size_bytes, layers.stored_bytes,
    layers.change_id, layers.digest, layers.manifest_path, layers.read_bytes, layers.zero_bytes,
    layers.sent_bytes, layers.skipped_bytes, layers.manifest_id, layers.damage, layers.damage_ms,
    layers.file_bytes, layers.checked_inode, layers.checked_modified_ns,
    layers.checked_bytes";
pub(super) const LAYERS: &str = "layers JOIN points ON points.number = layers.point";

pub(super) fn job(row: &Row<'_>) -> rusqlite::Result<Job> {
    Ok(Job {
        id: text(row, 0)?,
        vm: text(row, 1)?,
        mode: text(row, 2)?,
        state: text(row, 3)?,
        key: optional(row, 4)?,
        created: time(row, 5)?,
        changed: time(row, 6)?,
        reason: row.get(7)?,
        failure: optional(row, 8)?,
        kind: text(row, 9)?,
        asked: optional(row, 10)?,
    })
}

/// Of `state, at_ms, reason`.
pub(super) fn step(row: &Row<'_>) -> rusqlite::Result<JobStep> {
    Ok(JobStep { state: text(row, 0)?, at: time(row, 1)?, reason: row.get(2)? })
}

pub(super) fn lease(row: &Row<'_>) -> rusqlite::Result<Lease> {
    let number: i64 = row.get(0)?;
    Ok(Lease {
        id: LeaseId::from_number(number).ok_or(Error::IntegralValueOutOfRange(0, number))?,
        claim: Claim::new(text(row, 1)?, &row.get::<_, String>(2)?)
            .map_err(|error| Error::FromSqlConversionFailure(2, Type::Text, Box::new(error)))?,
        owner: text(row, 3)?,
        created: time(row, 4)?,
    })
}

pub(super) fn disk(row: &Row<'_>) -> rusqlite::Result<Disk> {
    Ok(Disk {
        id: disk_id(row, 0)?,
        vm: text(row, 1)?,
        name: text(row, 2)?,
        uuid: optional(row, 3)?,
    })
}

pub(super) fn point(row: &Row<'_>) -> rusqlite::Result<Point> {
    Ok(Point {
        id: text(row, 0)?,
        vm: text(row, 1)?,
        created: time(row, 2)?,
        published: time(row, 3)?,
        mode: text(row, 4)?,
        job: text(row, 5)?,
        vm_uuid: optional(row, 6)?,
    })
}

/// Of `weight, says`.
pub(super) fn note(row: &Row<'_>) -> rusqlite::Result<PointNote> {
    Ok(PointNote { weight: text(row, 0)?, says: row.get(1)? })
}

pub(super) fn layer(row: &Row<'_>) -> rusqlite::Result<Layer> {
    let manifest = match (optional(row, 11)?, optional(row, 12)?) {
        (Some(algorithm), Some(path)) => {
            Some(ManifestFacts { algorithm, path, id: optional(row, 17)? })
        }
        _ => None,
    };
    Ok(Layer {
        point: text(row, 1)?,
        disk_name: text(row, 3)?,
        damage: found_damage(row)?,
        facts: LayerFacts {
            id: text(row, 0)?,
            disk: disk_id(row, 2)?,
            kind: text(row, 4)?,
            reason: row.get(5)?,
            parent: optional(row, 6)?,
            path: text(row, 7)?,
            size_bytes: bytes(row, 8)?,
            stored_bytes: bytes(row, 9)?,
            checked: checked(row)?,
            file_bytes: row.get::<_, Option<i64>>(20)?.map(|_| bytes(row, 20)).transpose()?,
            change: optional(row, 10)?,
            manifest,
            counts: ByteCounts {
                read: bytes(row, 13)?,
                zero: bytes(row, 14)?,
                sent: bytes(row, 15)?,
                skipped: bytes(row, 16)?,
            },
        },
    })
}

fn checked(row: &Row<'_>) -> rusqlite::Result<Option<CheckedFile>> {
    let inode: Option<i64> = row.get(21)?;
    let of = |inode: i64| {
        let (inode, modified_ns) = (inode.cast_unsigned(), row.get(22)?);
        Ok(CheckedFile { inode, modified_ns, bytes: bytes(row, 23)? })
    };
    inode.map(of).transpose()
}

fn found_damage(row: &Row<'_>) -> rusqlite::Result<Option<FoundDamage>> {
    let says: Option<String> = row.get(18)?;
    says.map(|says| Ok(FoundDamage { says, found: time(row, 19)? })).transpose()
}

/// A text that has to be one of a kind.
pub(super) fn text<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    parsed(column, row.get_ref(column)?.as_str()?)
}

/// As [`text`], or nothing.
pub(super) fn optional<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    row.get_ref(column)?.as_str_or_null()?.map(|text| parsed(column, text)).transpose()
}

fn parsed<T>(column: usize, text: &str) -> rusqlite::Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    text.parse()
        .map_err(|error| Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| Error::IntegralValueOutOfRange(column, number))
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<UnixMillis> {
    let number = bytes(row, column)?;
    UnixMillis::new(number).ok_or(Error::IntegralValueOutOfRange(column, i64::MAX))
}

fn disk_id(row: &Row<'_>, column: usize) -> rusqlite::Result<DiskId> {
    let number: i64 = row.get(column)?;
    DiskId::from_number(number).ok_or(Error::IntegralValueOutOfRange(column, number))
}

/// A time as it is kept.
pub(super) fn millis(time: UnixMillis) -> i64 {
    i64::try_from(time.get()).expect("a time has 48 bits")
}

/// What the tables can be asked by: a connection or a transaction on it.
pub(super) trait Ask {
    /// The only row, or none.
    fn one<T>(
        &self,
        sql: &str,
        of: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Outcome<Option<T>>;

    /// All rows.
    fn all<T>(
        &self,
        sql: &str,
        of: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Outcome<Vec<T>>;

    /// Changes rows, and says how many.
    fn change(&self, sql: &str, of: impl Params) -> Outcome<usize>;

    /// A job that has to be there.
    fn known_job(&self, id: JobId) -> Outcome<Job> {
        let sql = format!("SELECT {JOB} FROM jobs WHERE id = ?1");
        Ok(self.one(&sql, [id.as_str()], job)?.ok_or(CatalogError::NoSuchJob(id))?)
    }

    /// A disk that has to be there.
    fn known_disk(&self, id: DiskId) -> Outcome<Disk> {
        let sql = format!("SELECT {DISK} FROM disks WHERE id = ?1");
        Ok(self.one(&sql, [id.get()], disk)?.ok_or(CatalogError::NoSuchDisk(id))?)
    }

    /// A point that has to be there.
    fn known_point(&self, id: PointId) -> Outcome<Point> {
        let sql = format!("SELECT {POINT} FROM points WHERE id = ?1");
        Ok(self.one(&sql, [id.as_str()], point)?.ok_or(CatalogError::NoSuchPoint(id))?)
    }

    /// The layer of a disk that was published last.
    fn newest(&self, disk: DiskId) -> Outcome<Option<Layer>> {
        let sql = format!(
            "SELECT {LAYER} FROM {LAYERS} WHERE layers.disk = ?1 ORDER BY layers.point DESC LIMIT 1"
        );
        self.one(&sql, [disk.get()], layer)
    }

    /// A layer that has to be there.
    fn known_layer(&self, id: LayerId) -> Outcome<Layer> {
        let sql = format!("SELECT {LAYER} FROM {LAYERS} WHERE layers.id = ?1");
        Ok(self.one(&sql, [id.as_str()], layer)?.ok_or(CatalogError::NoSuchLayer(id))?)
    }
}

impl Ask for rusqlite::Connection {
    fn one<T>(
        &self,
        sql: &str,
        of: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Outcome<Option<T>> {
        Ok(self.prepare_cached(sql)?.query_row(of, read).optional()?)
    }

    fn all<T>(
        &self,
        sql: &str,
        of: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Outcome<Vec<T>> {
        Ok(self.prepare_cached(sql)?.query_map(of, read)?.collect::<rusqlite::Result<_>>()?)
    }

    fn change(&self, sql: &str, of: impl Params) -> Outcome<usize> {
        Ok(self.prepare_cached(sql)?.execute(of)?)
    }
}
