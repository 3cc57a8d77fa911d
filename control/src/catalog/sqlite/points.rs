//! Disks, points and layers in their tables: asking for them, and taking points out.

use rusqlite::{Connection, params, params_from_iter};

use super::SqliteCatalog;
use super::failure::Outcome;
use super::publish::publish;
use super::rows::{self, Ask, LAYER, LAYERS, POINT};
use crate::catalog::error::CatalogError;
use crate::catalog::id::{DiskId, JobId, LayerId, PointId};
use crate::catalog::name::{DiskName, DiskUuid, VmName};
use crate::catalog::path::RelativePath;
use crate::catalog::point::{
    CheckedFile, Disk, Layer, NewPoint, Point, PointFilter, PointNote, Points,
};
use crate::catalog::time::UnixMillis;

impl Points for SqliteCatalog {
    fn disk(
        &self,
        vm: &VmName,
        name: &DiskName,
        uuid: Option<&DiskUuid>,
    ) -> Result<Disk, CatalogError> {
        // Most disks are known: reading waits for no disk below.
        if let Some(known) = self.read(|tables| known_as(tables, vm, name, uuid))?
            && known.name == *name
        {
            return Ok(known);
        }
        let (vm, name, uuid) = (vm.clone(), name.clone(), uuid.cloned());
        self.write(move |tables| enter(tables, &vm, &name, uuid.as_ref()))
    }

    fn disks(&self, vm: &VmName) -> Result<Vec<Disk>, CatalogError> {
        let sql = format!("SELECT {} FROM disks WHERE vm = ?1 ORDER BY id", rows::DISK);
        self.read(|tables| tables.all(&sql, [vm.as_str()], rows::disk))
    }

    fn publish(&self, point: NewPoint) -> Result<Point, CatalogError> {
        self.write(move |tables| publish(tables, point))
    }

    fn point(&self, point: PointId) -> Result<Point, CatalogError> {
        self.read(|tables| tables.known_point(point))
    }

    fn notes(&self, point: PointId) -> Result<Vec<PointNote>, CatalogError> {
        self.read(|tables| {
            tables.known_point(point)?;
            tables.all(
                "SELECT weight, says FROM point_notes
                 WHERE point = (SELECT number FROM points WHERE id = ?1) ORDER BY number",
                [point.as_str()],
                rows::note,
            )
        })
    }

    fn points(&self, filter: &PointFilter) -> Result<Vec<Point>, CatalogError> {
        let mut conditions = vec!["TRUE"];
        let mut values = Vec::new();
        if let Some(vm) = &filter.vm {
            conditions.push("vm = ?");
            values.push(vm.as_str());
        }
        if let Some(before) = &filter.before {
            conditions.push("number < (SELECT number FROM points WHERE id = ?)");
            values.push(before.as_str());
        }
        let sql = format!(
            "SELECT {POINT} FROM points WHERE {} ORDER BY number DESC LIMIT {}",
            conditions.join(" AND "),
            filter.newest.map_or(-1, i64::from)
        );
        let mut points = self.read(|tables| {
            filter.before.map_or(Ok(()), |before| tables.known_point(before).map(|_| ()))?;
            tables.all(&sql, params_from_iter(values), rows::point)
        })?;
        points.reverse();
        Ok(points)
    }

    fn point_of(&self, job: JobId) -> Result<Option<Point>, CatalogError> {
        let sql = format!("SELECT {POINT} FROM points WHERE job = ?1");
        self.read(|tables| tables.one(&sql, [job.as_str()], rows::point))
    }

    fn layers(&self, point: PointId) -> Result<Vec<Layer>, CatalogError> {
        self.read(|tables| layers(tables, point))
    }

    fn chain(&self, layer: LayerId) -> Result<Vec<Layer>, CatalogError> {
        self.read(|tables| {
            let mut chain = vec![tables.known_layer(layer)?];
            // A parent is published before its child, so that this ends also in a damaged file.
            let sql = format!(
                "SELECT {LAYER} FROM {LAYERS} JOIN layers AS child ON child.parent = layers.id
                 WHERE child.id = ?1 AND layers.point < child.point"
            );
            while let Some(top) = chain.last()
                && let Some(parent) = top.facts.parent
            {
                let below = tables.one(&sql, [top.facts.id.as_str()], rows::layer)?;
                chain.push(below.ok_or(CatalogError::NoSuchLayer(parent))?);
            }
            Ok(chain)
        })
    }

    fn newest_layer(&self, disk: DiskId) -> Result<Option<Layer>, CatalogError> {
        self.read(|tables| {
            tables.known_disk(disk)?;
            tables.newest(disk)
        })
    }

    fn points_on(&self, layer: LayerId) -> Result<Vec<PointId>, CatalogError> {
        self.read(|tables| {
            tables.known_layer(layer)?;
            tables.all(
                // Not UNION ALL: it ends also in a damaged file whose layers stand in a circle.
                "WITH RECURSIVE standing (id) AS (
                     VALUES (?1)
                     UNION
                     SELECT layers.id FROM layers JOIN standing ON layers.parent = standing.id
                 )
                 SELECT DISTINCT points.id FROM standing JOIN layers ON layers.id = standing.id
                 JOIN points ON points.number = layers.point ORDER BY points.number",
                [layer.as_str()],
                |row| rows::text(row, 0),
            )
        })
    }

    fn note_verified(
        &self,
        damaged: &[(LayerId, String)],
        right: &[LayerId],
    ) -> Result<(), CatalogError> {
        if damaged.is_empty() && right.is_empty() {
            return Ok(());
        }
        let (damaged, right) = (damaged.to_vec(), right.to_vec());
        let now = rows::millis(UnixMillis::now());
        self.write(move |tables| {
            for (layer, says) in &damaged {
                tables.change(
                    "UPDATE layers SET damage = ?2, damage_ms = coalesce(damage_ms, ?3)
                     WHERE id = ?1",
                    params![layer.as_str(), says, now],
                )?;
            }
            for layer in &right {
                tables.change(
                    "UPDATE layers SET damage = NULL, damage_ms = NULL WHERE id = ?1",
                    [layer.as_str()],
                )?;
            }
            Ok(())
        })
    }

    fn note_checked(&self, checked: &[(LayerId, CheckedFile)]) -> Result<(), CatalogError> {
        if checked.is_empty() {
            return Ok(());
        }
        let checked = checked.to_vec();
        self.write(move |tables| {
            for (layer, file) in &checked {
                tables.change(
                    "UPDATE layers SET checked_inode = ?2, checked_modified_ns = ?3,
                         checked_bytes = ?4
                     WHERE id = ?1",
                    params![
                        layer.as_str(),
                        file.inode.cast_signed(),
                        file.modified_ns,
                        file.bytes.cast_signed()
                    ],
                )?;
            }
            Ok(())
        })
    }

    fn delete_point(&self, point: PointId) -> Result<Vec<RelativePath>, CatalogError> {
        self.write(move |tables| delete(tables, point))
    }

    fn leftovers(&self) -> Result<Vec<RelativePath>, CatalogError> {
        self.read(|tables| {
            let sql = "SELECT path FROM leftovers ORDER BY number";
            tables.all(sql, [], |row| rows::text(row, 0))
        })
    }

    fn forget_leftover(&self, path: &RelativePath) -> Result<(), CatalogError> {
        let path = path.clone();
        self.write(move |tables| {
            tables.change("DELETE FROM leftovers WHERE path = ?1", [path.as_str()])?;
            Ok(())
        })
    }
}

fn known_as(
    tables: &Connection,
    vm: &VmName,
    name: &DiskName,
    uuid: Option<&DiskUuid>,
) -> Outcome<Option<Disk>> {
    let (condition, value) = match uuid {
        Some(uuid) => ("uuid = ?2", uuid.as_str()),
        None => ("uuid IS NULL AND name = ?2", name.as_str()),
    };
    let sql = format!("SELECT {} FROM disks WHERE vm = ?1 AND {condition}", rows::DISK);
    tables.one(&sql, [vm.as_str(), value], rows::disk)
}

fn enter(
    tables: &Connection,
    vm: &VmName,
    name: &DiskName,
    uuid: Option<&DiskUuid>,
) -> Outcome<Disk> {
    // Asked again, for somebody may have entered it meanwhile.
    if let Some(known) = known_as(tables, vm, name, uuid)? {
        tables.change(
            "UPDATE disks SET name = ?2 WHERE id = ?1",
            params![known.id.get(), name.as_str()],
        )?;
        return Ok(Disk { name: name.clone(), ..known });
    }
    let sql =
        format!("INSERT INTO disks (vm, name, uuid) VALUES (?1, ?2, ?3) RETURNING {}", rows::DISK);
    let row = params![vm.as_str(), name.as_str(), uuid.map(|uuid| uuid.as_str())];
    Ok(tables.one(&sql, row, rows::disk)?.expect("an insertion that succeeds returns its row"))
}

fn layers(tables: &Connection, point: PointId) -> Outcome<Vec<Layer>> {
    tables.known_point(point)?;
    let sql =
        format!("SELECT {LAYER} FROM {LAYERS} WHERE points.id = ?1 ORDER BY layers.disk_name");
    tables.all(&sql, [point.as_str()], rows::layer)
}

fn delete(tables: &Connection, point: PointId) -> Outcome<Vec<RelativePath>> {
    let gone = layers(tables, point)?;
    let by: Vec<PointId> = tables.all(
        "SELECT DISTINCT above.id FROM points JOIN layers ON layers.point = points.number
         JOIN layers AS child ON child.parent = layers.id
         JOIN points AS above ON above.number = child.point
         WHERE points.id = ?1 ORDER BY above.number",
        [point.as_str()],
        |row| rows::text(row, 0),
    )?;
    if !by.is_empty() {
        return Err(CatalogError::StoodOn { point, by }.into());
    }
    let mut paths = Vec::new();
    for layer in gone {
        paths.push(layer.facts.path);
        paths.extend(layer.facts.manifest.map(|manifest| manifest.path));
    }
    let now = rows::millis(UnixMillis::now());
    for path in &paths {
        tables.change(
            "INSERT INTO leftovers (path, since_ms) VALUES (?1, ?2)",
            params![path.as_str(), now],
        )?;
    }
    tables.change(
        "DELETE FROM layers WHERE point = (SELECT number FROM points WHERE id = ?1)",
        [point.as_str()],
    )?;
    tables.change(
        "DELETE FROM point_notes WHERE point = (SELECT number FROM points WHERE id = ?1)",
        [point.as_str()],
    )?;
    tables.change("DELETE FROM points WHERE id = ?1", [point.as_str()])?;
    Ok(paths)
}
