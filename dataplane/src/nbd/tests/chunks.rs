//! Chunks that a server must not send.

use super::super::wire::*;
use super::super::{NbdError, Reply, ReplyError, ReplyLimits, ReplyMode, ReplyReader};
use super::server::{chunk, error_payload, simple, status_payload};
use super::stream::read;

const STRUCTURED: ReplyMode = ReplyMode::Structured;
const EXTENDED: ReplyMode = ReplyMode::Extended;

fn error_of(mode: ReplyMode, kind: u16, payload: &[u8]) -> ReplyError {
    let stream = chunk(mode, true, kind, 5, payload);
    read(&mut ReplyReader::new(mode), &stream, &[]).unwrap_err()
}

fn is_length(error: &ReplyError) -> bool {
    matches!(error, ReplyError::Length { cookie: 5, .. })
}

fn is_content(error: &ReplyError) -> bool {
    matches!(error, ReplyError::Content { cookie: 5, .. })
}

#[test]
fn a_wrong_magic_number_is_an_error() {
    let mut reader = ReplyReader::new(STRUCTURED);
    reader.feed(b"HTTP");
    assert_eq!(reader.next(), Err(ReplyError::Magic { magic: 0x4854_5450 }));
}

#[test]
fn heads_of_another_mode_are_an_error() {
    let heads = [
        (ReplyMode::Simple, chunk(STRUCTURED, true, 0, 5, &[])),
        (ReplyMode::Simple, chunk(EXTENDED, true, 0, 5, &[])),
        (STRUCTURED, chunk(EXTENDED, true, 0, 5, &[])),
        (EXTENDED, chunk(STRUCTURED, true, 0, 5, &[])),
        (EXTENDED, simple(5, None, &[])),
    ];
    for (mode, stream) in heads {
        let error = read(&mut ReplyReader::new(mode), &stream, &[]).unwrap_err();
        assert!(matches!(error, ReplyError::Magic { .. }), "{mode:?}: {error}");
    }
}

#[test]
fn an_unknown_type_without_the_error_bit_is_an_error() {
    let error = error_of(STRUCTURED, 77, &[0; 8]);
    assert_eq!(error, ReplyError::Kind { cookie: 5, kind: 77 });
}

#[test]
fn extended_status_in_structured_mode_is_an_error() {
    let payload = status_payload(EXTENDED, 1, &[(512, 0)]);
    let error = error_of(STRUCTURED, NBD_REPLY_TYPE_BLOCK_STATUS_EXT, &payload);
    assert!(matches!(error, ReplyError::Kind { kind: 6, .. }));
}

#[test]
fn lengths_that_do_not_go_with_the_type_are_errors() {
    let wrong: [(u16, usize); 11] = [
        (NBD_REPLY_TYPE_NONE, 1),
        (NBD_REPLY_TYPE_OFFSET_DATA, 0),
        (NBD_REPLY_TYPE_OFFSET_DATA, 8),
        (NBD_REPLY_TYPE_OFFSET_HOLE, 11),
        (NBD_REPLY_TYPE_OFFSET_HOLE, 13),
        (NBD_REPLY_TYPE_BLOCK_STATUS, 4),
        (NBD_REPLY_TYPE_BLOCK_STATUS, 13),
        (NBD_REPLY_TYPE_ERROR, 5),
        (NBD_REPLY_TYPE_ERROR, 70_000),
        (NBD_REPLY_TYPE_ERROR_OFFSET, 13),
        (0x8123, 70_000),
    ];
    for (kind, length) in wrong {
        for mode in [STRUCTURED, EXTENDED] {
            let error = error_of(mode, kind, &vec![1; length]);
            assert!(is_length(&error), "{kind} of {length}: {error}");
        }
    }
    for length in [8, 23, 25] {
        assert!(is_length(&error_of(EXTENDED, NBD_REPLY_TYPE_BLOCK_STATUS_EXT, &vec![1; length])));
    }
}

#[test]
fn a_length_beyond_the_limits_is_an_error_before_memory_is_taken() {
    let limits = ReplyLimits { data_len: 4096, status_len: 44 };
    for (kind, length) in [(NBD_REPLY_TYPE_OFFSET_DATA, 4105), (NBD_REPLY_TYPE_BLOCK_STATUS, 52)] {
        let stream = chunk(STRUCTURED, true, kind, 5, &vec![1; length]);
        let mut reader = ReplyReader::with_limits(STRUCTURED, limits);
        assert!(is_length(&read(&mut reader, &stream, &[]).unwrap_err()));
    }
    let mut head = chunk(EXTENDED, true, NBD_REPLY_TYPE_BLOCK_STATUS_EXT, 5, &[]);
    head[24..32].copy_from_slice(&(u64::MAX - 7).to_be_bytes());
    let mut reader = ReplyReader::new(EXTENDED);
    reader.feed(&head);
    assert!(is_length(&reader.next().unwrap_err()));
}

#[test]
fn a_chunk_without_content_must_end_the_reply() {
    let stream = chunk(STRUCTURED, false, NBD_REPLY_TYPE_NONE, 5, &[]);
    assert!(is_content(&read(&mut ReplyReader::new(STRUCTURED), &stream, &[]).unwrap_err()));
}

#[test]
fn data_and_holes_must_end_within_64_bits() {
    let far = (u64::MAX - 10).to_be_bytes();
    let data = [&far[..], &[0; 11]].concat();
    assert!(is_content(&error_of(STRUCTURED, NBD_REPLY_TYPE_OFFSET_DATA, &data)));
    let hole = [&far[..], &11u32.to_be_bytes()].concat();
    assert!(is_content(&error_of(EXTENDED, NBD_REPLY_TYPE_OFFSET_HOLE, &hole)));
}

#[test]
fn a_hole_of_no_bytes_is_an_error() {
    assert!(is_content(&error_of(STRUCTURED, NBD_REPLY_TYPE_OFFSET_HOLE, &[0; 12])));
}

#[test]
fn extents_of_no_bytes_are_an_error() {
    let payload = status_payload(STRUCTURED, 1, &[(512, 0), (0, 3)]);
    assert!(is_content(&error_of(STRUCTURED, NBD_REPLY_TYPE_BLOCK_STATUS, &payload)));
}

#[test]
fn extents_that_add_up_beyond_64_bits_are_an_error() {
    let payload = status_payload(EXTENDED, 1, &[(u64::MAX, 0), (1, 3)]);
    assert!(is_content(&error_of(EXTENDED, NBD_REPLY_TYPE_BLOCK_STATUS_EXT, &payload)));
}

#[test]
fn a_count_of_extents_that_is_not_theirs_is_an_error() {
    let mut payload = status_payload(EXTENDED, 1, &[(512, 0)]);
    payload[7] = 2;
    assert!(is_content(&error_of(EXTENDED, NBD_REPLY_TYPE_BLOCK_STATUS_EXT, &payload)));
}

#[test]
fn an_error_message_longer_than_its_chunk_is_an_error() {
    let mut payload = error_payload(NBD_EIO, "disk on fire", None);
    payload[5] = 13;
    assert!(is_content(&error_of(STRUCTURED, NBD_REPLY_TYPE_ERROR, &payload)));
}

#[test]
fn an_error_message_longer_than_a_string_may_be_is_an_error() {
    let payload = error_payload(NBD_EIO, &"x".repeat(4097), None);
    assert!(is_content(&error_of(STRUCTURED, NBD_REPLY_TYPE_ERROR, &payload)));
}

fn single(mode: ReplyMode, stream: &[u8], check: impl FnOnce(Reply<'_>)) {
    let mut reader = ReplyReader::new(mode);
    let mut rest = stream;
    while !rest.is_empty() {
        assert!(reader.wanted() > 0);
        rest = &rest[reader.feed(rest)..];
        if rest.is_empty() {
            break;
        }
        assert_eq!(reader.next(), Ok(None));
    }
    check(reader.next().unwrap().unwrap());
}

#[test]
fn an_unknown_kind_of_error_fails_the_request_and_not_the_connection() {
    let payload = [&error_payload(NBD_EIO, "odd", None)[..], &[9; 30]].concat();
    single(STRUCTURED, &chunk(STRUCTURED, true, 0x8123, 5, &payload), |reply| {
        let (error, message) = (NbdError::Inval, "odd");
        assert_eq!(reply, Reply::Error { cookie: 5, error, message, offset: None, done: true });
    });
}

#[test]
fn an_unknown_number_counts_as_invalid_and_keeps_its_number() {
    let payload = error_payload(4711, "", None);
    single(EXTENDED, &chunk(EXTENDED, false, NBD_REPLY_TYPE_ERROR, 5, &payload), |reply| {
        let Reply::Error { error, done: false, .. } = reply else { panic!("{reply:?}") };
        assert_eq!((error.effective(), error.number()), (NbdError::Inval, 4711));
        assert_eq!(error.to_string(), "invalid request (unknown error 4711)");
    });
}

#[test]
fn an_error_of_number_zero_is_an_error_still() {
    let payload = error_payload(0, "", None);
    single(STRUCTURED, &chunk(STRUCTURED, true, NBD_REPLY_TYPE_ERROR, 5, &payload), |reply| {
        let Reply::Error { error, .. } = reply else { panic!("{reply:?}") };
        assert_eq!(error.effective(), NbdError::Inval);
    });
}

#[test]
fn an_error_message_cannot_break_out_of_its_line() {
    let payload = error_payload(NBD_ESHUTDOWN, "bye\n\x1b[2Jroot# \u{202e}", Some(8192));
    single(
        STRUCTURED,
        &chunk(STRUCTURED, true, NBD_REPLY_TYPE_ERROR_OFFSET, 5, &payload),
        |reply| {
            let Reply::Error { error, message, offset, .. } = reply else { panic!("{reply:?}") };
            assert!(error.is_shutdown());
            assert_eq!(offset, Some(8192));
            assert_eq!(message, "bye\\n\\u{1b}[2Jroot# \\u{202e}");
        },
    );
}

#[test]
fn data_where_only_acknowledgements_are_due_are_an_error() {
    let stream = chunk(STRUCTURED, true, NBD_REPLY_TYPE_OFFSET_DATA, 5, &[0; 100]);
    let mut reader = ReplyReader::new(STRUCTURED);
    reader.set_acks_only(true);
    reader.feed(&stream);
    assert_eq!(reader.next(), Err(ReplyError::UnexpectedData { cookie: 5 }));
}
