//! Digests of 64 KiB, in the cache and from memory, and their way into a manifest.

use std::hint::black_box;

use blockferry_benches::{Blocks, noise};
use blockferry_dataplane::digest::{DIGEST_BLOCK, DigestAlgorithm};
use blockferry_dataplane::manifest::{Manifest, ManifestWriter};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Bytes that no cache holds.
const COLD: usize = 512 << 20;
/// Digests of a request of 1 MiB.
const BLOCKS: u64 = 16;
/// Blocks of a disk of 64 GiB.
const DISK_BLOCKS: u64 = 1 << 20;

fn digests(c: &mut Criterion) {
    let block = noise(DIGEST_BLOCK);
    let mut cold = Blocks::new(noise(COLD), DIGEST_BLOCK);
    for algorithm in DigestAlgorithm::ALL {
        let mut group = c.benchmark_group(format!("digest/{algorithm} of 64 KiB"));
        group.throughput(Throughput::Bytes(DIGEST_BLOCK as u64));
        group.bench_function("hot", |b| {
            b.iter(|| algorithm.digest_block(black_box(&block)));
        });
        group.bench_function("from memory", |b| {
            b.iter(|| algorithm.digest_block(black_box(cold.next_block())));
        });
        group.finish();
    }
}

fn manifest(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder for a while");
    let algorithm = DigestAlgorithm::Blake3;
    let size = DISK_BLOCKS * DIGEST_BLOCK as u64;
    let path = folder.path().join("manifest");
    let mut writer = ManifestWriter::create(&path, algorithm, size).expect("a new file");
    let made = vec![algorithm.digest_block(&noise(DIGEST_BLOCK)); 16];
    let mut first = 0;
    let mut group = c.benchmark_group("digest/manifest");
    group.throughput(Throughput::Elements(BLOCKS));
    group.bench_function("16 digests recorded", |b| {
        b.iter(|| {
            let recorded = writer.record_blocks(first, black_box(&made));
            recorded.expect("the blocks are of this disk");
            first = (first + BLOCKS) % DISK_BLOCKS;
        });
    });
    let mut first = 0;
    group.bench_function("16 zero blocks recorded, alone", |b| {
        b.iter(|| {
            let recorded = writer.record_zero(first..first + BLOCKS);
            recorded.expect("the blocks are of this disk");
            first = (first + 2 * BLOCKS) % DISK_BLOCKS;
        });
    });
    group.finish();
}

/// The chain of a disk of 10 GiB: a full layer, and nine with one block of a hundred each.
fn overlay(c: &mut Criterion) {
    const LAYERS: u64 = 10;
    const CHAIN_BLOCKS: u64 = 163_840;
    let folder = tempfile::tempdir().expect("a folder for a while");
    let algorithm = DigestAlgorithm::Blake3;
    let digest = algorithm.digest_block(&noise(DIGEST_BLOCK));
    let layer = |number: u64| {
        let path = folder.path().join(number.to_string());
        let size = CHAIN_BLOCKS * DIGEST_BLOCK as u64;
        let mut writer = ManifestWriter::create(&path, algorithm, size).expect("a new file");
        let step = if number == 0 { 1 } else { 100 };
        for block in (number..CHAIN_BLOCKS).step_by(step) {
            writer.record(block, &digest).expect("a block of this disk");
        }
        writer.finish().expect("a complete manifest");
        Manifest::open(&path).expect("what was just written")
    };
    let chain: Vec<Manifest> = (0..LAYERS).rev().map(layer).collect();
    let path = folder.path().join("whole");
    let mut group = c.benchmark_group("digest/chain of 10 layers");
    group.throughput(Throughput::Elements(CHAIN_BLOCKS));
    group.bench_function("laid over each other", |b| {
        b.iter(|| Manifest::overlay(black_box(&chain), &path).expect("one disk"));
    });
    group.finish();
}

criterion_group!(benches, digests, manifest, overlay);
criterion_main!(benches);
