//! What the transmission flags allow.

use super::super::wire::*;
use super::super::{NbdError, ReplyMode, TransmissionFlags};

#[test]
fn flags_mean_nothing_without_the_flag_that_says_so() {
    let flags = TransmissionFlags::from_wire(!NBD_FLAG_HAS_FLAGS);
    assert_eq!(flags.bits(), 0);
}

#[test]
fn a_read_only_export_cannot_be_zeroed_or_trimmed_whatever_it_says() {
    let flags = TransmissionFlags::from_wire(u16::MAX);
    assert!(flags.read_only() && !flags.can_write_zeroes() && !flags.can_trim());
    assert!(!flags.fast_zero() && flags.can_flush() && flags.multi_conn());
}

#[test]
fn zeroing_fast_needs_zeroing() {
    let flags = TransmissionFlags::from_wire(NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FAST_ZERO);
    assert!(!flags.fast_zero());
}

#[test]
fn unfragmented_reads_need_chunks() {
    let flags = TransmissionFlags::from_wire(NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_DF);
    assert!(!flags.in_mode(ReplyMode::Simple).send_df());
    assert!(flags.in_mode(ReplyMode::Structured).send_df());
}

#[test]
fn every_error_number_reads_back_as_it_came() {
    assert_eq!(NbdError::from_wire(0), None);
    for number in 1..200 {
        let error = NbdError::from_wire(number).unwrap();
        assert_eq!(error.number(), number);
        assert_eq!(error.is_shutdown(), number == 108);
        assert!(!error.to_string().is_empty());
    }
}
