//! The codec: heads of requests, and replies of the three modes.

use std::hint::black_box;

use blockferry_dataplane::nbd::{
    Command, CommandFlags, MAX_REQUEST_LEN, Reply, ReplyMode, ReplyReader, Request, wire,
};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const MODES: [(ReplyMode, &str); 3] = [
    (ReplyMode::Simple, "simple"),
    (ReplyMode::Structured, "structured"),
    (ReplyMode::Extended, "extended"),
];
/// Replies in a stream that is read.
const REPLIES: u64 = 256;
/// Bytes of data that each structured or extended reply announces.
const DATA: u32 = 256 << 10;
/// Extents of a large answer to BLOCK_STATUS.
const EXTENTS: u64 = 65_536;

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec/encode a request");
    group.throughput(Throughput::Elements(1));
    for (mode, name) in MODES {
        let mut cookie = 0;
        let mut out = [0; MAX_REQUEST_LEN];
        group.bench_function(name, |b| {
            b.iter(|| {
                cookie += 1;
                let request = Request {
                    command: Command::Write,
                    flags: CommandFlags::NONE,
                    cookie,
                    offset: cookie << 20,
                    length: 1 << 20,
                };
                black_box(black_box(request).encode(mode, &mut out));
                black_box(&out);
            });
        });
    }
    group.finish();
}

/// The head of an answer to a READ.
fn data_head(mode: ReplyMode, cookie: u64) -> Vec<u8> {
    let mut head = Vec::new();
    let length = DATA + 8;
    match mode {
        ReplyMode::Simple => return ack(cookie).to_vec(),
        ReplyMode::Structured => head.extend(wire::NBD_STRUCTURED_REPLY_MAGIC.to_be_bytes()),
        ReplyMode::Extended => head.extend(wire::NBD_EXTENDED_REPLY_MAGIC.to_be_bytes()),
    }
    head.extend(wire::NBD_REPLY_FLAG_DONE.to_be_bytes());
    head.extend(wire::NBD_REPLY_TYPE_OFFSET_DATA.to_be_bytes());
    head.extend(cookie.to_be_bytes());
    if mode == ReplyMode::Extended {
        head.extend((cookie << 20).to_be_bytes());
        head.extend(u64::from(length).to_be_bytes());
    } else {
        head.extend(length.to_be_bytes());
    }
    head.extend((cookie << 20).to_be_bytes());
    head
}

fn ack(cookie: u64) -> [u8; wire::SIMPLE_REPLY_LEN] {
    let mut ack = [0; wire::SIMPLE_REPLY_LEN];
    ack[..4].copy_from_slice(&wire::NBD_SIMPLE_REPLY_MAGIC.to_be_bytes());
    ack[8..].copy_from_slice(&cookie.to_be_bytes());
    ack
}

/// Feeds as a lane does: what is wanted, event for event. Returns the number of events.
fn read_all(reader: &mut ReplyReader, mut stream: &[u8]) -> u64 {
    let mut events = 0;
    while !stream.is_empty() {
        let taken = reader.feed(stream);
        stream = &stream[taken..];
        loop {
            let data = match reader.next().expect("the stream is whole") {
                None => break,
                Some(event) => {
                    events += 1;
                    matches!(black_box(event), Reply::Data { .. })
                }
            };
            if data {
                // The payload itself never enters the reader, so this stream has none.
                reader.payload_taken();
            }
        }
    }
    events
}

fn replies(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec/heads of data");
    group.throughput(Throughput::Elements(REPLIES));
    for (mode, name) in MODES {
        let stream: Vec<u8> = (0..REPLIES).flat_map(|n| data_head(mode, n)).collect();
        let mut reader = ReplyReader::new(mode);
        group.bench_function(name, |b| {
            b.iter(|| assert_eq!(read_all(&mut reader, black_box(&stream)), REPLIES));
        });
    }
    group.finish();
}

fn acknowledgements(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec/acknowledgements");
    group.throughput(Throughput::Elements(REPLIES));
    let stream: Vec<u8> = (0..REPLIES).flat_map(ack).collect();
    for (acks_only, name) in [(false, "one at a time"), (true, "many at once")] {
        let mut reader = ReplyReader::new(ReplyMode::Structured);
        reader.set_acks_only(acks_only);
        group.bench_function(name, |b| {
            b.iter(|| assert_eq!(read_all(&mut reader, black_box(&stream)), REPLIES));
        });
    }
    group.finish();
}

fn block_status(c: &mut Criterion) {
    let mut chunk = Vec::new();
    let length = u32::try_from(4 + EXTENTS * 8).expect("half a MiB");
    chunk.extend(wire::NBD_STRUCTURED_REPLY_MAGIC.to_be_bytes());
    chunk.extend(wire::NBD_REPLY_FLAG_DONE.to_be_bytes());
    chunk.extend(wire::NBD_REPLY_TYPE_BLOCK_STATUS.to_be_bytes());
    chunk.extend(1_u64.to_be_bytes());
    chunk.extend(length.to_be_bytes());
    chunk.extend(7_u32.to_be_bytes());
    for n in 0..u32::try_from(EXTENTS).expect("a constant") {
        chunk.extend(65_536_u32.to_be_bytes());
        chunk.extend((n % 2 * 3).to_be_bytes());
    }
    let mut group = c.benchmark_group("codec/block status");
    group.throughput(Throughput::Elements(EXTENTS));
    group.bench_function("65536 extents in one chunk", |b| {
        b.iter_batched_ref(
            || ReplyReader::new(ReplyMode::Structured),
            |reader| {
                let mut stream = &chunk[..];
                loop {
                    let taken = reader.feed(stream);
                    stream = &stream[taken..];
                    if let Some(Reply::Status { extents, .. }) =
                        reader.next().expect("the chunk is whole")
                    {
                        return black_box(extents.filter(|extent| extent.is_zero()).count());
                    }
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, encode, replies, acknowledgements, block_status);
criterion_main!(benches);
