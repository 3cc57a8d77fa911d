//! Figures in the text format of Prometheus.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::{Display, Write};

use super::shared::Shared;
use crate::hub::JobCounts;
use crate::proc::own_pss_bytes;

/// All figures, at this moment.
pub(super) fn exposition(shared: &Shared) -> String {
    let mut text = String::new();
    let ports = shared.hub.ports().metrics();
    let version = env!("CARGO_PKG_VERSION");
    gauge(&mut text, "info", "Which hub this is.", &[(format!("{{version=\"{version}\"}}"), 1)]);
    let uptime = [(String::new(), shared.hub.uptime().as_secs())];
    gauge(&mut text, "uptime_seconds", "Time since the start.", &uptime);
    let memory = [(String::new(), own_pss_bytes())];
    gauge(&mut text, "memory_bytes", "Memory of the hub, without its exports (PSS).", &memory);
    gauge(
        &mut text,
        "ports",
        "Ports of the range, by state, and leased ones beyond it.",
        &[
            ("{state=\"in_use\"}".to_owned(), ports.in_use),
            ("{state=\"free\"}".to_owned(), ports.free),
            ("{state=\"outside\"}".to_owned(), ports.outside.len()),
            ("{state=\"beyond\"}".to_owned(), ports.beyond),
        ],
    );
    let one = |value: usize| [(String::new(), value)];
    gauge(&mut text, "ports_range", "Ports of the range.", &one(ports.total));
    gauge(&mut text, "ports_peak", "Most ports leased at once.", &one(ports.peak));
    let waits = [(String::new(), ports.waits)];
    family(&mut text, "port_waits_total", "counter", "Calls that found no port free.", &waits);
    gauge(&mut text, "exports", "Running exports.", &one(shared.hub.exports().count()));
    if let Some(backups) = &shared.backups {
        jobs(&mut text, &backups.counts());
    }
    if let Some(readers) = &shared.readers {
        let counts = readers.counts();
        let counts = [("export", counts.exports), ("verification", counts.verifications)];
        let counts = counts.map(|(kind, count)| (format!("{{kind=\"{kind}\"}}"), count));
        gauge(&mut text, "readers", "Points that are being read, by what for.", &counts);
    }
    let answers: Vec<_> = shared
        .answers()
        .map(|(digit, count)| (format!("{{status=\"{digit}xx\"}}"), count))
        .collect();
    family(&mut text, "http_responses_total", "counter", "Answers, by status.", &answers);
    text
}

fn jobs(text: &mut String, jobs: &JobCounts) {
    let now = [("waiting", jobs.waiting), ("running", jobs.running)];
    let now = now.map(|(state, count)| (format!("{{state=\"{state}\"}}"), count));
    gauge(text, "jobs", "Backups that are not over, by state.", &now);
    let over = [("done", jobs.done), ("failed", jobs.failed), ("cancelled", jobs.cancelled)];
    let over = over.map(|(state, count)| (format!("{{state=\"{state}\"}}"), count));
    family(text, "jobs_total", "counter", "Backups that are over, by how they ended.", &over);
    let bytes = [
        ("read", jobs.bytes.read),
        ("zero", jobs.bytes.zero),
        ("sent", jobs.bytes.sent),
        ("skipped", jobs.bytes.skipped),
    ];
    let bytes = bytes.map(|(kind, count)| (format!("{{kind=\"{kind}\"}}"), count));
    family(text, "backup_bytes_total", "counter", "Bytes of backups that are done.", &bytes);
}

fn gauge(text: &mut String, name: &str, help: &str, values: &[(String, impl Display)]) {
    family(text, name, "gauge", help, values);
}

fn family(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    values: &[(String, impl Display)],
) {
    let name = format!("blockferry_hub_{name}");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in values {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}
