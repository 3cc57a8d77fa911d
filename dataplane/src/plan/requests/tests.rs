use proptest::prelude::*;

use super::*;

fn size(bytes: u64) -> RequestSize {
    RequestSize::at_most(bytes).unwrap()
}

fn pieces(start: u64, length: u64, max: u64) -> Vec<(u64, u64)> {
    let pieces = Pieces::new(Area::new(start, length), size(max));
    pieces.map(|piece| (piece.start, piece.length)).collect()
}

#[test]
fn a_request_size_is_rounded_down_to_a_power_of_two() {
    assert_eq!(size(1_000_000).bytes(), 524_288);
    assert_eq!(size(65_536).bytes(), 65_536);
    assert_eq!(size(u64::MAX).bytes(), 1 << 63);
    assert_eq!(RequestSize::at_most(0), None);
}

#[test]
fn boundaries_lie_on_multiples_of_the_request_size() {
    assert_eq!(pieces(3, 10, 4), [(3, 1), (4, 4), (8, 4), (12, 1)]);
}

#[test]
fn an_empty_area_has_no_piece() {
    assert!(pieces(7, 0, 4).is_empty());
}

#[test]
fn an_area_at_the_last_offset_ends() {
    assert_eq!(pieces(u64::MAX - 2, 2, 4), [(u64::MAX - 2, 2)]);
    assert_eq!(pieces(u64::MAX - 2, 2, u64::MAX), [(u64::MAX - 2, 2)]);
}

proptest! {
    #[test]
    fn the_pieces_are_the_area(start in 0_u64..1 << 40, length in 0_u64..5_000, max in 1_u64..700) {
        let iterator = Pieces::new(Area::new(start, length), size(max));
        let hint = iterator.size_hint();
        let pieces: Vec<Area> = iterator.collect();
        prop_assert_eq!(hint, (pieces.len(), Some(pieces.len())));
        let mut at = start;
        for piece in &pieces {
            prop_assert_eq!(piece.start, at);
            prop_assert!(piece.length > 0 && piece.length <= max);
            at = piece.end();
            prop_assert!(at == start + length || at.is_multiple_of(size(max).bytes()));
        }
        prop_assert_eq!(at, start + length);
    }
}
