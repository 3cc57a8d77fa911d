//! The zero scan: in the cache, and from memory.

use std::hint::black_box;

use blockferry_benches::{Blocks, noise};
use blockferry_dataplane::zero::{is_zero, zero_runs};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Unit of the search for runs, in bytes; that of the pooled path.
const UNIT: usize = 4096;
/// Bytes of a block that stays in the cache.
const HOT: usize = 256 << 10;
/// Bytes that no cache holds.
const COLD: usize = 512 << 20;

fn whole_blocks(c: &mut Criterion) {
    let mut group = c.benchmark_group("zero/is_zero, 256 KiB of zeros");
    group.throughput(Throughput::Bytes(HOT as u64));
    let block = vec![0; HOT];
    group.bench_function("hot", |b| b.iter(|| assert!(is_zero(black_box(&block)))));
    let mut cold = Blocks::new(vec![0; COLD], HOT);
    group.bench_function("from memory", |b| {
        b.iter(|| assert!(is_zero(black_box(cold.next_block()))));
    });
    group.finish();
}

fn data_is_noticed(c: &mut Criterion) {
    let block = noise(HOT);
    c.bench_function("zero/is_zero, 256 KiB of data", |b| {
        b.iter(|| assert!(!is_zero(black_box(&block))));
    });
}

fn runs(c: &mut Criterion) {
    let mut group = c.benchmark_group("zero/runs of 4 KiB in 256 KiB");
    group.throughput(Throughput::Bytes(HOT as u64));
    let data = noise(HOT);
    let mut mixed = data.clone();
    for unit in mixed.chunks_mut(UNIT).step_by(2) {
        unit.fill(0);
    }
    for (name, block) in
        [("zeros", &vec![0; HOT]), ("data", &data), ("every other unit zero", &mixed)]
    {
        group.bench_function(format!("{name}, hot"), |b| {
            b.iter(|| zero_runs(black_box(block), UNIT).count());
        });
    }
    let mut cold = Blocks::new(noise(COLD), HOT);
    group.bench_function("data, from memory", |b| {
        b.iter(|| zero_runs(black_box(cold.next_block()), UNIT).count());
    });
    group.finish();
}

criterion_group!(benches, whole_blocks, data_is_noticed, runs);
criterion_main!(benches);
