//! Handshakes that must fail, and what they say.

use super::super::wire::*;
use super::super::{ClientWishes, Handshake, HandshakeError, Tls, printable};
use super::handshake::{drive, wishes};
use super::server::{
    ack, block_size_info, context, export_info, fixed_greeting, greeting, listed, option_reply,
    refusal,
};

/// Asks for nothing but the export.
fn plain() -> Handshake {
    Handshake::open(ClientWishes { extended_headers: false, structured_replies: false, ..wishes() })
}

fn failure(mut handshake: Handshake, stream: &[Vec<u8>]) -> HandshakeError {
    let mut output = Vec::new();
    let error = handshake.advance(&stream.concat(), &mut output).unwrap_err();
    assert!(!error.to_string().contains('\n'));
    assert_eq!(handshake.advance(&[], &mut output), Err(HandshakeError::Over));
    error
}

#[test]
fn something_else_than_nbd_is_recognised_from_its_first_bytes() {
    let error = failure(plain(), &[b"SSH-2.0-".to_vec()]);
    assert!(matches!(error, HandshakeError::NotNbd { .. }));
    let error = failure(plain(), &[b"NBDMAGIC".to_vec(), b"HAVENOPT".to_vec()]);
    assert!(matches!(error, HandshakeError::NotNbd { .. }));
}

#[test]
fn an_oldstyle_server_is_recognised() {
    let error = failure(plain(), &[b"NBDMAGIC".to_vec(), OLDSTYLE_MAGIC.to_be_bytes().to_vec()]);
    assert_eq!(error, HandshakeError::OldStyle);
}

#[test]
fn tls_and_lists_need_a_server_that_answers_options() {
    for tls in [Tls::Never, Tls::Require] {
        let error = failure(Handshake::list(tls), &[greeting(0)]);
        assert!(matches!(error, HandshakeError::NotFixed { .. }));
    }
}

#[test]
fn a_refusal_of_tls_ends_the_handshake() {
    for code in [NBD_REP_ERR_UNSUP, NBD_REP_ERR_POLICY, NBD_REP_ERR_INVALID, 0x8000_1234] {
        let secure = Handshake::open(ClientWishes { tls: Tls::Require, ..wishes() });
        let error = failure(secure, &[fixed_greeting(), refusal(NBD_OPT_STARTTLS, code, "no")]);
        assert_eq!(error, HandshakeError::TlsRefused { message: "no".to_owned() });
    }
}

#[test]
fn plain_bytes_behind_the_acknowledgement_of_tls_are_an_attack() {
    let secure = Handshake::open(ClientWishes { tls: Tls::Require, ..wishes() });
    let stream = [fixed_greeting(), ack(NBD_OPT_STARTTLS), ack(NBD_OPT_EXTENDED_HEADERS)];
    assert_eq!(failure(secure, &stream), HandshakeError::Injection { length: 20 });
}

#[test]
fn a_server_that_insists_on_tls_is_to_be_asked_with_nbds() {
    let code = NBD_REP_ERR_TLS_REQD;
    let streams = [
        (Handshake::open(wishes()), refusal(NBD_OPT_EXTENDED_HEADERS, code, "")),
        (plain(), refusal(NBD_OPT_GO, code, "")),
        (Handshake::list(Tls::Never), refusal(NBD_OPT_LIST, code, "")),
    ];
    for (handshake, reply) in streams {
        let error = failure(handshake, &[fixed_greeting(), reply]);
        assert!(error.to_string().contains("nbds://"), "{error}");
        assert!(matches!(error, HandshakeError::TlsRequired { .. }));
    }
}

fn go_refused(code: u32) -> HandshakeError {
    failure(plain(), &[fixed_greeting(), refusal(NBD_OPT_GO, code, "so\nthere")])
}

#[test]
fn each_refusal_of_go_has_its_own_error() {
    let message = "so\\nthere".to_owned();
    let (export, option) = ("disk".to_owned(), "NBD_OPT_GO");
    let expected = [
        (NBD_REP_ERR_UNKNOWN, HandshakeError::UnknownExport { export, message: message.clone() }),
        (NBD_REP_ERR_POLICY, HandshakeError::Policy { option, message: message.clone() }),
        (NBD_REP_ERR_SHUTDOWN, HandshakeError::Shutdown { message: message.clone() }),
        (
            NBD_REP_ERR_BLOCK_SIZE_REQD,
            HandshakeError::BlockSizeRequired { message: message.clone() },
        ),
        (NBD_REP_ERR_TOO_BIG, HandshakeError::TooBig { option, message: message.clone() }),
        (0x8000_0077, HandshakeError::Refused { option, code: 0x8000_0077, message }),
    ];
    for (code, error) in expected {
        assert_eq!(go_refused(code), error);
    }
}

#[test]
fn a_closed_connection_after_export_name_means_an_unknown_export() {
    let mut handshake = plain();
    let stream = [fixed_greeting(), refusal(NBD_OPT_GO, NBD_REP_ERR_UNSUP, "")].concat();
    drive(&mut handshake, &stream).unwrap();
    let error = handshake.disconnected().to_string();
    assert!(error.contains("NBD_OPT_EXPORT_NAME") && error.contains("no export"), "{error}");
}

#[test]
fn names_that_are_too_long_are_not_sent() {
    let long = "x".repeat(4097);
    let export = ClientWishes { export: long.clone(), ..wishes() };
    let contexts = ClientWishes { contexts: vec![long], ..wishes() };
    for wishes in [export, contexts] {
        let error = failure(Handshake::open(wishes), &[]);
        assert!(matches!(error, HandshakeError::NameTooLong { length: 4097, .. }));
    }
}

#[test]
fn contexts_beyond_number_are_not_sent() {
    let contexts = vec![String::new(); 1025];
    let error = failure(Handshake::open(ClientWishes { contexts, ..wishes() }), &[]);
    assert!(matches!(error, HandshakeError::TooManyContexts { count: 1025, .. }));
}

#[test]
fn replies_to_another_option_are_an_error() {
    let error = failure(plain(), &[fixed_greeting(), ack(NBD_OPT_LIST)]);
    assert!(matches!(error, HandshakeError::Protocol { .. }));
}

#[test]
fn a_wrong_magic_number_is_an_error() {
    let mut reply = ack(NBD_OPT_GO);
    reply[0] ^= 1;
    let error = failure(plain(), &[fixed_greeting(), reply]);
    assert!(matches!(error, HandshakeError::Protocol { .. }));
}

#[test]
fn types_that_do_not_go_with_the_option_are_an_error() {
    for kind in [0, NBD_REP_SERVER, NBD_REP_META_CONTEXT, 99] {
        let error = failure(plain(), &[fixed_greeting(), option_reply(NBD_OPT_GO, kind, &[0; 12])]);
        assert!(matches!(error, HandshakeError::Protocol { .. }));
    }
}

#[test]
fn lengths_that_do_not_go_with_the_type_are_an_error() {
    let replies = [
        option_reply(NBD_OPT_GO, NBD_REP_ACK, &[0]),
        option_reply(NBD_OPT_GO, NBD_REP_INFO, &[0]),
        option_reply(NBD_OPT_GO, NBD_REP_INFO, &[0; 11]),
        option_reply(NBD_OPT_GO, NBD_REP_INFO, &[0; 13]),
        option_reply(NBD_OPT_GO, NBD_REP_INFO, &[0, 3, 0]),
    ];
    for reply in replies {
        let error = failure(plain(), &[fixed_greeting(), reply]);
        assert!(matches!(error, HandshakeError::Protocol { .. }), "{error}");
    }
    let cut = option_reply(NBD_OPT_LIST, NBD_REP_SERVER, &[0, 0, 0, 9, b'x']);
    let error = failure(Handshake::list(Tls::Never), &[fixed_greeting(), cut]);
    assert!(matches!(error, HandshakeError::Protocol { .. }));
}

#[test]
fn a_reply_that_would_not_fit_is_refused_from_its_head() {
    let mut reply = ack(NBD_OPT_GO);
    reply[16..].copy_from_slice(&u32::MAX.to_be_bytes());
    let error = failure(plain(), &[fixed_greeting(), reply]);
    assert!(matches!(error, HandshakeError::ReplyTooLong { length: u32::MAX, .. }));
}

#[test]
fn replies_without_end_are_an_error() {
    let mut stream = fixed_greeting();
    stream.extend(block_size_info([1, 512, 512]).repeat(1025));
    let error = failure(plain(), &[stream]);
    assert!(matches!(error, HandshakeError::Endless { .. }));
    let mut stream = fixed_greeting();
    stream.extend(listed("x", "").repeat(16385));
    let error = failure(Handshake::list(Tls::Never), &[stream]);
    assert!(matches!(error, HandshakeError::Endless { .. }));
}

#[test]
fn a_list_of_too_many_bytes_is_an_error() {
    let mut stream = fixed_greeting();
    stream.extend(listed("x", &"y".repeat(60_000)).repeat(140));
    let error = failure(Handshake::list(Tls::Never), &[stream]);
    assert!(matches!(error, HandshakeError::Endless { limit: "8 MiB", .. }));
}

#[test]
fn names_that_are_no_text_are_an_error() {
    for name in [&b"\xff\xfe"[..], b"a\0b"] {
        let length = u32::try_from(name.len()).unwrap().to_be_bytes();
        let payload = [&length[..], name].concat();
        let reply = option_reply(NBD_OPT_LIST, NBD_REP_SERVER, &payload);
        let error = failure(Handshake::list(Tls::Never), &[fixed_greeting(), reply]);
        assert!(matches!(error, HandshakeError::Protocol { .. }));
    }
}

#[test]
fn two_contexts_of_one_number_are_an_error() {
    let stream = [
        fixed_greeting(),
        ack(NBD_OPT_EXTENDED_HEADERS),
        context(1, "base:allocation"),
        context(1, "qemu:allocation-depth"),
    ];
    let error = failure(Handshake::open(wishes()), &stream);
    assert!(matches!(error, HandshakeError::Protocol { .. }));
}

#[test]
fn an_export_without_a_size_is_an_error() {
    let error = failure(plain(), &[fixed_greeting(), ack(NBD_OPT_GO)]);
    assert!(matches!(error, HandshakeError::Protocol { .. }));
}

#[test]
fn a_size_beyond_file_offsets_is_an_error() {
    let size = 1 << 63;
    let error = failure(plain(), &[fixed_greeting(), export_info(size, 1)]);
    assert_eq!(error, HandshakeError::Size { size });
}

#[test]
fn block_sizes_against_the_rules_are_an_error() {
    let wrong = [
        [0, 512, 512],
        [3, 4096, 4095],
        [131_072, 131_072, 131_072],
        [1, 256, 4096],
        [1, 5000, 10_000],
        [4096, 512, 4096],
        [1, 4096, 512],
        [512, 512, 1000],
    ];
    for sizes in wrong {
        let error = failure(plain(), &[fixed_greeting(), block_size_info(sizes)]);
        assert!(matches!(error, HandshakeError::BlockSize { .. }), "{sizes:?}");
    }
}

#[test]
fn text_from_a_server_stays_in_one_line_of_bounded_length() {
    assert_eq!(printable(b"a\r\n\tb\x07\xff"), "a\\r\\n\\tb\\u{7}\u{fffd}");
    assert_eq!(printable(&[b'x'; 70_000]).chars().count(), 257);
    assert_eq!(printable("ü".repeat(256).as_bytes()), "ü".repeat(256));
}
