//! Replies, right and wrong.

use std::time::Duration;

use super::POISON;
use super::builder::Replies;
use super::fault::Fault;
use super::handshake::CONTEXT_ID;
use super::image::in_memory;
use super::log::Request;
use super::wire::{self, Fields, chunk, flag, state};
use crate::disk::Random;

/// The DONE flag of a chunk.
const DONE: u16 = 1;
/// The longest piece of a reply that is cut at random.
const PIECE_BYTES: u64 = 64 << 10;

/// What is sent for one request.
pub(super) struct Reply {
    /// Each a whole header with its payload; those of other replies may come in between.
    pub(super) pieces: Vec<Vec<u8>>,
    /// Wait before it.
    pub(super) wait: Option<Duration>,
    /// Wait before each byte of it.
    pub(super) drip: Option<Duration>,
    /// What becomes of the connection after it.
    pub(super) then: Then,
}

/// After a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    GoOn,
    Close,
    Reset,
    Park,
    /// The last piece again, for as long as the client takes it.
    Repeat,
}

/// Encodes replies to one request.
pub(super) struct Encoder {
    pub(super) replies: Replies,
    pub(super) request: Request,
}

impl Encoder {
    pub(super) fn simple(&self, error: u32, data: &[u8]) -> Vec<u8> {
        let header = Fields::default().u32(wire::SIMPLE_REPLY).u32(error);
        header.u64(self.request.cookie).bytes(data).0
    }

    pub(super) fn chunk(&self, flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
        let extended = self.replies == Replies::Extended;
        let magic = if extended { wire::EXTENDED_REPLY } else { wire::STRUCTURED_REPLY };
        let header = Fields::default().u32(magic).u16(flags).u16(kind).u64(self.request.cookie);
        let header = if extended {
            header.u64(self.request.offset).u64(payload.len() as u64)
        } else {
            header.u32(u32::try_from(payload.len()).expect("a payload is less than 4 GiB"))
        };
        header.bytes(payload).0
    }

    /// Success without data.
    pub(super) fn done(&self) -> Vec<u8> {
        match self.replies {
            Replies::Extended => self.chunk(DONE, chunk::NONE, &[]),
            _ => self.simple(0, &[]),
        }
    }

    pub(super) fn error(&self, errno: u32, message: &str) -> Vec<u8> {
        if self.replies == Replies::Simple {
            return self.simple(errno, &[]);
        }
        let length = u16::try_from(message.len()).expect("a message of a test is short");
        let payload = Fields::default().u32(errno).u16(length).bytes(message.as_bytes());
        self.chunk(DONE, chunk::ERROR, &payload.0)
    }

    /// The errors that a fault makes of any request without carrying it out.
    pub(super) fn refusal(&self, fault: &Fault) -> Option<Vec<u8>> {
        let eio = wire::errno::EIO;
        Some(match *fault {
            Fault::Error(errno) => self.error(errno, "injected by a test"),
            Fault::HugeErrorMessage => self.error(eio, &"huge ".repeat(12_000)),
            Fault::ErrorMessageOverrun => {
                let payload = Fields::default().u32(eio).u16(500).bytes(b"short");
                self.chunk(DONE, chunk::ERROR, &payload.0)
            }
            Fault::EndlessErrors => {
                let payload = Fields::default().u32(eio).u16(0);
                self.chunk(0, chunk::ERROR, &payload.0)
            }
            Fault::UnknownChunk(kind) => {
                let payload = Fields::default().u32(eio).u16(0);
                self.chunk(DONE, kind, &payload.0)
            }
            _ => return None,
        })
    }

    fn data(&self, flags: u16, offset: u64, data: &[u8]) -> Vec<u8> {
        let payload = Fields::default().u64(offset).bytes(data);
        self.chunk(flags, chunk::OFFSET_DATA, &payload.0)
    }

    /// The reply to a READ.
    pub(super) fn read(
        &self,
        data: &[u8],
        fault: Option<&Fault>,
        random: &mut Random,
    ) -> Vec<Vec<u8>> {
        let offset = self.request.offset;
        if self.replies == Replies::Simple {
            return vec![self.simple(0, data)];
        }
        let none = || self.chunk(DONE, chunk::NONE, &[]);
        let poison = || vec![POISON; data.len()];
        let failure = |flags| {
            let payload = Fields::default().u32(wire::errno::EIO).u16(0).u64(offset);
            self.chunk(flags, chunk::ERROR_OFFSET, &payload.0)
        };
        let (quarter, half) = (data.len() / 4, data.len() / 2);
        match fault {
            Some(Fault::HugeChunkLength) => {
                let mut header = self.data(0, offset, &[]);
                header.truncate(header.len() - 8);
                let length = if self.replies == Replies::Extended { 24..32 } else { 16..20 };
                header[length].fill(0xff);
                vec![header]
            }
            Some(Fault::OverlappingData) => vec![
                self.data(0, offset, &data[..data.len() - quarter]),
                self.data(DONE, offset + quarter as u64, &data[quarter..]),
            ],
            Some(Fault::DataOutOfRange) => {
                vec![self.data(0, offset + half as u64 + 1, &poison()), none()]
            }
            Some(Fault::ShortData) => vec![self.data(DONE, offset, &data[..half])],
            Some(Fault::EmptyData) => vec![self.data(DONE, offset, &[])],
            Some(Fault::DataThenError) => vec![self.data(0, offset, &poison()), failure(DONE)],
            Some(Fault::ErrorThenData) => vec![failure(0), self.data(DONE, offset, &poison())],
            Some(Fault::SimpleReplyToRead) => vec![self.simple(0, data)],
            Some(Fault::DoneApart) => vec![self.data(0, offset, data), none()],
            Some(Fault::MixedChunks) if self.request.flags & flag::DF == 0 => {
                self.mixed(data, random)
            }
            _ => vec![self.data(DONE, offset, data)],
        }
    }

    /// Pieces of random length in random order; those of zeros as holes, mostly.
    fn mixed(&self, data: &[u8], random: &mut Random) -> Vec<Vec<u8>> {
        let mut cuts = Vec::new();
        let mut rest = data;
        let mut offset = self.request.offset;
        while !rest.is_empty() {
            let longest = PIECE_BYTES.min(rest.len() as u64);
            let (piece, after) = rest.split_at(in_memory(1 + random.below(longest)));
            cuts.push((offset, piece));
            offset += piece.len() as u64;
            rest = after;
        }
        shuffle(&mut cuts, random);
        let apart = random.below(2) == 0;
        let last = cuts.len() - 1;
        let mut pieces = Vec::new();
        for (index, (offset, piece)) in cuts.into_iter().enumerate() {
            let flags = if index == last && !apart { DONE } else { 0 };
            let zeros = piece.iter().all(|&byte| byte == 0);
            pieces.push(if zeros && random.below(4) > 0 {
                let length = u32::try_from(piece.len()).expect("a piece is short");
                let hole = Fields::default().u64(offset).u32(length);
                self.chunk(flags, chunk::OFFSET_HOLE, &hole.0)
            } else {
                self.data(flags, offset, piece)
            });
        }
        if apart {
            pieces.push(self.chunk(DONE, chunk::NONE, &[]));
        }
        pieces
    }

    /// The reply to a BLOCK_STATUS; `extents` are lengths of data (true) and holes.
    pub(super) fn block_status(
        &self,
        mut extents: Vec<(u64, bool)>,
        fault: Option<&Fault>,
    ) -> Vec<u8> {
        let mut context = CONTEXT_ID;
        let mut of_data = 0;
        match fault {
            Some(Fault::ZeroLengthExtents) => extents.iter_mut().for_each(|extent| extent.0 = 0),
            Some(Fault::ExtentsPastEnd) => extents.last_mut().expect("not empty").0 += 1 << 30,
            Some(Fault::HoleWithoutZero) => of_data = state::HOLE,
            Some(Fault::OneExtent) => extents.truncate(1),
            Some(Fault::WrongContext) => context = 77,
            Some(Fault::NoExtents) => extents.clear(),
            Some(Fault::ManyExtents(count)) => {
                // The first state for all: each byte for itself, and never past the range.
                let (length, data) = extents[0];
                extents = vec![(1, data); in_memory(length.min(u64::from(*count)))];
            }
            _ => {}
        }
        if self.request.flags & flag::REQ_ONE != 0 {
            extents.truncate(1);
        }
        let status = |data| {
            if data { of_data } else { state::HOLE | state::ZERO }
        };
        let flags = if fault == Some(&Fault::EndlessStatus) { 0 } else { DONE };
        let mut payload = Fields::default().u32(context);
        if self.replies == Replies::Extended {
            payload = payload.u32(u32::try_from(extents.len()).expect("few enough"));
            for (length, data) in extents {
                payload = payload.u64(length).u64(u64::from(status(data)));
            }
            return self.chunk(flags, chunk::BLOCK_STATUS_EXT, &payload.0);
        }
        for (length, data) in extents {
            // A request has at most 32 bits, and only ExtentsPastEnd goes beyond.
            payload = payload.u32(u32::try_from(length).unwrap_or(u32::MAX)).u32(status(data));
        }
        self.chunk(flags, chunk::BLOCK_STATUS, &payload.0)
    }
}

impl Reply {
    /// A reply that fits, spoiled by a fault.
    pub(super) fn new(mut pieces: Vec<Vec<u8>>, fault: Option<&Fault>) -> Self {
        let (mut wait, mut drip, mut then) = (None, None, Then::GoOn);
        match fault {
            Some(Fault::WrongReplyMagic) => pieces[0][0] ^= 0xff,
            Some(Fault::WrongCookie(bits)) => {
                pieces.iter_mut().for_each(|piece| other_cookie(piece, *bits));
            }
            Some(Fault::DuplicateReply) => pieces.extend(pieces.clone()),
            Some(Fault::UnissuedReply) => {
                let mut unissued = pieces.clone();
                unissued.iter_mut().for_each(|piece| other_cookie(piece, UNISSUED));
                pieces.splice(0..0, unissued);
            }
            Some(Fault::EndlessErrors | Fault::EndlessStatus) => then = Then::Repeat,
            Some(Fault::NoReply) => pieces.clear(),
            Some(Fault::SlowReply(time)) => wait = Some(*time),
            Some(Fault::Drip(time)) => drip = Some(*time),
            Some(Fault::CloseBeforeReply) => (pieces, then) = (Vec::new(), Then::Close),
            Some(Fault::ResetBeforeReply) => (pieces, then) = (Vec::new(), Then::Reset),
            Some(Fault::HalfOpen) => (pieces, then) = (Vec::new(), Then::Park),
            Some(Fault::CloseMidHeader) => {
                (pieces, then) = (vec![pieces[0][..7].to_vec()], Then::Close)
            }
            Some(Fault::CloseMidPayload) => (pieces, then) = (first_half(&pieces), Then::Close),
            Some(Fault::StallMidPayload) => (pieces, then) = (first_half(&pieces), Then::Park),
            // Nobody can find the next header after it.
            Some(Fault::HugeChunkLength) => then = Then::Park,
            _ => {}
        }
        Self { pieces, wait, drip, then }
    }
}

/// What nobody's cookie becomes another's by.
const UNISSUED: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// Every kind of reply has its cookie at the same place.
fn other_cookie(piece: &mut [u8], bits: u64) {
    let cookie = piece[8..16].iter_mut();
    cookie.zip(bits.to_be_bytes()).for_each(|(byte, bits)| *byte ^= bits);
}

fn first_half(pieces: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut bytes = pieces.concat();
    bytes.truncate(bytes.len() / 2);
    vec![bytes]
}

/// Any order, each as likely.
pub(super) fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for last in (1..items.len()).rev() {
        items.swap(last, in_memory(random.below(last as u64 + 1)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::log::Command;
    use super::*;

    const OFFSET: u64 = 1000;
    const LENGTH: u64 = 100_000;

    fn request() -> Request {
        Request {
            connection: 1,
            command: Command::Read,
            flags: 0,
            cookie: 42,
            offset: OFFSET,
            length: LENGTH,
            error: 0,
        }
    }

    /// The ranges that chunks of content cover, in order, and how many chunks were errors.
    fn covered(replies: Replies, fault: &Fault) -> (Vec<(u64, u64)>, usize) {
        let encoder = Encoder { replies, request: request() };
        let data = vec![1; in_memory(LENGTH)];
        let pieces = encoder.read(&data, Some(fault), &mut Random::new(3));
        let header = if replies == Replies::Extended { 32 } else { 20 };
        let (mut ranges, mut errors) = (Vec::new(), 0);
        for (index, piece) in pieces.iter().enumerate() {
            let last = index + 1 == pieces.len();
            assert_eq!(piece[5] & 1, u8::from(last), "DONE is at the end, {fault:?}");
            let payload = &piece[header..];
            match u16::from_be_bytes(piece[6..8].try_into().unwrap()) {
                chunk::OFFSET_DATA => {
                    let offset = u64::from_be_bytes(payload[..8].try_into().unwrap());
                    ranges.push((offset, payload.len() as u64 - 8));
                }
                chunk::OFFSET_HOLE => panic!("the data has no zeros"),
                kind => errors += usize::from(kind & 0x8000 != 0),
            }
        }
        ranges.sort_unstable();
        (ranges, errors)
    }

    /// libnbd 1.14 lets some of these pass, so that its clients cannot check them here.
    #[test]
    fn chunks_cover_what_their_fault_says() {
        for replies in [Replies::Structured, Replies::Extended] {
            let covered = |fault| covered(replies, &fault);
            let whole = vec![(OFFSET, LENGTH)];
            assert_eq!(covered(Fault::ShortData), (vec![(OFFSET, LENGTH / 2)], 0));
            assert_eq!(covered(Fault::EmptyData), (vec![(OFFSET, 0)], 0));
            let overlap = vec![(OFFSET, 75_000), (OFFSET + 25_000, 75_000)];
            assert_eq!(covered(Fault::OverlappingData), (overlap, 0));
            let outside = vec![(OFFSET + 50_001, LENGTH)];
            assert_eq!(covered(Fault::DataOutOfRange), (outside, 0));
            assert_eq!(covered(Fault::DataThenError), (whole.clone(), 1));
            assert_eq!(covered(Fault::ErrorThenData), (whole.clone(), 1));
            assert_eq!(covered(Fault::DoneApart), (whole.clone(), 0));
            let (pieces, errors) = covered(Fault::MixedChunks);
            assert!(pieces.len() > 1 && errors == 0);
            let exact = pieces.windows(2).all(|pair| pair[0].0 + pair[0].1 == pair[1].0);
            assert!(exact, "neither gaps nor overlaps: {pieces:?}");
            assert_eq!(super::super::merged(pieces), whole);
        }
    }
}
