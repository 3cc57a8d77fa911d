//! What is on the disks of one VM, and what of it has changed.
//!
//! Each disk is a raw file. All disks of a VM lie behind one lock: the guest writes under it, and
//! a snapshot copies under it, so that a snapshot is one instant of all of them. The lock is never
//! held together with that of the inventory.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, copy_file_range, seek};

/// What one entry of the change map stands for.
pub const CHANGE_BYTES: u64 = 64 << 10;

/// The disks of one VM by device key.
#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) disks: BTreeMap<i32, DiskContent>,
}

/// One disk.
#[derive(Debug)]
pub(crate) struct DiskContent {
    pub(crate) path: PathBuf,
    pub(crate) capacity: u64,
    pub(crate) tracking: Option<Tracking>,
    /// The file as this server left it: who else has written to it, has changed the disk.
    seen: Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    seconds: i64,
    nanoseconds: i64,
}

/// Which blocks have changed since which snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Tracking {
    pub(crate) uuid: String,
    /// Of the newest change id; a write counts as one after it.
    pub(crate) number: u64,
    /// Block to the number that was the newest when it was last written.
    changed: BTreeMap<u64, u64>,
}

impl Tracking {
    pub(crate) fn new(uuid: String) -> Self {
        Self { uuid, number: 1, changed: BTreeMap::new() }
    }

    pub(crate) fn change_id(&self) -> String {
        format!("{}/{}", self.uuid, self.number)
    }

    /// The one that the current configuration shows: not that of any snapshot, and not one to
    /// begin a query with.
    pub(crate) fn next_change_id(&self) -> String {
        format!("{}/{}", self.uuid, self.number + 1)
    }

    pub(crate) fn mark(&mut self, offset: u64, length: u64) {
        if length > 0 {
            for block in offset / CHANGE_BYTES..=(offset + length - 1) / CHANGE_BYTES {
                self.changed.insert(block, self.number);
            }
        }
    }

    /// Areas from `start` on that have changed after the change id of this number, at most `count`
    /// of them, cut at `capacity`.
    pub(crate) fn areas(
        &self,
        after: u64,
        start: u64,
        capacity: u64,
        count: usize,
    ) -> Vec<(u64, u64)> {
        let mut areas: Vec<(u64, u64)> = Vec::new();
        let blocks = self.changed.range(start / CHANGE_BYTES..);
        for (block, _) in blocks.filter(|(_, number)| **number >= after) {
            let offset = (block * CHANGE_BYTES).max(start);
            let end = ((block + 1) * CHANGE_BYTES).min(capacity);
            if offset >= end {
                break;
            }
            let full = areas.len() == count;
            match areas.last_mut() {
                Some((last, length)) if *last + *length == offset => *length += end - offset,
                _ if full => break,
                _ => areas.push((offset, end - offset)),
            }
        }
        areas
    }
}

impl DiskContent {
    /// A new file of this size, all zero.
    pub(crate) fn create(path: PathBuf, capacity: u64) -> io::Result<Self> {
        let file = File::create_new(&path)?;
        file.set_len(capacity)?;
        Ok(Self { seen: Seen::of(&file)?, path, capacity, tracking: None })
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_unseen(offset, bytes)?;
        self.touch(offset, bytes.len() as u64)
    }

    /// Writes, and tracking misses it.
    pub(crate) fn write_unseen(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check(offset, bytes.len() as u64)?;
        let file = OpenOptions::new().write(true).open(&self.path)?;
        self.notice(&file)?;
        file.write_all_at(bytes, offset)?;
        self.seen = Seen::of(&file)?;
        Ok(())
    }

    /// Counts as changed, and is not.
    pub(crate) fn touch(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.check(offset, length)?;
        if let Some(tracking) = &mut self.tracking {
            tracking.mark(offset, length);
        }
        Ok(())
    }

    fn check(&self, offset: u64, length: u64) -> io::Result<()> {
        if offset.checked_add(length).is_some_and(|end| end <= self.capacity) {
            return Ok(());
        }
        let error = format!("{length} bytes at {offset} do not fit into {}", self.capacity);
        Err(io::Error::new(io::ErrorKind::InvalidInput, error))
    }

    pub(crate) fn resize(&mut self, capacity: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(&self.path)?;
        file.set_len(capacity)?;
        self.capacity = capacity;
        self.seen = Seen::of(&file)?;
        Ok(())
    }

    /// Copies it to a file of its own, holes as holes.
    pub(crate) fn copy_to(&mut self, path: &Path) -> io::Result<()> {
        let source = File::open(&self.path)?;
        self.notice(&source)?;
        let target = File::create_new(path)?;
        target.set_len(self.capacity)?;
        copy_data(&source, &target)
    }

    /// Makes it what a copy of it was.
    pub(crate) fn copy_from(&mut self, path: &Path, capacity: u64) -> io::Result<()> {
        let fresh = self.path.with_extension("fresh");
        let target = File::create(&fresh)?;
        target.set_len(capacity)?;
        copy_data(&File::open(path)?, &target)?;
        self.seen = Seen::of(&target)?;
        self.capacity = capacity;
        fs::rename(fresh, &self.path)
    }

    /// Where somebody else has written to the file, all of the disk counts as changed: nobody
    /// said where.
    fn notice(&mut self, file: &File) -> io::Result<()> {
        let now = Seen::of(file)?;
        if now != self.seen {
            if let Some(tracking) = &mut self.tracking {
                tracking.mark(0, self.capacity);
            }
            self.seen = now;
        }
        Ok(())
    }
}

impl Seen {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec() })
    }
}

/// What of a raw file is in use, rounded out to the blocks of the change map and cut at its size:
/// at most `count` areas from `start` on.
pub(crate) fn areas_in_use(path: &Path, start: u64, count: usize) -> io::Result<Vec<(u64, u64)>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut areas: Vec<(u64, u64)> = Vec::new();
    let mut from = start;
    while let Some((data, hole)) = next_data(&file, from, size)? {
        let offset = (data / CHANGE_BYTES * CHANGE_BYTES).max(start);
        let end = hole.next_multiple_of(CHANGE_BYTES).min(size);
        let full = areas.len() == count;
        match areas.last_mut() {
            Some((last, length)) if *last + *length >= offset => {
                *length = (*length).max(end - *last);
            }
            _ if full => break,
            _ => areas.push((offset, end - offset)),
        }
        from = end;
    }
    Ok(areas)
}

fn next_data(file: &File, from: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if from >= size {
        return Ok(None);
    }
    match seek(file, SeekFrom::Data(from)) {
        Ok(data) => Ok(Some((data, seek(file, SeekFrom::Hole(data))?))),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn copy_data(source: &File, target: &File) -> io::Result<()> {
    let size = source.metadata()?.len();
    let mut from = 0;
    while let Some((data, hole)) = next_data(source, from, size)? {
        let (mut read, mut written) = (data, data);
        while read < hole {
            let left = usize::try_from(hole - read).map_err(io::Error::other)?;
            let copied =
                copy_file_range(source, Some(&mut read), target, Some(&mut written), left)?;
            if copied == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        from = hole;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(folder: &Path, blocks: u64) -> DiskContent {
        let mut disk = DiskContent::create(folder.join("disk.raw"), blocks * CHANGE_BYTES).unwrap();
        disk.tracking = Some(Tracking::new("u".to_owned()));
        disk
    }

    #[test]
    fn a_write_counts_as_changed_after_the_change_ids_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = disk(folder.path(), 8);
        disk.write(CHANGE_BYTES - 1, &[1, 2]).unwrap();
        disk.tracking.as_mut().unwrap().number = 2;
        disk.write(5 * CHANGE_BYTES, &[3]).unwrap();
        let tracking = disk.tracking.as_ref().unwrap();
        let areas = |after| tracking.areas(after, 0, disk.capacity, 9);
        assert_eq!(areas(1), [(0, 2 * CHANGE_BYTES), (5 * CHANGE_BYTES, CHANGE_BYTES)]);
        assert_eq!(areas(2), [(5 * CHANGE_BYTES, CHANGE_BYTES)]);
        assert_eq!(areas(3), []);
    }

    #[test]
    fn a_disk_that_somebody_else_wrote_to_has_changed_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = disk(folder.path(), 4);
        // The clock of a file system may go in steps of some milliseconds.
        let before = fs::metadata(&disk.path).unwrap().modified().unwrap();
        let file = OpenOptions::new().write(true).open(&disk.path).unwrap();
        while file.metadata().unwrap().modified().unwrap() == before {
            file.write_all_at(&[9], 0).unwrap();
        }
        disk.copy_to(&folder.path().join("copy.raw")).unwrap();
        let tracking = disk.tracking.as_ref().unwrap();
        assert_eq!(tracking.areas(1, 0, disk.capacity, 9), [(0, disk.capacity)]);
    }

    #[test]
    fn a_copy_has_the_same_bytes_and_the_same_holes() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = disk(folder.path(), 64);
        disk.write(7 * CHANGE_BYTES + 5, b"seven").unwrap();
        disk.write(63 * CHANGE_BYTES, &[1; 65_536]).unwrap();
        let copy = folder.path().join("copy.raw");
        disk.copy_to(&copy).unwrap();
        assert!(fs::read(&copy).unwrap() == fs::read(&disk.path).unwrap());
        let areas = [(7 * CHANGE_BYTES, CHANGE_BYTES), (63 * CHANGE_BYTES, CHANGE_BYTES)];
        assert_eq!(areas_in_use(&copy, 0, 9).unwrap(), areas);
        assert_eq!(areas_in_use(&copy, 0, 1).unwrap(), areas[..1]);
        assert_eq!(areas_in_use(&copy, 8 * CHANGE_BYTES, 9).unwrap(), areas[1..]);
    }
}
