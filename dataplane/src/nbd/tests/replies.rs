//! Replies in every mode, cut in every way.

use proptest::prelude::*;

use super::super::{NbdError, Reply, ReplyMode, ReplyReader};
use super::server::{Event, simple};
use super::stream::{acks, events, read};

const MODES: [ReplyMode; 3] = [ReplyMode::Simple, ReplyMode::Structured, ReplyMode::Extended];

fn encode(events: &[Event], mode: ReplyMode) -> Vec<u8> {
    events.iter().flat_map(|event| event.encode(mode)).collect()
}

fn cases(
    of: fn(ReplyMode) -> BoxedStrategy<Event>,
) -> impl Strategy<Value = (ReplyMode, Vec<Event>)> {
    prop::sample::select(&MODES[..])
        .prop_flat_map(move |mode| (Just(mode), prop::collection::vec(of(mode), 0..20)))
}

proptest! {
    #[test]
    fn any_cut_of_the_stream_gives_the_same_events(
        (mode, expected) in cases(events),
        pieces in prop::collection::vec(1usize..60, 1..8),
    ) {
        let stream = encode(&expected, mode);
        let read = read(&mut ReplyReader::new(mode), &stream, &pieces);
        prop_assert_eq!(read, Ok(expected));
    }

    #[test]
    fn many_acknowledgements_are_taken_at_once_and_told_apart(
        (mode, expected) in cases(acks),
        pieces in prop::collection::vec(1usize..5000, 1..4),
    ) {
        let mut reader = ReplyReader::new(mode);
        reader.set_acks_only(true);
        let stream = encode(&expected, mode);
        prop_assert_eq!(read(&mut reader, &stream, &pieces), Ok(expected));
    }

    #[test]
    fn a_mode_may_change_to_acknowledgements_and_back_between_replies(
        (mode, first) in cases(acks),
        second in any::<bool>(),
    ) {
        let mut reader = ReplyReader::new(mode);
        let stream = encode(&first, mode);
        reader.set_acks_only(second);
        prop_assert_eq!(read(&mut reader, &stream, &[]), Ok(first.clone()));
        reader.set_acks_only(!second);
        prop_assert_eq!(read(&mut reader, &stream, &[]), Ok(first));
    }

    #[test]
    fn hostile_streams_end_in_an_error_or_in_hunger(
        mode in prop::sample::select(&MODES[..]),
        acks_only in any::<bool>(),
        head in prop::sample::select(&[0x6744_6698u32, 0x668e_33ef, 0x6e8a_278c][..]),
        kind in prop_oneof![0u16..8, 0x8000u16..0x8004],
        tail in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut reader = ReplyReader::new(mode);
        reader.set_acks_only(acks_only);
        let stream = [&head.to_be_bytes()[..], &[0, 1], &kind.to_be_bytes(), &tail].concat();
        let mut rest = &stream[..];
        loop {
            match reader.next() {
                Ok(Some(Reply::Data { .. })) | Err(_) => break,
                Ok(Some(_)) => {}
                Ok(None) if rest.is_empty() => break,
                Ok(None) => {
                    let taken = reader.feed(rest);
                    prop_assert!(taken > 0);
                    rest = &rest[taken..];
                }
            }
        }
    }
}

#[test]
fn one_receive_takes_the_head_of_a_chunk_and_its_offset() {
    for (mode, length) in
        [(ReplyMode::Simple, 16), (ReplyMode::Structured, 28), (ReplyMode::Extended, 40)]
    {
        assert_eq!(ReplyReader::new(mode).wanted(), length);
    }
}

#[test]
fn data_are_announced_after_exactly_one_receive_and_none_of_them_is_swallowed() {
    let event = Event::Data { cookie: 7, offset: 4096, bytes: vec![1; 100], done: true };
    for mode in [ReplyMode::Structured, ReplyMode::Extended] {
        let stream = event.encode(mode);
        let mut reader = ReplyReader::new(mode);
        let taken = reader.feed(&stream);
        assert_eq!(stream.len() - taken, 100);
        let expected = Reply::Data { cookie: 7, offset: 4096, length: 100, done: true };
        assert_eq!(reader.next(), Ok(Some(expected)));
        assert_eq!((reader.wanted(), reader.next()), (0, Ok(None)));
        reader.payload_taken();
        assert!(reader.is_between_replies());
    }
}

#[test]
fn excess_behind_a_short_chunk_belongs_to_the_next_head() {
    let mode = ReplyMode::Structured;
    let stream = encode(&[Event::Done { cookie: 1 }, Event::Done { cookie: 2 }], mode);
    let mut reader = ReplyReader::new(mode);
    assert_eq!(reader.feed(&stream), 28);
    assert_eq!(reader.next(), Ok(Some(Reply::Done { cookie: 1 })));
    assert_eq!(reader.next(), Ok(None));
    assert_eq!(reader.wanted(), 20);
    assert_eq!(reader.feed(&stream[28..]), 12);
    assert_eq!(reader.next(), Ok(Some(Reply::Done { cookie: 2 })));
}

#[test]
fn data_that_came_along_with_a_simple_reply_in_structured_mode_can_be_had_back() {
    let stream = simple(9, None, b"twelve bytes and more");
    let mut reader = ReplyReader::new(ReplyMode::Structured);
    let taken = reader.feed(&stream);
    assert_eq!(reader.next(), Ok(Some(Reply::Simple { cookie: 9, error: None })));
    let mut excess = [0; 64];
    let count = reader.take_excess(&mut excess);
    assert_eq!(&excess[..count], b"twelve bytes");
    assert_eq!(&stream[taken..], b" and more");
}

#[test]
fn a_head_that_is_known_to_be_simple_is_received_to_its_end_only() {
    let stream = simple(9, None, &[]);
    let mut reader = ReplyReader::new(ReplyMode::Structured);
    assert_eq!(reader.feed(&stream[..6]), 6);
    assert_eq!(reader.next(), Ok(None));
    assert_eq!(reader.wanted(), 10);
}

#[test]
fn acknowledgements_are_wanted_by_the_page_where_nothing_is_read() {
    let stream: Vec<u8> = (0..200).flat_map(|cookie| simple(cookie, None, &[])).collect();
    let mut reader = ReplyReader::new(ReplyMode::Simple);
    reader.set_acks_only(true);
    assert_eq!(reader.wanted(), 4096);
    assert_eq!(reader.feed(&stream), stream.len());
    for cookie in 0..200 {
        assert_eq!(reader.next(), Ok(Some(Reply::Simple { cookie, error: None })));
    }
    assert!(reader.is_between_replies());
}

#[test]
fn bytes_can_be_received_straight_into_the_reader() {
    let stream = simple(3, Some(NbdError::NoSpc), &[]);
    let mut reader = ReplyReader::new(ReplyMode::Simple);
    reader.free()[..10].copy_from_slice(&stream[..10]);
    reader.filled(10);
    assert_eq!(reader.next(), Ok(None));
    assert_eq!(reader.free().len(), 6);
    reader.free().copy_from_slice(&stream[10..]);
    reader.filled(6);
    let expected = Reply::Simple { cookie: 3, error: Some(NbdError::NoSpc) };
    assert_eq!(reader.next(), Ok(Some(expected)));
}
