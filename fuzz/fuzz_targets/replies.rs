//! Any server: byte 0 chooses the mode, byte 1 the size of the pieces, the rest is the stream.
//! However the stream is cut, the same events must come, and data must never be swallowed.
#![no_main]

use blockferry_dataplane::nbd::{Reply, ReplyError, ReplyLimits, ReplyMode, ReplyReader};
use libfuzzer_sys::fuzz_target;

const LIMITS: ReplyLimits = ReplyLimits { data_len: 1 << 20, status_len: 1 << 16 };

type End = (Vec<String>, Result<(), ReplyError>);

fn run(choice: u8, mut stream: &[u8], piece_len: usize) -> End {
    let mode = match choice & 3 {
        0 => ReplyMode::Simple,
        1 => ReplyMode::Structured,
        _ => ReplyMode::Extended,
    };
    let mut reader = ReplyReader::with_limits(mode, LIMITS);
    reader.set_acks_only(choice & 4 != 0);
    let mut events = Vec::new();
    loop {
        loop {
            let data_len = match reader.next() {
                Err(error) => return (events, Err(error)),
                Ok(None) => break,
                Ok(Some(reply)) => {
                    if let Reply::Status { extents, .. } = &reply {
                        assert!(extents.len() > 0);
                        assert!(extents.clone().all(|extent| extent.length > 0));
                    }
                    events.push(format!("{reply:?}"));
                    match reply {
                        Reply::Data { length, .. } => usize::try_from(length).unwrap(),
                        _ => continue,
                    }
                }
            };
            assert_eq!(reader.wanted(), 0, "data are not wanted by the reader");
            let (data, rest) = stream.split_at(data_len.min(stream.len()));
            events.push(format!("{data:?}"));
            stream = rest;
            reader.payload_taken();
        }
        if stream.is_empty() {
            return (events, Ok(()));
        }
        let wanted = reader.wanted();
        assert!(wanted > 0, "a reader that has nothing to say wants something");
        let (piece, rest) = stream.split_at(wanted.min(piece_len).min(stream.len()));
        assert_eq!(reader.feed(piece), piece.len());
        stream = rest;
    }
}

fuzz_target!(|input: &[u8]| {
    let [choice, piece_len, stream @ ..] = input else {
        return;
    };
    let cut = run(*choice, stream, usize::from(*piece_len).max(1));
    let whole = run(*choice, stream, usize::MAX);
    assert_eq!(cut, whole);
});
