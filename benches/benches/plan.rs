//! The plan: sets of a million areas, block status cut into segments, segments into requests.

use std::hint::black_box;

use blockferry_dataplane::plan::extents::{HOLE, ZERO};
use blockferry_dataplane::plan::{Area, AreaSet, ExtentCutter, Pieces, RequestSize, Run};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

/// Areas of a large list.
const AREAS: u64 = 1_000_000;
/// Distance between their starts in bytes; a quarter of it is changed.
const STEP: u64 = 256 << 10;
const DISK: u64 = AREAS * STEP;
/// Cluster of a qcow2 image, in bytes.
const CLUSTER: u64 = 64 << 10;
/// Areas that a set read from JSON may have, at most.
const LIMIT: usize = 1 << 20;
const RUNS: u64 = 65_536;

/// Areas that lie askew to every cluster, in ascending order.
fn ascending() -> Vec<Area> {
    (0..AREAS).map(|n| Area::new(n * STEP + n % 7 * 512, STEP / 4)).collect()
}

/// The same in an order that looks random: a walk with a stride that is prime to their number.
fn scattered() -> Vec<Area> {
    let areas = ascending();
    let stride = 618_033;
    (0..areas.len()).map(|n| areas[n * stride % areas.len()]).collect()
}

fn area_sets(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan/a million areas");
    group.sample_size(10);
    group.throughput(Throughput::Elements(AREAS));
    for (name, areas) in
        [("collected, ascending", ascending()), ("collected, in any order", scattered())]
    {
        group.bench_function(name, |b| {
            b.iter(|| AreaSet::from_unsorted(areas.iter().copied(), DISK).expect("they fit"));
        });
    }
    let json: Vec<String> = ascending()
        .iter()
        .map(|area| format!("{{\"start\": {}, \"length\": {}}}", area.start, area.length))
        .collect();
    let json = format!("[{}]", json.join(",\n"));
    group.bench_function("read from JSON", |b| {
        b.iter(|| AreaSet::read_json(json.as_bytes(), DISK, LIMIT).expect("a valid list"));
    });
    let set = AreaSet::from_unsorted(ascending(), DISK).expect("they fit");
    group.bench_function("rounded out to clusters", |b| {
        b.iter(|| black_box(&set).rounded_out(CLUSTER, DISK));
    });
    group.bench_function("merged to 65536", |b| {
        b.iter_batched(|| set.clone(), |set| set.coalesced_to(65_536), BatchSize::LargeInput);
    });
    let other = set.rounded_in(CLUSTER, DISK);
    group.bench_function("subtracted", |b| {
        b.iter(|| black_box(&set).subtract(&other));
    });
    group.finish();
}

fn extents(c: &mut Criterion) {
    let runs: Vec<Run> = (0..RUNS)
        .map(|n| Run {
            length: STEP + n % 5 * 4096,
            flags: if n % 2 == 0 { 0 } else { HOLE | ZERO },
        })
        .collect();
    let length = runs.iter().map(|run| run.length).sum();
    let cutter = ExtentCutter::new(CLUSTER, length).expect("a power of two");
    let mut segments = Vec::new();
    let mut group = c.benchmark_group("plan/block status");
    group.throughput(Throughput::Elements(RUNS));
    group.bench_function("65536 runs cut into segments", |b| {
        b.iter(|| {
            segments.clear();
            let range = Area::new(0, length);
            let cut = cutter.cut(range, Some(black_box(&runs)), None, &mut segments);
            black_box(cut.expect("a whole description"));
        });
    });
    group.finish();
}

fn pieces(c: &mut Criterion) {
    let size = RequestSize::at_most(1 << 20).expect("not zero");
    let area = Area::new(4096, 1 << 40);
    let mut group = c.benchmark_group("plan/requests");
    group.throughput(Throughput::Elements(1 << 20));
    group.bench_function("a TiB cut into pieces of a MiB", |b| {
        b.iter(|| Pieces::new(black_box(area), size).map(|piece| piece.length).sum::<u64>());
    });
    group.finish();
}

criterion_group!(benches, area_sets, extents, pieces);
criterion_main!(benches);
