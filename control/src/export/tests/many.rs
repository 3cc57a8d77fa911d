//! As many exports as a hub has.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::*;

const ALL: u16 = 101;

/// `cargo test --release -p blockferry-control --lib all_the_exports -- --ignored --nocapture`;
/// the results are in benches/runs/2026-11-24-exports.txt.
#[test]
#[ignore = "measures; run it alone, on a machine with nothing else to do"]
fn all_the_exports_of_a_hub_are_measured() {
    for starters in [1, 2, 4, 8] {
        let mut bench = Bench::new();
        bench.settings = ExportSettings::for_exports(ALL);
        let images: Vec<PathBuf> = (0..ALL).map(|n| bench.path(&format!("{n}.qcow2"))).collect();

        let begun = Instant::now();
        by_threads(starters, &images, |image| {
            Image::create(image, 16 * MIB, None, ImageTool::default()).unwrap();
        });
        let created = begun.elapsed();

        let exports = Mutex::new(Vec::new());
        let begun = Instant::now();
        by_threads(starters, &images, |image| {
            let mut spec = bench.spec(image, ExportAccess::Writable);
            spec.listener = Listener::tcp(0).unwrap();
            let export = Export::start(spec, &bench.settings).unwrap();
            exports.lock().unwrap().push(export);
        });
        let ready = begun.elapsed();
        let exports = exports.into_inner().unwrap();
        assert_eq!(exports.len(), usize::from(ALL));
        let usage: Vec<ExportUsage> =
            exports.iter().map(|export| export.usage().unwrap()).collect();
        let pss_mib = usage.iter().map(|usage| usage.pss_bytes).sum::<u64>() as f64 / MIB as f64;
        let cache = exports[0].cache();
        let begun = Instant::now();
        for export in exports {
            export.end().unwrap();
        }
        let ended = begun.elapsed();
        println!(
            "{ALL} exports, {starters} at a time, {cache:?}: images made in {created:.2?}, \
             exports ready in {ready:.2?}, {pss_mib:.1} MiB PSS idle in all, ended in {ended:.2?}"
        );
    }
}

fn by_threads(threads: usize, images: &[PathBuf], work: impl Fn(&Path) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(image) = images.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(image);
                }
            });
        }
    });
}
