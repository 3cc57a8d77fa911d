//! Any server: byte 0 chooses the wishes, byte 1 the size of the pieces, the rest is the stream.
//! However the stream is cut, the client must say and find the same.
#![no_main]

use blockferry_dataplane::nbd::{ClientWishes, Handshake, HandshakeError, HandshakeStatus, Tls};
use libfuzzer_sys::fuzz_target;

/// All options of one handshake and their names are shorter than this.
const MAX_OUTPUT_LEN: usize = 4096;

fn start(choice: u8) -> Handshake {
    let tls = if choice & 1 == 0 { Tls::Never } else { Tls::Require };
    if choice & 2 != 0 {
        return Handshake::list(tls);
    }
    let contexts = if choice & 16 == 0 { vec![] } else { vec!["base:allocation".to_owned()] };
    Handshake::open(ClientWishes {
        export: "disk".to_owned(),
        tls,
        extended_headers: choice & 4 != 0,
        structured_replies: choice & 8 != 0,
        contexts,
    })
}

type End = (Vec<u8>, Result<HandshakeStatus, HandshakeError>);

fn run(choice: u8, stream: &[u8], piece_len: usize) -> End {
    let mut handshake = start(choice);
    let mut output = Vec::new();
    for piece in stream.chunks(piece_len) {
        let advance = match handshake.advance(piece, &mut output) {
            Ok(advance) => advance,
            Err(error) => return (output, Err(error)),
        };
        assert!(advance.consumed <= piece.len());
        assert!(output.len() <= MAX_OUTPUT_LEN);
        match advance.status {
            HandshakeStatus::NeedInput => assert_eq!(advance.consumed, piece.len()),
            HandshakeStatus::StartTls => assert_eq!(advance.consumed, piece.len()),
            end => return (output, Ok(end)),
        }
    }
    (output, Ok(HandshakeStatus::NeedInput))
}

fuzz_target!(|input: &[u8]| {
    let [choice, piece_len, stream @ ..] = input else {
        return;
    };
    let cut = run(*choice, stream, usize::from(*piece_len).max(1));
    let whole = run(*choice, stream, stream.len().max(1));
    // Bytes right behind the acknowledgement of STARTTLS are an error only if they came with it.
    if choice & 1 == 0 {
        assert_eq!(cut, whole);
    }
});
