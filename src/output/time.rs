//! Points in time, for people and programs.

use blockferry_control::catalog::UnixMillis;
use jiff::Timestamp;

/// RFC 3339, in UTC, to the second. What lies behind the year 9999 is a count of milliseconds.
pub(crate) fn rfc3339(time: UnixMillis) -> String {
    i64::try_from(time.get())
        .ok()
        .and_then(|millis| Timestamp::from_millisecond(millis).ok())
        .map_or_else(|| time.to_string(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_to_the_second_in_utc() {
        // `date -u -d @1764014400` says so.
        let time = UnixMillis::new(1_764_014_400_999).unwrap();
        assert_eq!(rfc3339(time), "2025-11-24T20:00:00Z");
        assert_eq!(rfc3339(UnixMillis::MAX), UnixMillis::MAX.to_string());
    }
}
