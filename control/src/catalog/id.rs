//! Ids: of points, jobs and layers as text that sorts by time, of disks and leases as numbers.
//!
//! A text id is 18 characters of Crockford's base 32 in lower case: ten for the milliseconds
//! since 1970, eight at random. It can be typed, and can be part of a file name as it is.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use super::name::ValueError;
use super::time::UnixMillis;

/// Characters of a text id.
const LENGTH: usize = 18;
/// Bits of a character.
const DIGIT_BITS: u32 = 5;
/// Random bits: eight characters.
const RANDOM_BITS: u32 = 40;
/// No i, l, o, u: they are misread. In ASCII order, so that ids sort as the numbers in them do.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const RULE: &str = "an id is 18 characters of 0-9 and a-z without i, l, o, u";

/// The last id that this process made.
static LAST: Mutex<u128> = Mutex::new(0);

/// A new id, above all others of this process, also when the clock is set back.
fn fresh() -> [u8; LENGTH] {
    let mut random = [0_u8; 8];
    // So few bytes come at once (getrandom(2)); an id without them is still above the last one,
    // and the catalog takes none twice.
    let _ = rustix::rand::getrandom(&mut random[..5], rustix::rand::GetRandomFlags::empty());
    let by_clock = (u128::from(UnixMillis::now().get()) << RANDOM_BITS)
        | u128::from(u64::from_le_bytes(random));
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    *last = by_clock.max(*last + 1);
    let mut text = [0; LENGTH];
    let mut rest = *last;
    for place in text.iter_mut().rev() {
        *place = DIGITS[(rest & 31) as usize];
        rest >>= DIGIT_BITS;
    }
    text
}

fn parse(text: &str) -> Result<[u8; LENGTH], ValueError> {
    let bytes: [u8; LENGTH] = text
        .as_bytes()
        .try_into()
        .ok()
        .filter(|bytes: &[u8; LENGTH]| bytes.iter().all(|byte| DIGITS.contains(byte)))
        .ok_or_else(|| ValueError::new("id", text, RULE))?;
    Ok(bytes)
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Ids of one process sort in the order in which they were made, those of several by
        /// their clocks.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; LENGTH]);

        impl $name {
            /// A new one.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "each one is another")]
            pub fn new() -> Self {
                Self(fresh())
            }

            /// As text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                std::str::from_utf8(&self.0).expect("an id is made of ASCII digits")
            }
        }

        impl FromStr for $name {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.as_str())
            }
        }
    };
}

text_id! {
    /// A restore point.
    PointId
}
text_id! {
    /// A job.
    JobId
}
text_id! {
    /// A layer: one image file of one disk in one point.
    LayerId
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// A number of one catalog, never used again there, and without a meaning in another.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(i64);

        impl $name {
            /// The number, from one up.
            #[must_use]
            pub fn get(self) -> i64 {
                self.0
            }

            /// From a number that was an id once; `None` for one that cannot have been.
            #[must_use]
            pub fn from_number(number: i64) -> Option<Self> {
                (number > 0).then_some(Self(number))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id! {
    /// A disk of a VM.
    DiskId
}
number_id! {
    /// A lease.
    LeaseId
}
