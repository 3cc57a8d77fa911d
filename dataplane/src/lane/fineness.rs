//! Block status that is too fine to be worth asking for.
//!
//! Each answer costs a round trip, during which little is read ahead. Where it describes bytes
//! rather than blocks, reading all of them takes less, and a source that goes on like that would
//! keep a lane busy for ever.

/// Extents that are shorter than this on average, in bytes, tell of no holes: no file system in
/// use has smaller ones.
const ALLOCATION_BYTES: u64 = 4096;
/// The same for a dirty bitmap: a sector is the finest granularity of qemu's.
const DIRTY_BYTES: u64 = 512;
/// Answers in a row that are too fine before no more are asked for. A disk may well have a place
/// where small files lie.
const ANSWERS: u32 = 16;

/// How fine the last answers were.
#[derive(Default)]
pub(super) struct Fineness {
    in_a_row: u32,
}

impl Fineness {
    /// Takes note of an answer of so many extents for `bytes`; in words what is wrong, once it is
    /// enough.
    pub(super) fn answered(
        &mut self,
        bytes: u64,
        extents: usize,
        of_bitmap: bool,
    ) -> Result<(), String> {
        let least = if of_bitmap { DIRTY_BYTES } else { ALLOCATION_BYTES };
        let fine = bytes / (extents as u64).max(1) < least;
        self.in_a_row = if fine { self.in_a_row + 1 } else { 0 };
        if self.in_a_row < ANSWERS {
            return Ok(());
        }
        Err(format!("{ANSWERS} answers in a row had extents of less than {least} bytes on average"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coarse_answer_makes_up_for_fine_ones() {
        let mut fineness = Fineness::default();
        for _ in 0..3 {
            for _ in 1..ANSWERS {
                fineness.answered(4095, 1, false).unwrap();
            }
            fineness.answered(8192, 2, false).unwrap();
        }
        for _ in 1..ANSWERS {
            fineness.answered(9, 9, false).unwrap();
        }
        fineness.answered(9, 9, false).unwrap_err();
    }

    #[test]
    fn a_bitmap_may_have_the_granularity_of_a_sector() {
        let mut fineness = Fineness::default();
        for _ in 0..2 * ANSWERS {
            fineness.answered(512 * 9, 9, true).unwrap();
        }
        for _ in 1..ANSWERS {
            fineness.answered(511, 1, true).unwrap();
        }
        fineness.answered(511, 1, true).unwrap_err();
    }
}
