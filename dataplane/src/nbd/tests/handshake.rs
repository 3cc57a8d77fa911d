//! Handshakes that reach their goal.

use proptest::prelude::*;

use super::super::wire::*;
use super::super::{
    Advance, BlockSize, ClientWishes, ExportInfo, Handshake, HandshakeError, HandshakeStatus,
    MetaContext, ReplyMode, Session, Tls,
};
use super::server::{
    ack, block_size_info, context, export_info, fixed_greeting, greeting, listed, option_reply,
    refusal,
};

const FLAGS: u16 = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_DF;

pub(super) fn wishes() -> ClientWishes {
    ClientWishes {
        export: "disk".to_owned(),
        tls: Tls::Never,
        extended_headers: true,
        structured_replies: true,
        contexts: vec!["base:allocation".to_owned()],
    }
}

/// Gives the whole stream to the handshake at once.
pub(super) fn drive(
    handshake: &mut Handshake,
    stream: &[u8],
) -> Result<(HandshakeStatus, Vec<u8>), HandshakeError> {
    let mut output = Vec::new();
    let Advance { consumed, status } = handshake.advance(stream, &mut output)?;
    assert_eq!(consumed, stream.len());
    Ok((status, output))
}

/// The numbers of the options in what a client sent after its flags.
pub(super) fn asked(mut output: &[u8]) -> Vec<u32> {
    let mut options = Vec::new();
    while !output.is_empty() {
        let (head, rest) = output.split_at(OPTION_HEAD_LEN);
        assert_eq!(head[..8], IHAVEOPT.to_be_bytes());
        options.push(u32::from_be_bytes(head[8..12].try_into().unwrap()));
        let length = u32::from_be_bytes(head[12..].try_into().unwrap());
        output = &rest[usize::try_from(length).unwrap()..];
    }
    options
}

/// The end of every handshake that opens an export.
pub(super) fn go() -> Vec<u8> {
    [export_info(1 << 30, FLAGS), block_size_info([512, 65536, 32 << 20]), ack(NBD_OPT_GO)].concat()
}

pub(super) fn session(mode: ReplyMode, contexts: &[(u32, &str)]) -> Session {
    let contexts = contexts.iter().map(|&(id, name)| MetaContext { id, name: name.to_owned() });
    Session {
        size: 1 << 30,
        flags: super::super::TransmissionFlags::from_wire(FLAGS).in_mode(mode),
        block_size: BlockSize { minimum: 512, preferred: 65536, maximum: 32 << 20 },
        mode,
        contexts: contexts.collect(),
    }
}

fn extended() -> Vec<u8> {
    [
        fixed_greeting(),
        ack(NBD_OPT_EXTENDED_HEADERS),
        context(7, "base:allocation"),
        ack(NBD_OPT_SET_META_CONTEXT),
        go(),
    ]
    .concat()
}

#[test]
fn extended_headers_are_tried_first() {
    let (status, output) = drive(&mut Handshake::open(wishes()), &extended()).unwrap();
    let expected = session(ReplyMode::Extended, &[(7, "base:allocation")]);
    assert_eq!(expected.context("base:allocation"), Some(7));
    assert_eq!(status, HandshakeStatus::Ready(expected));
    assert_eq!(output[..4], 3u32.to_be_bytes());
    assert_eq!(asked(&output[4..]), [11, 10, 7]);
}

#[test]
fn structured_replies_are_the_fallback() {
    for code in [NBD_REP_ERR_UNSUP, NBD_REP_ERR_INVALID, NBD_REP_ERR_POLICY] {
        let stream = [
            fixed_greeting(),
            refusal(NBD_OPT_EXTENDED_HEADERS, code, "what is that?"),
            ack(NBD_OPT_STRUCTURED_REPLY),
            context(1, "base:allocation"),
            ack(NBD_OPT_SET_META_CONTEXT),
            go(),
        ];
        let (status, output) = drive(&mut Handshake::open(wishes()), &stream.concat()).unwrap();
        let expected = session(ReplyMode::Structured, &[(1, "base:allocation")]);
        assert_eq!(status, HandshakeStatus::Ready(expected));
        assert_eq!(asked(&output[4..]), [11, 8, 10, 7]);
    }
}

#[test]
fn a_server_without_chunks_is_not_asked_for_contexts() {
    let stream = [
        fixed_greeting(),
        refusal(NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_UNSUP, ""),
        refusal(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_UNSUP, ""),
        go(),
    ];
    let (status, output) = drive(&mut Handshake::open(wishes()), &stream.concat()).unwrap();
    let HandshakeStatus::Ready(session) = status else { panic!("{status:?}") };
    assert_eq!((session.mode, session.flags.send_df()), (ReplyMode::Simple, false));
    assert_eq!(asked(&output[4..]), [11, 8, 7]);
}

#[test]
fn refused_contexts_do_not_end_the_handshake() {
    let stream = [
        fixed_greeting(),
        ack(NBD_OPT_EXTENDED_HEADERS),
        context(1, "base:allocation"),
        refusal(NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_UNKNOWN, "no"),
        go(),
    ];
    let (status, _) = drive(&mut Handshake::open(wishes()), &stream.concat()).unwrap();
    assert_eq!(status, HandshakeStatus::Ready(session(ReplyMode::Extended, &[])));
}

#[test]
fn contexts_are_asked_for_with_the_name_of_the_export() {
    let (_, output) = drive(&mut Handshake::open(wishes()), &extended()).unwrap();
    let name = [&4u32.to_be_bytes()[..], b"disk"].concat();
    let count = output.windows(name.len()).filter(|window| *window == name).count();
    assert_eq!(count, 2, "once for the contexts, once for GO");
}

#[test]
fn what_is_not_wished_is_not_asked() {
    let plain = ClientWishes { extended_headers: false, structured_replies: false, ..wishes() };
    let stream = [fixed_greeting(), go()].concat();
    let (_, output) = drive(&mut Handshake::open(plain), &stream).unwrap();
    assert_eq!(asked(&output[4..]), [7]);
}

#[test]
fn information_that_was_not_asked_for_is_passed_over() {
    let name = [&NBD_INFO_NAME.to_be_bytes()[..], b"disk"].concat();
    let stream = [
        fixed_greeting(),
        ack(NBD_OPT_EXTENDED_HEADERS),
        ack(NBD_OPT_SET_META_CONTEXT),
        option_reply(NBD_OPT_GO, NBD_REP_INFO, &name),
        go(),
    ];
    let (status, _) = drive(&mut Handshake::open(wishes()), &stream.concat()).unwrap();
    assert_eq!(status, HandshakeStatus::Ready(session(ReplyMode::Extended, &[])));
}

#[test]
fn without_block_sizes_the_defaults_hold() {
    let plain = ClientWishes { extended_headers: false, structured_replies: false, ..wishes() };
    let stream = [fixed_greeting(), export_info(0, FLAGS), ack(NBD_OPT_GO)].concat();
    let (status, _) = drive(&mut Handshake::open(plain), &stream).unwrap();
    let HandshakeStatus::Ready(session) = status else { panic!("{status:?}") };
    assert_eq!((session.size, session.block_size), (0, BlockSize::DEFAULT));
}

fn export_name_reply(zeroes: usize) -> Vec<u8> {
    [&4096u64.to_be_bytes()[..], &FLAGS.to_be_bytes(), &vec![0; zeroes]].concat()
}

#[test]
fn export_name_is_the_last_resort() {
    for (flags, zeroes) in [(NBD_FLAG_NO_ZEROES, 0), (0, 124)] {
        let stream = [
            greeting(NBD_FLAG_FIXED_NEWSTYLE | flags),
            refusal(NBD_OPT_GO, NBD_REP_ERR_UNSUP, ""),
            export_name_reply(zeroes),
        ];
        let plain = ClientWishes { extended_headers: false, structured_replies: false, ..wishes() };
        let (status, output) = drive(&mut Handshake::open(plain), &stream.concat()).unwrap();
        let HandshakeStatus::Ready(session) = status else { panic!("{status:?}") };
        assert_eq!((session.size, session.block_size), (4096, BlockSize::DEFAULT));
        assert_eq!(asked(&output[4..]), [7, 1]);
    }
}

#[test]
fn a_server_that_is_not_fixed_is_asked_for_the_export_only() {
    let stream = [greeting(0), export_name_reply(124)].concat();
    let (status, output) = drive(&mut Handshake::open(wishes()), &stream).unwrap();
    let HandshakeStatus::Ready(session) = status else { panic!("{status:?}") };
    assert_eq!((session.size, session.mode), (4096, ReplyMode::Simple));
    assert_eq!(output[..4], 0u32.to_be_bytes());
    assert_eq!(asked(&output[4..]), [1]);
}

#[test]
fn tls_comes_before_anything_else() {
    let mut handshake = Handshake::open(ClientWishes { tls: Tls::Require, ..wishes() });
    let stream = [fixed_greeting(), ack(NBD_OPT_STARTTLS)].concat();
    let (status, output) = drive(&mut handshake, &stream).unwrap();
    assert_eq!(status, HandshakeStatus::StartTls);
    assert_eq!(asked(&output[4..]), [5]);
    assert_eq!(handshake.waiting_for(), "the TLS handshake");
    let (status, output) = drive(&mut handshake, &[]).unwrap();
    assert_eq!((status, asked(&output)), (HandshakeStatus::NeedInput, vec![11]));
    let rest = &extended()[GREETING_LEN..];
    let (status, _) = drive(&mut handshake, rest).unwrap();
    let expected = session(ReplyMode::Extended, &[(7, "base:allocation")]);
    assert_eq!(status, HandshakeStatus::Ready(expected));
}

#[test]
fn a_list_ends_with_leave_taken() {
    let stream =
        [fixed_greeting(), listed("a", ""), listed("b c", "second\ndisk"), ack(NBD_OPT_LIST)];
    let (status, output) = drive(&mut Handshake::list(Tls::Never), &stream.concat()).unwrap();
    let export = |name: &str, description: &str| ExportInfo {
        name: name.to_owned(),
        description: description.to_owned(),
    };
    let expected = vec![export("a", ""), export("b c", "second\\ndisk")];
    assert_eq!(status, HandshakeStatus::Listed(expected));
    assert_eq!(asked(&output[4..]), [3, 2]);
}

#[test]
fn bytes_behind_the_handshake_are_left_to_the_next_reader() {
    let stream = [extended(), b"more".to_vec()].concat();
    let advance = Handshake::open(wishes()).advance(&stream, &mut Vec::new()).unwrap();
    assert_eq!(advance.consumed, stream.len() - 4);
}

#[test]
fn a_handshake_says_what_it_waits_for() {
    let mut handshake = Handshake::open(wishes());
    assert_eq!(handshake.waiting_for(), "the server's greeting");
    drive(&mut handshake, &fixed_greeting()).unwrap();
    assert_eq!(handshake.waiting_for(), "the reply to NBD_OPT_EXTENDED_HEADERS");
}

/// A server that answers each option with its own whim.
fn whims() -> impl Strategy<Value = Vec<u8>> {
    let whim = |option: u32, yes: Vec<u8>| {
        prop_oneof![
            3 => Just([yes, ack(option)].concat()),
            1 => Just(refusal(option, NBD_REP_ERR_UNSUP, "no")),
            1 => Just(refusal(option, NBD_REP_ERR_POLICY, "never")),
            1 => prop::collection::vec(any::<u8>(), 0..40),
        ]
    };
    let contexts = [context(1, "base:allocation"), context(2, "qemu:allocation-depth")].concat();
    let sizes = [export_info(1 << 20, FLAGS), block_size_info([1, 4096, 1 << 20])].concat();
    (
        prop_oneof![9 => Just(fixed_greeting()), 1 => Just(greeting(0))],
        whim(NBD_OPT_EXTENDED_HEADERS, vec![]),
        prop::option::of(whim(NBD_OPT_STRUCTURED_REPLY, vec![])),
        prop::option::of(whim(NBD_OPT_SET_META_CONTEXT, contexts)),
        whim(NBD_OPT_GO, sizes),
        prop::collection::vec(any::<u8>(), 0..140),
    )
        .prop_map(|(greeting, extended, structured, contexts, go, rest)| {
            let [structured, contexts] = [structured, contexts].map(Option::unwrap_or_default);
            [greeting, extended, structured, contexts, go, rest].concat()
        })
}

type End = (usize, Result<HandshakeStatus, HandshakeError>, Vec<u8>);

fn drive_in_pieces(stream: &[u8], pieces: &[usize]) -> End {
    let mut handshake = Handshake::open(wishes());
    let mut output = Vec::new();
    let mut done = 0;
    let mut sizes = pieces.iter().copied().cycle();
    while done < stream.len() {
        let size = sizes.next().unwrap_or(usize::MAX).min(stream.len() - done);
        match handshake.advance(&stream[done..done + size], &mut output) {
            Ok(Advance { consumed, status: HandshakeStatus::NeedInput }) => {
                assert_eq!(consumed, size);
                done += consumed;
            }
            Ok(Advance { consumed, status }) => return (done + consumed, Ok(status), output),
            Err(error) => return (0, Err(error), output),
        }
    }
    (done, Ok(HandshakeStatus::NeedInput), output)
}

proptest! {
    #[test]
    fn any_cut_of_the_stream_gives_the_same_handshake(
        stream in whims(),
        pieces in prop::collection::vec(1usize..30, 1..6),
    ) {
        prop_assert_eq!(drive_in_pieces(&stream, &pieces), drive_in_pieces(&stream, &[]));
    }

    #[test]
    fn any_cut_of_a_good_stream_opens_the_export(
        pieces in prop::collection::vec(1usize..30, 1..6),
    ) {
        let (consumed, status, _) = drive_in_pieces(&extended(), &pieces);
        let expected = session(ReplyMode::Extended, &[(7, "base:allocation")]);
        prop_assert_eq!(status, Ok(HandshakeStatus::Ready(expected)));
        prop_assert_eq!(consumed, extended().len());
    }
}
