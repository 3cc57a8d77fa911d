//! Names and UUIDs that look random and come again with their seed.

use crate::disk::Random;

/// Where they come from.
#[derive(Clone, Debug)]
pub(crate) struct Draw(Random);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Random::new(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.next()
    }

    /// One of `count` numbers from 0 on.
    pub(crate) fn below(&mut self, count: u64) -> u64 {
        self.0.below(count)
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        let index = self.below(all.len() as u64);
        all[usize::try_from(index).expect("an index of the slice")]
    }

    /// 16 bytes as hexadecimal digits.
    pub(crate) fn hex(&mut self) -> String {
        format!("{:016x}{:016x}", self.next(), self.next())
    }

    /// A UUID with dashes.
    pub(crate) fn uuid(&mut self) -> String {
        let hex = self.hex();
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// The UUID of a line of change ids, in their own spelling: `52 2d 7b 8f ac 61 51 cc-77 ...`.
    pub(crate) fn change_uuid(&mut self) -> String {
        let bytes: Vec<String> = (0..16).map(|_| format!("{:02x}", self.below(256))).collect();
        format!("{}-{}", bytes[..8].join(" "), bytes[8..].join(" "))
    }
}
