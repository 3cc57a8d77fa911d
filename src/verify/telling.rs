//! What a verification says.

use blockferry_control::catalog::PointId;
use blockferry_control::reading::{
    Against, AgainstOutcome, Content, Damage, DamageKind, VerifiedDisk, VerifiedPoint, VerifyReport,
};
use blockferry_control::record::BytesRecord;
use blockferry_dataplane::Counts;
use blockferry_dataplane::plan::AreaSet;
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::exit::Exit;
use crate::output::{cpu_seconds, rfc3339, table};

/// Ranges that are told of each damage.
const MAX_RANGES: usize = 100;

/// What was looked at, and the damage, for people.
pub(super) fn summary(report: &VerifyReport) -> String {
    let rows = report.points.iter().flat_map(|point| {
        point.disks.iter().map(|disk| {
            let layer = &disk.chain[0];
            vec![
                point.point.id.to_string(),
                point.point.vm.to_string(),
                layer.disk_name.to_string(),
                BinaryBytes(layer.facts.size_bytes).to_string(),
                disk.chain.len().to_string(),
                content(&disk.content).0.replace('_', " "),
            ]
        })
    });
    let mut lines = vec![table(&["point", "VM", "disk", "size", "chain", "content"], rows)];
    lines.extend(report.damage.iter().map(|damage| {
        format!(
            "damage: {}: {} (disk {}, layer {} of point {}); points touched: {}",
            damage.path,
            damage.kind,
            damage.layer.disk_name,
            damage.layer.facts.id,
            damage.layer.point,
            list(&damage.touched)
        )
    }));
    lines.extend(report.against.iter().map(|against| {
        format!("disk {} against {}: {}", against.disk, against.source, against_words(against))
    }));
    lines.join("\n")
}

/// All that is wrong, in one line.
pub(super) fn finding(report: &VerifyReport) -> String {
    let mut touched: Vec<PointId> =
        report.damage.iter().flat_map(|damage| damage.touched.iter().copied()).collect();
    touched.sort_unstable();
    touched.dedup();
    if !touched.is_empty() {
        let count = report.damage.len();
        let plural = if count == 1 { "" } else { "s" };
        return format!(
            "the content differs or is lost: {count} damage{plural}, first {}: {}; points touched: \
             {}",
            report.damage[0].path,
            report.damage[0].kind,
            list(&touched)
        );
    }
    let bad = |against: &&Against| !matches!(against.outcome, AgainstOutcome::Same);
    match report.against.iter().find(bad) {
        Some(against) => {
            format!("disk {} against {}: {}", against.disk, against.source, against_words(against))
        }
        None => "the content of a disk could not be verified".into(),
    }
}

fn against_words(against: &Against) -> String {
    match &against.outcome {
        AgainstOutcome::Same => "the same".into(),
        AgainstOutcome::Differs(ranges) => {
            let first = ranges.as_slice().first();
            let first =
                first.map(|first| format!(", first at bytes {} to {}", first.start, first.end()));
            format!(
                "the content differs, {} bytes in {} ranges{}",
                ranges.total(),
                ranges.len(),
                first.unwrap_or_default()
            )
        }
        AgainstOutcome::Size { disk_bytes, live_bytes } => format!(
            "the sizes differ: the disk has {disk_bytes} bytes in the point, and the source \
             {live_bytes}"
        ),
        AgainstOutcome::Unread => "the disk could not be read, so nothing was compared".into(),
        AgainstOutcome::Failed(fault) => fault.to_string(),
    }
}

fn list(points: &[PointId]) -> String {
    points.iter().map(PointId::as_str).collect::<Vec<_>>().join(", ")
}

/// In a word, and why.
fn content(content: &Content) -> (&'static str, Option<&str>) {
    match content {
        Content::Same => ("same", None),
        Content::Differs => ("differs", None),
        Content::Unknown(why) => ("unknown", Some(why)),
    }
}

/// The end of a verification, for programs. Fields are added, never taken away.
#[derive(Debug, Serialize)]
pub(super) struct Json<'a> {
    /// The exit code in a word.
    outcome: &'static str,
    exit_code: u8,
    error: Option<String>,
    seconds: f64,
    cpu_seconds: f64,
    bytes: BytesRecord,
    points: Vec<Point<'a>>,
    damage: Vec<Damaged<'a>>,
    against: Vec<Live<'a>>,
}

#[derive(Debug, Serialize)]
struct Point<'a> {
    id: &'a str,
    vm: &'a str,
    created: String,
    /// No damage touches it.
    whole: bool,
    disks: Vec<Disk<'a>>,
}

#[derive(Debug, Serialize)]
struct Disk<'a> {
    name: &'a str,
    layer: &'a str,
    size: u64,
    chain: usize,
    /// `same`, `differs` or `unknown`.
    content: &'static str,
    reason: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Damaged<'a> {
    kind: &'static str,
    /// In words.
    says: String,
    layer: &'a str,
    point: &'a str,
    disk: &'a str,
    /// In the repository.
    file: &'a str,
    #[serde(flatten)]
    ranges: Ranges,
    /// All points that it touches.
    points: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
struct Live<'a> {
    point: &'a str,
    disk: &'a str,
    source: &'a str,
    /// `same`, `differs`, `size`, `unread` or `failed`.
    result: &'static str,
    says: String,
    #[serde(flatten)]
    ranges: Ranges,
}

/// The first ranges, how many there are, and their bytes.
#[derive(Debug, Default, Serialize)]
struct Ranges {
    ranges: Vec<Range>,
    ranges_total: usize,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Range {
    start: u64,
    length: u64,
}

impl Ranges {
    fn of(areas: &AreaSet) -> Self {
        let first = areas.iter().take(MAX_RANGES);
        Self {
            ranges: first.map(|area| Range { start: area.start, length: area.length }).collect(),
            ranges_total: areas.len(),
            bytes: areas.total(),
        }
    }
}

impl<'a> Json<'a> {
    pub(super) fn of(exit: Exit, report: &'a VerifyReport) -> Self {
        let disks = report.points.iter().flat_map(|point| &point.disks);
        let totals = disks.fold(Counts::default(), |sum, disk| sum.plus(&disk.counts));
        Self {
            outcome: exit.word(),
            exit_code: exit.code(),
            error: (exit != Exit::Done).then(|| finding(report)),
            seconds: report.elapsed.as_secs_f64(),
            cpu_seconds: cpu_seconds(),
            bytes: totals.into(),
            points: report.points.iter().map(|point| Point::of(point, report)).collect(),
            damage: report.damage.iter().map(Damaged::of).collect(),
            against: report.against.iter().map(Live::of).collect(),
        }
    }

    pub(super) fn of_failure(exit: Exit, error: String) -> Self {
        Self {
            outcome: exit.word(),
            exit_code: exit.code(),
            error: Some(error),
            seconds: 0.0,
            cpu_seconds: cpu_seconds(),
            bytes: BytesRecord::default(),
            points: Vec::new(),
            damage: Vec::new(),
            against: Vec::new(),
        }
    }
}

impl<'a> Point<'a> {
    fn of(point: &'a VerifiedPoint, report: &VerifyReport) -> Self {
        let touched = report.damage.iter().any(|damage| damage.touched.contains(&point.point.id));
        Self {
            id: point.point.id.as_str(),
            vm: point.point.vm.as_str(),
            created: rfc3339(point.point.created),
            whole: !touched && point.disks.iter().all(|disk| disk.content == Content::Same),
            disks: point.disks.iter().map(Disk::of).collect(),
        }
    }
}

impl<'a> Disk<'a> {
    fn of(disk: &'a VerifiedDisk) -> Self {
        let (word, reason) = content(&disk.content);
        let layer = &disk.chain[0];
        Self {
            name: layer.disk_name.as_str(),
            layer: layer.facts.id.as_str(),
            size: layer.facts.size_bytes,
            chain: disk.chain.len(),
            content: word,
            reason,
        }
    }
}

impl<'a> Damaged<'a> {
    fn of(damage: &'a Damage) -> Self {
        Self {
            kind: damage.kind.word(),
            says: damage.kind.to_string(),
            layer: damage.layer.facts.id.as_str(),
            point: damage.layer.point.as_str(),
            disk: damage.layer.disk_name.as_str(),
            file: damage.path.as_str(),
            ranges: match &damage.kind {
                DamageKind::Content(areas) => Ranges::of(areas),
                _ => Ranges::default(),
            },
            points: damage.touched.iter().map(PointId::as_str).collect(),
        }
    }
}

impl<'a> Live<'a> {
    fn of(against: &'a Against) -> Self {
        let (result, ranges) = match &against.outcome {
            AgainstOutcome::Same => ("same", Ranges::default()),
            AgainstOutcome::Differs(areas) => ("differs", Ranges::of(areas)),
            AgainstOutcome::Size { .. } => ("size", Ranges::default()),
            AgainstOutcome::Unread => ("unread", Ranges::default()),
            AgainstOutcome::Failed(_) => ("failed", Ranges::default()),
        };
        Self {
            point: against.point.as_str(),
            disk: against.disk.as_str(),
            source: &against.source,
            result,
            says: against_words(against),
            ranges,
        }
    }
}
