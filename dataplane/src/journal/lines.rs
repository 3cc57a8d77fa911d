//! The lines of a journal: what they say, and how they are read back.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::held::Held;
use super::{JournalError, MAX_WITNESS_BYTES};
use crate::manifest::ManifestMark;
use crate::plan::{Area, AreaSet};

/// The version that is written and read here.
const VERSION: u64 = 3;

/// What every journal begins with.
const PREFIX: &[u8] = b"{\"blockferry_journal\":";

/// Bytes of the longest line that is read: above what 4,096 areas, a witness, or an identity
/// with long names take.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// What a person calls it: the URI, or the path. Must not hold a secret.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
}

/// What tells whether a file was written, or another one took its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileState {
    /// Its inode.
    pub inode: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub written_ns: i64,
}

/// What makes two runs runs of one copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What is read.
    pub source: Side,
    /// What is written.
    pub target: Side,
    /// A hash of the areas and the options that decide what is copied.
    pub plan: String,
    /// What the target's layer stands on, if it does.
    pub base: Option<String>,
    /// The source as a file, if it is one: what is safe is not looked at again, so it must not have
    /// changed.
    pub source_file: Option<FileState>,
}

impl Identity {
    /// The [`plan`](Self::plan) of a copy of `areas`. `options` is a text of everything else that
    /// decides which bytes are copied, the same for the same decisions. 32 hexadecimal digits.
    #[must_use]
    pub fn plan_of(areas: &AreaSet, options: &str) -> String {
        let mut hasher = blake3::Hasher::new();
        for area in areas {
            hasher.update(&area.start.to_le_bytes());
            hasher.update(&area.length.to_le_bytes());
        }
        // The number of areas tells where they end and the text begins.
        hasher.update(&u64::try_from(areas.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(options.as_bytes());
        let mut digits = hasher.finalize().to_hex();
        digits.truncate(32);
        digits.to_string()
    }

    /// The fields that differ, with what the journal says and what is asked for now.
    fn differences(&self, now: &Self) -> Option<String> {
        let side = |what: &str, then: &Side, now: &Side| {
            let name = (then.name != now.name)
                .then(|| format!("{what} is \"{}\" there and \"{}\" here", then.name, now.name));
            let size = (then.size != now.size)
                .then(|| format!("the {what}'s size is {} there and {} here", then.size, now.size));
            [name, size]
        };
        let base = |identity: &Self| identity.base.clone().unwrap_or_else(|| "none".to_owned());
        let plan = (self.plan != now.plan).then(|| {
            format!("the plan (areas and options) is {} there and {} here", self.plan, now.plan)
        });
        let based = (self.base != now.base)
            .then(|| format!("the base is {} there and {} here", base(self), base(now)));
        let written = match (self.source_file, now.source_file) {
            (then, now) if then == now => None,
            (Some(then), Some(now)) if then.inode == now.inode => {
                Some("the source was written to since, and what was copied of it may be old")
            }
            (Some(_), Some(_)) => Some("the source is another file of that name now"),
            (_, now) => Some(match now {
                Some(_) => "the source is a file now, and was none",
                None => "the source is no file any more",
            }),
        };
        let [source_name, source_size] = side("source", &self.source, &now.source);
        let [target_name, target_size] = side("target", &self.target, &now.target);
        let all = [source_name, source_size, target_name, target_size, plan, based];
        let written = written.map(str::to_owned);
        let all: Vec<String> = all.into_iter().chain([written]).flatten().collect();
        (!all.is_empty()).then(|| all.join(", "))
    }
}

/// A few bytes of the target that were read back after a FLUSH. When a copy is resumed, source
/// and target must both still hold them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    offset: u64,
    length: usize,
    digest: blake3::Hash,
}

impl Witness {
    /// The witness of `bytes` at `offset`. Of more than [`MAX_WITNESS_BYTES`] it takes the first.
    #[must_use]
    pub fn of(offset: u64, bytes: &[u8]) -> Self {
        let bytes = &bytes[..bytes.len().min(MAX_WITNESS_BYTES)];
        Self { offset, length: bytes.len(), digest: blake3::hash(bytes) }
    }

    /// The range of the disk to read.
    #[must_use]
    pub fn area(&self) -> Area {
        Area::new(self.offset, u64::try_from(self.length).unwrap_or(u64::MAX))
    }

    /// Whether `bytes`, read from [`area`](Self::area), are what was there.
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.length && blake3::hash(bytes) == self.digest
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLine {
    blockferry_journal: u64,
    source: Side,
    target: Side,
    plan: String,
    base: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source_file: Option<FileState>,
    /// Seconds since 1970, for people.
    started: u64,
}

#[derive(Deserialize)]
struct VersionLine {
    blockferry_journal: u64,
}

/// What a further line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Areas that are safe: no more than fit a line, or the line cannot be read back.
    pub safe: Vec<Area>,
    /// The manifest that has the digests of these areas.
    pub manifest: Option<ManifestMark>,
    /// Bytes that source and target both hold.
    pub witness: Option<Witness>,
    /// Bytes that only the target holds.
    pub seal: Option<Witness>,
    /// The seal is being taken off.
    pub unsealed: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryLine {
    safe: Vec<(u64, u64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<ManifestMark>,
    #[serde(skip_serializing_if = "Option::is_none")]
    witness: Option<WitnessField>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seal: Option<WitnessField>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unsealed: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WitnessField {
    offset: u64,
    length: usize,
    digest: String,
}

/// The first line.
pub(super) fn header_line(identity: &Identity) -> Vec<u8> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let Identity { source, target, plan, base, source_file } = identity.clone();
    let started = since.map_or(0, |since| since.as_secs());
    let blockferry_journal = VERSION;
    line(&HeaderLine { blockferry_journal, source, target, plan, base, source_file, started })
}

/// A further line.
pub(super) fn entry_line(entry: &Entry) -> Vec<u8> {
    let Entry { safe, manifest, witness, seal, unsealed } = entry;
    line(&EntryLine {
        safe: safe.iter().map(|area| (area.start, area.length)).collect(),
        manifest: manifest.clone(),
        witness: witness.as_ref().map(WitnessField::of),
        seal: seal.as_ref().map(WitnessField::of),
        unsealed: *unsealed,
    })
}

impl WitnessField {
    fn of(witness: &Witness) -> Self {
        Self {
            offset: witness.offset,
            length: witness.length,
            digest: witness.digest.to_hex().to_string(),
        }
    }

    /// The witness, if it is of a disk of so many bytes.
    fn read(self, size: u64) -> Result<Witness, String> {
        let digest = blake3::Hash::from_hex(&self.digest)
            .map_err(|_| "the digest of its witness is no BLAKE3 digest".to_owned())?;
        let witness = Witness { offset: self.offset, length: self.length, digest };
        if self.length > MAX_WITNESS_BYTES || !is_inside(&witness.area(), size) {
            return Err("its witness is too long or behind the end of the disk".to_owned());
        }
        Ok(witness)
    }
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).expect("numbers and text are always valid JSON");
    bytes.push(b'\n');
    bytes
}

/// Reads the lines of a file from its start.
pub(super) struct Reader<'a> {
    file: BufReader<&'a File>,
    path: &'a Path,
    /// Lines that were read.
    lines: u64,
    /// Bytes of the good lines at the start.
    good_bytes: u64,
    started: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a File, path: &'a Path) -> Self {
        Self { file: BufReader::new(file), path, lines: 0, good_bytes: 0, started: false }
    }

    /// Bytes of the file that are lines as they were written; what is behind them is torn.
    pub(super) fn good_bytes(&self) -> u64 {
        self.good_bytes
    }

    /// Whether the file is the beginning of a first line and no more: the run that made it died.
    pub(super) fn has_torn_header(&mut self) -> Result<bool, JournalError> {
        let line = self.next_line()?;
        let common = line.len().min(PREFIX.len());
        Ok(!line.ends_with(b"\n") && line[..common] == PREFIX[..common])
    }

    /// Reads the first line, which must be of the copy `now`.
    pub(super) fn header(&mut self, now: &Identity) -> Result<(), JournalError> {
        let path = || self.path.to_owned();
        let foreign = JournalError::NotAJournal { path: path() };
        let line = self.next_line()?;
        let Ok(VersionLine { blockferry_journal: version }) = serde_json::from_slice(&line) else {
            return Err(if line.starts_with(PREFIX) {
                self.damaged("it is no JSON")
            } else {
                foreign
            });
        };
        if version != VERSION {
            return Err(JournalError::Version { path: path(), version, supported: VERSION });
        }
        let header: HeaderLine =
            serde_json::from_slice(&line).map_err(|error| self.damaged(&error.to_string()))?;
        let HeaderLine { source, target, plan, base, source_file, .. } = header;
        let then = Identity { source, target, plan, base, source_file };
        if let Some(differences) = then.differences(now) {
            return Err(JournalError::OtherCopy { path: path(), differences });
        }
        self.accept(&line);
        Ok(())
    }

    /// Reads all further lines. Stops in front of a last line that is torn.
    pub(super) fn entries(&mut self, identity: &Identity) -> Result<Held, JournalError> {
        let size = identity.source.size.max(identity.target.size);
        let mut held = Held::default();
        loop {
            let line = self.next_line()?;
            if line.is_empty() {
                break;
            }
            let entry = match read_entry(&line, size) {
                Ok(entry) => entry,
                Err(_) if self.at_end()? => break,
                Err(problem) => return Err(self.damaged(&problem)),
            };
            self.accept(&line);
            held.take(entry);
        }
        held.merge();
        Ok(held)
    }

    fn accept(&mut self, line: &[u8]) {
        self.good_bytes += u64::try_from(line.len()).unwrap_or(u64::MAX);
    }

    /// The next line with its newline; without one at the end of the file, or where the line is
    /// longer than any that is written.
    fn next_line(&mut self) -> Result<Vec<u8>, JournalError> {
        let failed =
            |source| JournalError::Io { action: "read", path: self.path.to_owned(), source };
        if !self.started {
            self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
            self.started = true;
        }
        let mut line = Vec::new();
        let mut bounded = (&mut self.file).take(MAX_LINE_BYTES);
        bounded.read_until(b'\n', &mut line).map_err(failed)?;
        self.lines += 1;
        Ok(line)
    }

    fn at_end(&mut self) -> Result<bool, JournalError> {
        let failed =
            |source| JournalError::Io { action: "read", path: self.path.to_owned(), source };
        Ok(self.file.fill_buf().map_err(failed)?.is_empty())
    }

    fn damaged(&self, problem: &str) -> JournalError {
        let (path, line) = (self.path.to_owned(), self.lines);
        JournalError::Damaged { path, line, problem: problem.to_owned() }
    }
}

fn read_entry(line: &[u8], size: u64) -> Result<Entry, String> {
    if !line.ends_with(b"\n") {
        return Err("it has no end".to_owned());
    }
    let entry: EntryLine = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let safe: Vec<Area> =
        entry.safe.iter().map(|&(start, length)| Area { start, length }).collect();
    if let Some(area) = safe.iter().find(|area| !is_inside(area, size)) {
        let Area { start, length } = area;
        return Err(format!("{length} bytes from {start} are behind the end of the disk"));
    }
    let read = |field: Option<WitnessField>| field.map(|field| field.read(size)).transpose();
    Ok(Entry {
        safe,
        manifest: entry.manifest,
        witness: read(entry.witness)?,
        seal: read(entry.seal)?,
        unsealed: entry.unsealed,
    })
}

fn is_inside(area: &Area, size: u64) -> bool {
    area.start.checked_add(area.length).is_some_and(|end| end <= size)
}
