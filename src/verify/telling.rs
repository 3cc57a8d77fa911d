//! What a verification says.

use std::collections::BTreeSet;

use blockferry_control::catalog::UnixMillis;
use blockferry_control::record::{
    AgainstRecord, BytesRecord, CatalogFaultRecord, DamageRecord, VerifiedPointRecord, VerifyRecord,
};
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::exit::Exit;
use crate::output::{cpu_seconds, rfc3339, table};

/// What was looked at, and the damage, for people.
pub(super) fn summary(report: &VerifyRecord) -> String {
    let rows = report.points.iter().flat_map(|point| {
        point.disks.iter().map(|disk| {
            vec![
                point.id.clone(),
                point.vm.clone(),
                disk.name.clone(),
                BinaryBytes(disk.size).to_string(),
                disk.chain.to_string(),
                disk.content.clone(),
            ]
        })
    });
    let mut lines = vec![table(&["point", "VM", "disk", "size", "chain", "content"], rows)];
    lines.extend(report.damage.iter().map(|damage| {
        format!(
            "damage: {}: {} (disk {}, layer {} of point {}); points touched: {}",
            damage.file,
            damage.says,
            damage.disk,
            damage.layer,
            damage.point,
            damage.points.join(", ")
        )
    }));
    lines.extend(report.catalog.iter().map(|fault| format!("catalog: {}", fault.says)));
    lines.extend(report.against.iter().map(against_words));
    lines.join("\n")
}

/// All that is wrong, in one line.
pub(super) fn finding(report: &VerifyRecord) -> String {
    // Ids have the order in which they were made.
    let touched: BTreeSet<&str> =
        report.damage.iter().flat_map(|damage| &damage.points).map(String::as_str).collect();
    if !touched.is_empty() {
        let count = report.damage.len();
        let plural = if count == 1 { "" } else { "s" };
        return format!(
            "the content differs or is lost: {count} damage{plural}, first {}: {}; points touched: \
             {}",
            report.damage[0].file,
            report.damage[0].says,
            touched.into_iter().collect::<Vec<_>>().join(", ")
        );
    }
    if let Some(first) = report.catalog.first() {
        let count = report.catalog.len();
        let plural = if count == 1 { "" } else { "s" };
        return format!(
            "the catalog does not fit what is there: {count} fault{plural}, first: {}; put a copy \
             of catalog.db in its place that is right",
            first.says
        );
    }
    match report.against.iter().find(|against| against.result != "same") {
        Some(against) => against_words(against),
        None => "the content of a disk could not be verified".into(),
    }
}

fn against_words(against: &AgainstRecord) -> String {
    format!("disk {} against {}: {}", against.disk, against.source, against.says)
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
    damage: &'a [DamageRecord],
    catalog: &'a [CatalogFaultRecord],
    against: &'a [AgainstRecord],
}

#[derive(Debug, Serialize)]
struct Point<'a> {
    #[serde(flatten)]
    record: &'a VerifiedPointRecord,
    /// The instant that it shows.
    created: String,
}

impl<'a> Json<'a> {
    pub(super) fn of(exit: Exit, report: &'a VerifyRecord) -> Self {
        Self {
            outcome: exit.word(),
            exit_code: exit.code(),
            error: (exit != Exit::Done).then(|| finding(report)),
            seconds: report.seconds,
            cpu_seconds: cpu_seconds(),
            bytes: report.bytes,
            points: report.points.iter().map(Point::of).collect(),
            damage: &report.damage,
            catalog: &report.catalog,
            against: &report.against,
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
            damage: &[],
            catalog: &[],
            against: &[],
        }
    }
}

impl<'a> Point<'a> {
    fn of(record: &'a VerifiedPointRecord) -> Self {
        let created = UnixMillis::new(record.created_ms).unwrap_or(UnixMillis::MAX);
        Self { record, created: rfc3339(created) }
    }
}
