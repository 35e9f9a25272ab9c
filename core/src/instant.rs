//! Formats instants for messages and machine-readable output.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Formats seconds since 1970 as RFC 3339 in UTC, `2026-01-31T12:00:00Z`; instants after the year
/// 9999 as a number.
pub fn rfc3339(unix: u64) -> String {
    let instant =
        i64::try_from(unix).ok().and_then(|unix| OffsetDateTime::from_unix_timestamp(unix).ok());
    let text = instant.and_then(|instant| instant.format(&Rfc3339).ok());

    text.unwrap_or_else(|| format!("{unix} s after 1970"))
}

/// Reads an instant as [`rfc3339`] writes it, with whatever offset and fraction; none before 1970.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let instant = OffsetDateTime::parse(text, &Rfc3339).ok()?;

    u64::try_from(instant.unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_767_225_599), "2025-12-31T23:59:59Z");
        assert_eq!(rfc3339(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn dates_are_read_as_they_are_written() {
        assert_eq!(
            parse_rfc3339("2026-01-31T12:00:00Z").map(rfc3339).as_deref(),
            Some("2026-01-31T12:00:00Z")
        );
        assert_eq!(parse_rfc3339("1970-01-01T01:00:01.5+01:00"), Some(1));
        for junk in ["", "2026-01-31", "1969-12-31T23:59:59Z", "2026-02-30T00:00:00Z"] {
            assert_eq!(parse_rfc3339(junk), None, "{junk}");
        }
    }

    #[test]
    fn no_number_is_too_large() {
        assert_eq!(rfc3339(u64::MAX), "18446744073709551615 s after 1970");
    }
}
