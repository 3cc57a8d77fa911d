//! The pool: claims, shares and returns of buffers, beside the allocator's way.

use std::hint::black_box;

use blockferry_dataplane::bench::{Buf, Pool};
use criterion::{Criterion, criterion_group, criterion_main};

const SLOT: usize = 256 << 10;
const SLOTS: usize = 64;

fn claims(c: &mut Criterion) {
    let pool = Pool::new(SLOT, SLOTS).expect("16 MiB of address space");
    let mut group = c.benchmark_group("pool");
    group.bench_function("claim and return", |b| {
        b.iter(|| black_box(pool.claim()).is_some());
    });
    group.bench_function("claim, share twice, return", |b| {
        b.iter(|| {
            let buf = pool.claim().expect("nobody else claims");
            black_box((buf.share(), buf.share(), buf));
        });
    });
    group.bench_function("claim all 64, return all", |b| {
        let mut held: Vec<Buf> = Vec::with_capacity(SLOTS);
        b.iter(|| {
            held.extend(std::iter::from_fn(|| pool.claim()));
            held.clear();
        });
    });
    group.bench_function("claim when all are in use", |b| {
        let _held: Vec<Buf> = std::iter::from_fn(|| pool.claim()).collect();
        b.iter(|| assert!(black_box(pool.claim()).is_none()));
    });
    group.bench_function("claim and touch each page", |b| {
        b.iter(|| {
            let mut buf = pool.claim().expect("nobody else claims");
            touch(buf.bytes_mut());
        });
    });
    group.bench_function("allocate, touch each page, free", |b| {
        b.iter(|| touch(&mut vec![0; SLOT]));
    });
    group.finish();
}

fn touch(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().step_by(4096) {
        *byte = 1;
    }
    black_box(bytes);
}

criterion_group!(benches, claims);
criterion_main!(benches);
