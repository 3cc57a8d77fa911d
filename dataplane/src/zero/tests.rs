use proptest::prelude::*;

use super::*;

#[test]
fn an_empty_slice_is_zero_and_has_no_runs() {
    assert!(is_zero(&[]));
    assert_eq!(zero_runs(&[], 4096).count(), 0);
}

#[test]
fn one_bit_anywhere_is_noticed_at_every_length_and_alignment() {
    let mut buffer = [0_u8; 1100];
    for length in [1, 7, 8, 63, 511, 512, 513, 1024, 1090] {
        for skip in 0..9 {
            assert!(is_zero(&buffer[skip..skip + length]));
            for at in skip..skip + length {
                buffer[at] = 0x80;
                assert!(!is_zero(&buffer[skip..skip + length]), "{skip} {length} {at}");
                buffer[at] = 0;
            }
        }
    }
}

#[test]
fn bytes_next_to_the_slice_do_not_count() {
    let mut buffer = [1_u8; 700];
    buffer[1..699].fill(0);
    assert!(is_zero(&buffer[1..699]));
}

#[test]
fn data_between_two_samples_is_found() {
    let mut buffer = vec![0_u8; 32 << 20];
    buffer[20_000_001] = 1;
    let data: Vec<_> = zero_runs(&buffer, 65536).filter(|run| !run.zero).collect();
    let unit = 20_000_001 / 65536 * 65536;
    assert_eq!(data, [ZeroRun { range: unit..unit + 65536, zero: false }]);
}

#[test]
fn a_granularity_of_zero_is_taken_as_one() {
    let runs: Vec<_> = zero_runs(&[0, 0, 1], 0).collect();
    assert_eq!(runs[0], ZeroRun { range: 0..2, zero: true });
}

proptest! {
    #[test]
    fn a_run_is_zero_only_if_all_of_its_bytes_are(
        stretches in prop::collection::vec((0_usize..60, any::<bool>()), 0..20),
        granularity in 1_usize..70,
    ) {
        let mut buffer = Vec::new();
        for (length, zero) in stretches {
            buffer.resize(buffer.len() + length, u8::from(!zero));
        }
        let model: Vec<bool> = buffer
            .chunks(granularity)
            .flat_map(|unit| vec![unit.iter().all(|byte| *byte == 0); unit.len()])
            .collect();
        let mut at = 0;
        let mut before = None;
        for run in zero_runs(&buffer, granularity) {
            prop_assert_eq!(run.range.start, at);
            prop_assert!(run.range.end > at);
            prop_assert!(model[run.range.clone()].iter().all(|zero| *zero == run.zero));
            prop_assert_ne!(before, Some(run.zero));
            before = Some(run.zero);
            at = run.range.end;
        }
        prop_assert_eq!(at, buffer.len());
    }
}
