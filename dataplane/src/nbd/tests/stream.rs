//! The owner of a reader, for the tests: it receives no more than is wanted, and takes data itself.

use proptest::prelude::*;

use super::super::{NbdError, Reply, ReplyError, ReplyMode, ReplyReader};
use super::server::Event;

/// In these tests the low byte of a cookie is the length of the data that a READ of it is due.
pub(super) fn data_len(cookie: u64) -> usize {
    usize::from(cookie.to_be_bytes()[7])
}

/// Reads `stream` in pieces of the given sizes, over and over, to its end.
pub(super) fn read(
    reader: &mut ReplyReader,
    stream: &[u8],
    pieces: &[usize],
) -> Result<Vec<Event>, ReplyError> {
    let mut stream = stream;
    let mut sizes = pieces.iter().copied().cycle();
    let mut events = Vec::new();
    loop {
        while let Some(event) = next(reader, &mut stream)? {
            events.push(event);
        }
        if stream.is_empty() {
            assert!(reader.is_between_replies(), "the stream ended, and more is wanted");
            return Ok(events);
        }
        let wanted = reader.wanted();
        assert!(wanted > 0, "nothing to say and nothing wanted");
        let size = sizes.next().unwrap_or(usize::MAX).min(wanted).min(stream.len());
        assert_eq!(reader.feed(&stream[..size]), size);
        stream = &stream[size..];
    }
}

fn next(reader: &mut ReplyReader, stream: &mut &[u8]) -> Result<Option<Event>, ReplyError> {
    let Some(reply) = reader.next()? else {
        return Ok(None);
    };
    let event = match reply {
        Reply::Data { cookie, offset, length, done } => {
            let (bytes, rest) = stream.split_at(usize::try_from(length).unwrap());
            *stream = rest;
            assert_eq!(reader.wanted(), 0);
            assert_eq!(reader.next(), Ok(None));
            reader.payload_taken();
            Event::Data { cookie, offset, bytes: bytes.to_vec(), done }
        }
        Reply::Hole { cookie, offset, length, done } => {
            Event::Hole { cookie, offset, length, done }
        }
        Reply::Status { cookie, context, extents, done } => {
            let extents = extents.map(|extent| (extent.length, extent.flags)).collect();
            Event::Status { cookie, context, extents, done }
        }
        Reply::Error { cookie, error, message, offset, done } => {
            Event::Error { cookie, error, message: message.to_owned(), offset, done }
        }
        Reply::Done { cookie } => Event::Done { cookie },
        Reply::Simple { cookie, error } => {
            let length = if error.is_none() { data_len(cookie) } else { 0 };
            let mut bytes = vec![0; length];
            let taken = reader.take_excess(&mut bytes);
            let (data, rest) = stream.split_at(length - taken);
            bytes[taken..].copy_from_slice(data);
            *stream = rest;
            reader.payload_taken();
            Event::Simple { cookie, error, bytes }
        }
    };
    Ok(Some(event))
}

fn errors() -> impl Strategy<Value = NbdError> {
    (1u32..200).prop_map(|number| NbdError::from_wire(number).unwrap())
}

fn extents(mode: ReplyMode) -> impl Strategy<Value = Vec<(u64, u64)>> {
    let most = if mode == ReplyMode::Extended { 1 << 56 } else { u64::from(u32::MAX) };
    prop::collection::vec((1..=most, 0..=most), 1..40)
}

/// Simple replies; with data, if the server answers a READ so.
fn simple_replies(with_data: bool) -> BoxedStrategy<Event> {
    (any::<u64>(), prop::option::of(errors()), any::<u8>())
        .prop_map(move |(cookie, error, byte)| {
            let cookie = if with_data { cookie } else { cookie & !0xff };
            let length = if error.is_none() { data_len(cookie) } else { 0 };
            Event::Simple { cookie, error, bytes: vec![byte; length] }
        })
        .boxed()
}

/// Chunks without data.
fn small_chunks(mode: ReplyMode) -> BoxedStrategy<Event> {
    let cookie = any::<u64>();
    let place = (any::<u64>(), 1..=u32::MAX).prop_map(|(offset, length)| (offset >> 1, length));
    prop_oneof![
        (cookie, place, any::<bool>()).prop_map(|(cookie, (offset, length), done)| {
            Event::Hole { cookie, offset, length, done }
        }),
        (cookie, any::<u32>(), extents(mode), any::<bool>()).prop_map(
            |(cookie, context, extents, done)| Event::Status { cookie, context, extents, done }
        ),
        (cookie, errors(), "[ -~]{0,60}", any::<Option<u64>>(), any::<bool>()).prop_map(
            |(cookie, error, message, offset, done)| {
                Event::Error { cookie, error, message, offset, done }
            }
        ),
        cookie.prop_map(|cookie| Event::Done { cookie }),
    ]
    .boxed()
}

/// What a server may send in a mode where nothing is read.
pub(super) fn acks(mode: ReplyMode) -> BoxedStrategy<Event> {
    match mode {
        ReplyMode::Simple => simple_replies(false),
        ReplyMode::Structured => prop_oneof![small_chunks(mode), simple_replies(false)].boxed(),
        ReplyMode::Extended => small_chunks(mode),
    }
}

/// What a server may send in a mode, and in structured mode a READ with a simple reply, which it may not.
pub(super) fn events(mode: ReplyMode) -> BoxedStrategy<Event> {
    let bytes = prop::collection::vec(any::<u8>(), 1..300);
    let data = (any::<u64>(), any::<u64>(), bytes, any::<bool>()).prop_map(
        |(cookie, offset, bytes, done)| Event::Data { cookie, offset: offset >> 1, bytes, done },
    );
    match mode {
        ReplyMode::Simple => simple_replies(true),
        ReplyMode::Structured => {
            prop_oneof![data, small_chunks(mode), simple_replies(true)].boxed()
        }
        ReplyMode::Extended => prop_oneof![data, small_chunks(mode)].boxed(),
    }
}
