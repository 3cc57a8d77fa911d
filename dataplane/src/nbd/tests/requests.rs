//! Requests on the wire.

use proptest::prelude::*;

use super::super::wire::*;
use super::super::{Command, CommandFlags, MAX_REQUEST_LEN, ReplyMode, Request, request_len};

const COMMANDS: [Command; 8] = [
    Command::Read,
    Command::Write,
    Command::Disconnect,
    Command::Flush,
    Command::Trim,
    Command::Cache,
    Command::WriteZeroes,
    Command::BlockStatus,
];

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

proptest! {
    #[test]
    fn a_request_reads_back_as_it_was_written(
        command in prop::sample::select(&COMMANDS[..]),
        mode in prop::sample::select(
            &[ReplyMode::Simple, ReplyMode::Structured, ReplyMode::Extended][..]),
        cookie: u64, offset: u64, length: u32, high: u32,
    ) {
        let extended = mode == ReplyMode::Extended;
        let length = u64::from(length) | if extended { u64::from(high) << 32 } else { 0 };
        let flags = CommandFlags::FUA | CommandFlags::NO_HOLE;
        let request = Request { command, flags, cookie, offset, length };
        let mut out = [0xee; MAX_REQUEST_LEN];
        let count = request.encode(mode, &mut out);
        prop_assert_eq!(count, request_len(mode));
        prop_assert!(out[count..].iter().all(|&byte| byte == 0xee));
        let magic = if extended { NBD_EXTENDED_REQUEST_MAGIC } else { NBD_REQUEST_MAGIC };
        let payload = if extended && command == Command::Write { 0x20 } else { 0 };
        prop_assert_eq!(u32::from_be_bytes(field(&out, 0)), magic);
        prop_assert_eq!(u16::from_be_bytes(field(&out, 4)), 3 | payload);
        prop_assert_eq!(u16::from_be_bytes(field(&out, 6)), command.number());
        prop_assert_eq!(u64::from_be_bytes(field(&out, 8)), cookie);
        prop_assert_eq!(u64::from_be_bytes(field(&out, 16)), offset);
        if extended {
            prop_assert_eq!(u64::from_be_bytes(field(&out, 24)), length);
        } else {
            prop_assert_eq!(u64::from(u32::from_be_bytes(field(&out, 24))), length);
        }
    }
}

#[test]
fn the_flag_for_payloads_is_left_out_of_compact_requests() {
    let flags = CommandFlags::PAYLOAD_LEN;
    let request = Request { command: Command::Write, flags, cookie: 0, offset: 0, length: 1 };
    let mut out = [0; MAX_REQUEST_LEN];
    request.encode(ReplyMode::Structured, &mut out);
    assert_eq!(field(&out, 4), [0, 0]);
}
