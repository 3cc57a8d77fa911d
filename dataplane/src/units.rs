//! Sizes and durations as people write them: `64k`, `2GiB`, `500ms`, `1h`.

#![forbid(unsafe_code)]

use std::time::Duration;

/// Why a text is no size or no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// Not of the form of a size.
    #[error(
        "\"{text}\" is not a size; write bytes, or a whole number with k, M, G, T, P or E, like 64k or 2GiB"
    )]
    Size {
        /// What was given.
        text: String,
    },
    /// A size of 2^64 bytes or more.
    #[error("the size \"{text}\" is too large; the limit is 16E - 1 bytes")]
    SizeTooLarge {
        /// What was given.
        text: String,
    },
    /// A decimal suffix, which would be taken for a binary one.
    #[error("the size \"{text}\" has a decimal suffix; sizes are binary, write {suggestion}")]
    DecimalSuffix {
        /// What was given.
        text: String,
        /// The binary size of the same number.
        suggestion: String,
    },
    /// Not of the form of a duration.
    #[error(
        "\"{text}\" is not a duration; write a whole number with ms, s, m, h or d, like 500ms or 3s"
    )]
    Duration {
        /// What was given.
        text: String,
    },
    /// A duration without its unit.
    #[error(
        "the duration \"{text}\" has no unit; write {text}s for seconds or {text}ms for milliseconds"
    )]
    NoUnit {
        /// What was given.
        text: String,
    },
    /// A duration that no clock can hold.
    #[error("the duration \"{text}\" is too long; the limit is 36500d")]
    DurationTooLong {
        /// What was given.
        text: String,
    },
}

/// The longest duration that is taken: a hundred years fit every clock.
const MAX_DURATION: Duration = Duration::from_secs(36_500 * 86_400);

/// Reads a size in bytes: a whole number, then nothing or `b` (bytes), `s` (sectors of 512
/// bytes), or `k`, `M`, `G`, `T`, `P`, `E` in either case, which are powers of 1024 (as in
/// nbdkit and libnbd) and may be followed by `iB`.
///
/// # Errors
/// [`UnitError`] for every other text. `10MB` is refused: half of its readers would take it for
/// 10,000,000.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, suffix) = split_number(text);
    let suffix = suffix.to_ascii_lowercase();
    let wrong = || UnitError::Size { text: text.to_owned() };
    let (letter, tail) = match suffix.char_indices().nth(1) {
        Some((second, _)) => suffix.split_at(second),
        None => (suffix.as_str(), ""),
    };
    let power = "kmgtpe".find(letter).filter(|_| !letter.is_empty());
    let unit = match (letter, power, tail) {
        ("" | "b", _, "") => 1,
        ("s", _, "") => 512,
        (_, Some(power), "" | "ib") => 1024_u64.pow(u32::try_from(power + 1).map_err(|_| wrong())?),
        (_, Some(_), "b") if !number.is_empty() => {
            let suggestion = format!("{number}{}", letter.to_ascii_uppercase());
            return Err(UnitError::DecimalSuffix { text: text.to_owned(), suggestion });
        }
        _ => return Err(wrong()),
    };
    if number.is_empty() {
        return Err(wrong());
    }
    let count: Option<u64> = number.parse().ok();
    count
        .and_then(|count| count.checked_mul(unit))
        .ok_or_else(|| UnitError::SizeTooLarge { text: text.to_owned() })
}

/// Reads a duration: a whole number with `ms`, `s`, `m`, `h` or `d`. `0` needs no unit.
///
/// # Errors
/// [`UnitError`] for every other text; also for a number without a unit.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split_number(text);
    let too_long = || UnitError::DurationTooLong { text: text.to_owned() };
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if text == "0" => 1,
        "" if !number.is_empty() => {
            return Err(UnitError::NoUnit { text: text.to_owned() });
        }
        _ => {
            return Err(UnitError::Duration { text: text.to_owned() });
        }
    };
    if number.is_empty() {
        return Err(UnitError::Duration { text: text.to_owned() });
    }
    let count: u64 = number.parse().map_err(|_| too_long())?;
    let duration = count.checked_mul(milliseconds).map(Duration::from_millis);
    duration.filter(|duration| *duration <= MAX_DURATION).ok_or_else(too_long)
}

/// The digits at the start, and what follows them.
fn split_number(text: &str) -> (&str, &str) {
    let behind = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_in_either_case_with_or_without_ib() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512b", 512),
            ("3s", 1536),
            ("64k", 65536),
            ("64K", 65536),
            ("1M", 1 << 20),
            ("1MiB", 1 << 20),
            ("2GiB", 2 << 30),
            ("2gib", 2 << 30),
            ("1T", 1 << 40),
            ("1P", 1 << 50),
            ("15E", 15 << 60),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_text() {
        for text in
            ["", "k", "MiB", "-1", "1.5G", "1 M", "1X", "1MiBs", "1Mi", "0x10", "1é", "é", "B"]
        {
            let error = parse_size(text).unwrap_err();
            assert_eq!(error, UnitError::Size { text: text.to_owned() });
        }
    }

    #[test]
    fn a_size_of_two_to_the_64_is_too_large() {
        for text in ["16E", "18446744073709551616", "99999999999999999999k"] {
            let error = parse_size(text).unwrap_err();
            assert_eq!(error, UnitError::SizeTooLarge { text: text.to_owned() });
        }
        assert_eq!(parse_size("18446744073709551615"), Ok(u64::MAX));
    }

    #[test]
    fn a_decimal_suffix_is_refused_with_the_binary_one_as_advice() {
        let line = parse_size("10MB").unwrap_err().to_string();
        assert!(line.ends_with("write 10M"), "{line}");
    }

    #[test]
    fn durations_have_a_unit() {
        for (text, milliseconds) in
            [("3s", 3_000), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000), ("1d", 86_400_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn a_duration_without_a_unit_is_refused_with_both_readings() {
        let line = parse_duration("30").unwrap_err().to_string();
        assert!(line.contains("30s") && line.contains("30ms"), "{line}");
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_text() {
        for text in ["", "s", "-1s", "1.5s", "1 s", "1S", "1min", "é"] {
            let error = parse_duration(text).unwrap_err();
            assert_eq!(error, UnitError::Duration { text: text.to_owned() });
        }
    }

    #[test]
    fn a_duration_that_no_clock_holds_is_too_long() {
        for text in ["36501d", "99999999999999999999s", "18446744073709551615h"] {
            let error = parse_duration(text).unwrap_err();
            assert_eq!(error, UnitError::DurationTooLong { text: text.to_owned() });
        }
    }
}
