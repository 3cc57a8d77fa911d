//! The content of a point's disks, read through their chains.

use std::fs::File;
use std::io;
use std::sync::Arc;

use blockferry_dataplane::digest::DigestAlgorithm;
use blockferry_dataplane::manifest::Manifest;
use blockferry_dataplane::{Cause, Counts, Endpoint, Fault, Lane, LaneReport, LaneSettings, Side};
use tempfile::TempDir;

use super::Run;
use super::live::Live;
use super::report::{Against, AgainstOutcome, Content, DamageKind, VerifiedDisk, VerifiedPoint};
use crate::backup::Watch;
use crate::catalog::{DiskName, Layer};
use crate::export::ExportError;
use crate::hub::KeptExport;
use crate::reading::damaged::by_layer;
use crate::reading::digests::{ChainDigests, unequal};
use crate::reading::error::ReadError;
use crate::reading::lanes::{self, Reviver};
use crate::reading::restore::{note, notes_folder};
use crate::reading::serve::serve_to_read;
use crate::repository::{HeldLayer, HeldPoint, RepositoryError};

/// The digests of a live source whose disk has none of its own.
const DIGEST: DigestAlgorithm = DigestAlgorithm::Blake3;

/// A disk that can be read.
#[derive(Debug)]
struct Readable {
    /// Its place in the point.
    disk: usize,
    served: KeptExport,
    /// None, if it is only read for the sake of a live source.
    digests: Option<ChainDigests>,
}

impl Run<'_> {
    /// Verifies a point.
    pub(super) fn point(
        &mut self,
        held: &HeldPoint,
        against: &mut Vec<Against>,
    ) -> Result<VerifiedPoint, ReadError> {
        let live = self.look_at_live(held, against)?;
        let mut disks: Vec<VerifiedDisk> = Vec::with_capacity(held.layers.len());
        let mut readable = Vec::new();
        for (index, layer) in held.layers.iter().enumerate() {
            let compared = live.iter().any(|live| live.disk == index);
            let content = match self.readable(index, layer, compared)? {
                Ok(found) => {
                    readable.push(found);
                    Content::Same
                }
                Err(why) => Content::Unknown(why),
            };
            let (chain, counts) = (layer.chain.clone(), Counts::default());
            disks.push(VerifiedDisk { chain, counts, content });
        }
        let notes = notes_folder(self.settings)?;
        let mut reports = self.read(held, &mut readable, &live, &notes)?.into_iter();
        let mut read: Vec<Option<Manifest>> = held.layers.iter().map(|_| None).collect();
        for (number, found) in readable.iter().enumerate() {
            let report = reports.next().expect("each lane has its report");
            disks[found.disk].counts = report.counts;
            let layer = &held.layers[found.disk];
            let manifest = note(&notes, number);
            (disks[found.disk].content, read[found.disk]) =
                self.content(layer, found, report, &manifest)?;
        }
        for (number, (live, report)) in (readable.len()..).zip(live.iter().zip(reports)) {
            let outcome = match (report.outcome, &read[live.disk]) {
                (Err(fault), _) => AgainstOutcome::Failed(fault),
                (Ok(()), None) => AgainstOutcome::Unread,
                (Ok(()), Some(read)) => {
                    let ranges = unequal(read, &Manifest::open(&note(&notes, number))?)?;
                    match ranges.is_empty() {
                        true => AgainstOutcome::Same,
                        false => AgainstOutcome::Differs(ranges),
                    }
                }
            };
            let disk = held.layers[live.disk].layer().disk_name.clone();
            let source = live.source.to_string();
            against.push(Against { point: held.point.id, disk, source, outcome });
        }
        let bytes = held.layers.iter().map(|held| held.layer().facts.size_bytes).sum::<u64>();
        self.finished = self.finished.saturating_add(bytes);
        Ok(VerifiedPoint { point: held.point.clone(), disks })
    }

    /// Makes a disk readable, or says why it is not read.
    fn readable(
        &mut self,
        disk: usize,
        held: &HeldLayer,
        compared: bool,
    ) -> Result<Result<Readable, String>, ReadError> {
        if !self.chain(held)? {
            return Ok(Err("an image of its chain cannot be opened".into()));
        }
        let digests = match ChainDigests::open(held, self.repository) {
            Ok(digests) => Some(digests),
            Err(RepositoryError::NoDigests { layer, why, .. }) => {
                self.lacks_digests(&layer, why)?;
                None
            }
            Err(error) => return Err(error.into()),
        };
        if digests.is_none() && !compared {
            return Ok(Err("there are no digests that it could be compared with".into()));
        }
        match serve_to_read(held, self.settings) {
            Ok(served) => Ok(Ok(Readable { disk, served, digests })),
            Err(error @ ExportError::DiedAtStart { .. }) => {
                if !self.ledger.has_damaged_image(&held.chain) {
                    self.damage(held.layer(), DamageKind::Unreadable(error.to_string()))?;
                }
                Ok(Err("it cannot be served".into()))
            }
            Err(error) => Err(ReadError::Export {
                disk: held.layer().disk_name.clone(),
                error: Box::new(error),
            }),
        }
    }

    /// Reads all disks, and all live sources, at once.
    fn read(
        &self,
        held: &HeldPoint,
        readable: &mut [Readable],
        live: &[Live],
        notes: &TempDir,
    ) -> Result<Vec<LaneReport>, ReadError> {
        let ends = readable
            .iter()
            .map(|found| (found.disk, found.served.endpoint()))
            .chain(live.iter().map(|live| (live.disk, live.source.clone())));
        let algorithm = |disk: usize| {
            let found = readable.iter().find(|found| found.disk == disk);
            let digests = found.and_then(|found| found.digests.as_ref());
            digests.and_then(ChainDigests::algorithm).unwrap_or(DIGEST)
        };
        let name = |disk: usize| held.layers[disk].layer().disk_name.clone();
        let mut names: Vec<DiskName> = Vec::new();
        let mut work = Vec::new();
        for (number, (disk, source)) in ends.enumerate() {
            names.push(name(disk));
            work.push(Lane::new(source, Endpoint::Null).with_settings(LaneSettings {
                source_bytes: Some(held.layers[disk].layer().facts.size_bytes),
                digest: Some(algorithm(disk)),
                manifest: Some(note(notes, number)),
                ..self.settings.lane.clone()
            }));
        }
        if work.is_empty() {
            return Ok(Vec::new());
        }
        let of: Vec<DiskName> = readable.iter().map(|found| name(found.disk)).collect();
        let mut keep = |reviver: &mut Reviver<'_>| {
            let mut disks = of.iter().zip(readable.iter_mut());
            disks.try_for_each(|(disk, found)| reviver.revive(disk, &mut found.served))
        };
        let watch: Arc<dyn Watch> = Arc::clone(self.watch);
        let tell = |counts: &[Counts]| self.tell(counts);
        let (settings, cancellation) = (self.settings, self.cancellation);
        lanes::run(&names, work, &mut keep, settings, &watch, &tell, cancellation)
    }

    /// What came of a disk, and the digests of what was read.
    fn content(
        &mut self,
        held: &HeldLayer,
        found: &Readable,
        report: LaneReport,
        manifest: &std::path::Path,
    ) -> Result<(Content, Option<Manifest>), ReadError> {
        match report.outcome {
            Ok(()) => {}
            Err(Fault::Side { side: Side::Source, endpoint, cause }) => {
                let is_of_image = is_of_image(&cause);
                let fault = Fault::Side { side: Side::Source, endpoint, cause };
                let lane = ReadError::Lane {
                    disk: held.layer().disk_name.clone(),
                    fault: Box::new(fault),
                    said: found.served.said(),
                };
                // Damage that is known is cause enough.
                if !self.ledger.has_damaged_image(&held.chain) {
                    // A server that was killed, or that is stuck, says nothing about the image.
                    if !is_of_image {
                        return Err(lane);
                    }
                    let (layer, why) = self.unreadable(held, &lane);
                    self.damage(&layer, DamageKind::Unreadable(why))?;
                }
                return Ok((Content::Unknown(lane.to_string()), None));
            }
            Err(fault) => {
                let (disk, said) = (held.layer().disk_name.clone(), String::new());
                return Err(ReadError::Lane { disk, fault: Box::new(fault), said });
            }
        }
        let read = Manifest::open(manifest)?;
        let Some(digests) = &found.digests else {
            let why = "there are no digests that it could be compared with";
            return Ok((Content::Unknown(why.into()), Some(read)));
        };
        self.ledger.note_read(held.layer());
        let differences = by_layer(held, digests.differences(&read)?, &self.settings.image_tool)
            .map_err(|error| ReadError::Image {
                disk: held.layer().disk_name.clone(),
                error: Box::new(error),
            })?;
        for (damaged, ranges) in &differences {
            self.ledger.note_content(held.chain.get(*damaged).unwrap_or(held.layer()), ranges);
        }
        let same = differences.is_empty();
        Ok((if same { Content::Same } else { Content::Differs }, Some(read)))
    }

    /// Which layer it is that cannot be read: the storage may refuse a file. Where it gives all of
    /// them, it is the uppermost, through which the rest was read.
    fn unreadable(&self, held: &HeldLayer, error: &ReadError) -> (Layer, String) {
        for layer in &held.chain {
            let path = layer.facts.path.under(self.repository.root());
            let read = File::open(&path).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
            if let Err(refused) = read {
                return (layer.clone(), refused.to_string());
            }
        }
        (held.layer().clone(), error.to_string())
    }
}

/// Whether a fault of an export is one of its image: it answered, and what it answered is that it
/// cannot read. One that is gone, or silent, has its trouble with the machine.
fn is_of_image(cause: &Cause) -> bool {
    match cause {
        Cause::Refused { .. } => true,
        Cause::GaveUp { last, .. } => is_of_image(last),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use blockferry_dataplane::nbd::NbdError;

    use super::*;

    #[test]
    fn only_an_export_that_answers_says_anything_about_its_image() {
        let gave_up = |last| Cause::GaveUp { attempts: 5, last: Box::new(last) };
        let refused = || Cause::Refused {
            request: "READ of 65536 bytes at 0".into(),
            error: NbdError::Io,
            message: String::new(),
        };
        assert!(is_of_image(&refused()) && is_of_image(&gave_up(refused())));
        let silent = || Cause::Deadline {
            deadline: Duration::from_secs(30),
            waiting_for: "a reply".into(),
            beside: String::new(),
            hint: "",
        };
        let killed = || Cause::Connect(io::Error::from(io::ErrorKind::ConnectionRefused));
        for other in [silent(), gave_up(silent()), killed(), gave_up(killed())] {
            assert!(!is_of_image(&other), "{other}");
        }
    }
}
