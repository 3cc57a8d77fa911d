//! The values of keys in the file, checked when they are read, so that what is wrong with one is
//! told with its place.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use blockferry_dataplane::Endpoint;
use serde::de::{Deserialize, Deserializer, Error as _};

use crate::backup::source_from;
use crate::lane_options::{MAX_CONNECTIONS, positive_duration, positive_size};

/// Something that is written as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Text<T>(pub(super) T);

impl<'de, T: FromStr<Err: Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Time(pub(super) Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        positive_duration(text).map(Self)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Size(pub(super) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        positive_size(text).map(Self)
    }
}

pub(super) struct Source(pub(super) Endpoint);

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        source_from(text).map(Self)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Connections(pub(super) u16);

impl<'de> Deserialize<'de> for Connections {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u16::deserialize(deserializer)?;
        within(number, 1..=MAX_CONNECTIONS).map(Self).map_err(D::Error::custom)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Percent(pub(super) u8);

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u8::deserialize(deserializer)?;
        within(number, 0..=100).map(Self).map_err(D::Error::custom)
    }
}

fn within<T: Copy + Into<i64>>(number: T, range: RangeInclusive<i64>) -> Result<T, String> {
    let shown: i64 = number.into();
    if range.contains(&shown) {
        return Ok(number);
    }
    Err(format!("{shown} is not in {}..={}", range.start(), range.end()))
}
