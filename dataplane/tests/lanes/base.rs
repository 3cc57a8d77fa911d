//! Targets that hold a base, and the manifests of what they hold.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use blockferry_dataplane::LaneSettings;
use blockferry_dataplane::digest::DigestAlgorithm;
use blockferry_dataplane::manifest::{Manifest, ManifestWriter};
use blockferry_doubles::Server;
use blockferry_doubles::disk::{compare, qemu_img_create};
use blockferry_doubles::process::run_ok;
use tempfile::TempDir;

use super::{HANG, Way, folder, serve_qcow2, settings};

pub(crate) const BLOCK: usize = 64 << 10;

/// The manifest of some content: zeros as runs or digested, which says the same.
pub(crate) fn manifest_of(path: &Path, content: &[u8], zeros_as_runs: bool) -> Arc<Manifest> {
    let algorithm = DigestAlgorithm::Blake3;
    let mut writer = ManifestWriter::create(path, algorithm, content.len() as u64).unwrap();
    for (index, block) in (0..).zip(content.chunks(BLOCK)) {
        if zeros_as_runs && block.iter().all(|byte| *byte == 0) {
            writer.record_zero(index..index + 1).unwrap();
        } else {
            writer.record(index, &algorithm.digest_block(block)).unwrap();
        }
    }
    writer.finish().unwrap();
    Arc::new(Manifest::open(path).unwrap())
}

/// Settings of a lane whose target holds this.
pub(crate) fn over(way: Way, base: &Arc<Manifest>) -> LaneSettings {
    LaneSettings {
        digest: Some(DigestAlgorithm::Blake3),
        base: Some(Arc::clone(base)),
        ..settings(way)
    }
}

/// The blocks in which two contents differ, as ranges of bytes.
pub(crate) fn differing(one: &[u8], other: &[u8]) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for (index, (one, other)) in one.chunks(BLOCK).zip(other.chunks(BLOCK)).enumerate() {
        let at = (index * BLOCK) as u64;
        match ranges.last_mut() {
            _ if one == other => {}
            Some((start, length)) if *start + *length == at => *length += one.len() as u64,
            _ => ranges.push((at, one.len() as u64)),
        }
    }
    ranges
}

pub(crate) fn total(ranges: &[(u64, u64)]) -> u64 {
    ranges.iter().map(|(_, length)| length).sum()
}

/// A layer over a base, behind qemu-nbd, and the manifest of the base.
pub(crate) struct Overlay {
    pub(crate) dir: TempDir,
    pub(crate) image: PathBuf,
    pub(crate) server: Server,
    pub(crate) base: Arc<Manifest>,
}

impl Overlay {
    pub(crate) fn over(content: &[u8]) -> Self {
        let dir = folder();
        let (raw, image) = (dir.path().join("base.raw"), dir.path().join("layer.qcow2"));
        std::fs::write(&raw, content).unwrap();
        qemu_img_create(&image, "qcow2", content.len() as u64, Some((&raw, "raw"))).unwrap();
        let base = manifest_of(&dir.path().join("base.manifest"), content, true);
        Self { server: serve_qcow2(&image), dir, image, base }
    }

    /// Ends the server, and compares what a reader of the layer sees.
    pub(crate) fn holds(&mut self, content: &[u8]) {
        self.server.child.term_and_wait(HANG).unwrap();
        let wanted = self.dir.path().join("wanted.raw");
        std::fs::write(&wanted, content).unwrap();
        compare(&wanted, &self.image, "qcow2").unwrap();
    }

    /// Bytes that the layer holds itself, data and zeros, by qemu's own map of it.
    pub(crate) fn own_bytes(&self) -> u64 {
        let mut map = Command::new("qemu-img");
        map.args(["map", "-U", "-f", "qcow2", "--output=json"]).arg(&self.image);
        let map: serde_json::Value =
            serde_json::from_slice(&run_ok(map, HANG).unwrap().stdout).unwrap();
        let own = map.as_array().unwrap().iter().filter(|extent| extent["depth"] == 0);
        own.map(|extent| extent["length"].as_u64().unwrap()).sum()
    }
}
