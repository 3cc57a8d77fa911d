//! Writes the first inputs of the fuzz targets: exchanges that this client understands.

use std::fs;
use std::path::Path;

use super::super::wire::*;
use super::super::{NbdError, ReplyMode};
use super::handshake::go;
use super::server::{Event, ack, context, fixed_greeting, greeting, listed, refusal};

fn save(target: &str, name: &str, input: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), input).unwrap();
}

/// Bits of the first byte, as `fuzz_targets/handshake.rs` reads them.
const TLS: u8 = 1;
const LIST: u8 = 2;
const EXTENDED: u8 = 4;
const STRUCTURED: u8 = 8;
const CONTEXTS: u8 = 16;

#[test]
#[ignore = "writes fuzz/corpus; run it after a change of the codec's inputs"]
fn the_corpus_of_handshakes_is_written() {
    let contexts = [context(1, "base:allocation"), ack(NBD_OPT_SET_META_CONTEXT)].concat();
    let unsupported = |option| refusal(option, NBD_REP_ERR_UNSUP, "unsupported");
    let export = [&[0, 0, 0, 0, 0, 1, 0, 0, 0, 3][..], &[0; 124]].concat();
    let cases: [(&str, u8, Vec<Vec<u8>>); 8] = [
        (
            "extended",
            EXTENDED | CONTEXTS,
            vec![ack(NBD_OPT_EXTENDED_HEADERS), contexts.clone(), go()],
        ),
        (
            "structured",
            EXTENDED | STRUCTURED | CONTEXTS,
            vec![
                unsupported(NBD_OPT_EXTENDED_HEADERS),
                ack(NBD_OPT_STRUCTURED_REPLY),
                contexts,
                go(),
            ],
        ),
        ("simple", 0, vec![go()]),
        ("export-name", 0, vec![unsupported(NBD_OPT_GO), export.clone()]),
        ("unknown", 0, vec![refusal(NBD_OPT_GO, NBD_REP_ERR_UNKNOWN, "no such export")]),
        ("list", LIST, vec![listed("a", "first"), listed("b", ""), ack(NBD_OPT_LIST)]),
        ("tls", TLS, vec![ack(NBD_OPT_STARTTLS)]),
        ("tls-refused", TLS, vec![unsupported(NBD_OPT_STARTTLS)]),
    ];
    for (name, choice, replies) in cases {
        save("handshake", name, &[&[choice, 7][..], &fixed_greeting(), &replies.concat()].concat());
    }
    save("handshake", "newstyle", &[&[0, 3][..], &greeting(0), &export].concat());
}

#[test]
#[ignore = "writes fuzz/corpus; run it after a change of the codec's inputs"]
fn the_corpus_of_replies_is_written() {
    let chunks = [
        Event::Data { cookie: 1, offset: 512, bytes: vec![7; 20], done: false },
        Event::Hole { cookie: 1, offset: 0, length: 512, done: true },
        Event::Status { cookie: 2, context: 1, extents: vec![(65536, 0), (4096, 3)], done: true },
        Event::Error {
            cookie: 3,
            error: NbdError::Io,
            message: "broken disk".to_owned(),
            offset: Some(4096),
            done: false,
        },
        Event::Error {
            cookie: 3,
            error: NbdError::Shutdown,
            message: String::new(),
            offset: None,
            done: false,
        },
        Event::Done { cookie: 3 },
    ];
    let simple = [
        Event::Simple { cookie: 4, error: None, bytes: vec![] },
        Event::Simple { cookie: 5, error: Some(NbdError::NoSpc), bytes: vec![] },
    ];
    for (name, mode, choice) in
        [("structured", ReplyMode::Structured, 1u8), ("extended", ReplyMode::Extended, 2)]
    {
        let stream: Vec<u8> = chunks.iter().flat_map(|event| event.encode(mode)).collect();
        save("replies", name, &[&[choice, 5][..], &stream].concat());
        let acks: Vec<u8> = chunks[1..].iter().flat_map(|event| event.encode(mode)).collect();
        save("replies", &format!("{name}-acks"), &[&[choice | 4, 9][..], &acks].concat());
    }
    for (name, choice) in [("simple", 0u8), ("simple-acks", 4), ("mixed", 1)] {
        let mode = ReplyMode::Structured;
        let stream: Vec<u8> = simple.iter().flat_map(|event| event.encode(mode)).collect();
        save("replies", name, &[&[choice, 5][..], &stream].concat());
    }
}

#[test]
#[ignore = "writes fuzz/corpus; run it after a change of the codec's inputs"]
fn the_corpus_of_uris_is_written() {
    let uris = [
        ("tcp", "nbd://host:10100/disk"),
        ("ipv6", "nbds://alice@[fe80::1%25eth0]:10809//disk?tls-hostname=h"),
        ("unix", "nbd+unix:///a%20b?socket=/tmp/nbd.sock"),
        (
            "tls-unix",
            "nbds+unix://alice@/?socket=/s&tls-certificates=/etc/pki&tls-verify-peer=0;x=y",
        ),
    ];
    for (name, uri) in uris {
        save("uri", name, uri.as_bytes());
    }
}
