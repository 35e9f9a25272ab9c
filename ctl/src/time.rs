//! Times for people and scripts: durations in words, instants in UTC, and durations read from
//! words.

use std::time::Duration;

use overlay_core::instant::rfc3339;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// Half a century: longer is a slip of the hand.
const LONGEST: u64 = 50 * 366 * DAY;

/// Writes a number of seconds with its two largest units: `2 d 3 h`.
pub(crate) fn words(seconds: u64) -> String {
    let two = |large: u64, name: &str, small: u64, small_name: &str| {
        let (whole, rest) = (seconds / large, seconds % large / small);
        if rest == 0 {
            format!("{whole} {name}")
        } else {
            format!("{whole} {name} {rest} {small_name}")
        }
    };

    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => two(MINUTE, "min", 1, "s"),
        HOUR..DAY => two(HOUR, "h", MINUTE, "min"),
        DAY.. => two(DAY, "d", HOUR, "h"),
    }
}

/// Writes how long something has lasted; nothing when its beginning is unknown.
pub(crate) fn lasting(now: u64, since: u64) -> String {
    if since == 0 { "-".to_owned() } else { words(now.saturating_sub(since)) }
}

/// Writes how far away a deadline is: `in 3 h`, or `expired 2 min ago`.
pub(crate) fn deadline(now: u64, at: u64) -> String {
    match at.checked_sub(now) {
        Some(left) if left > 0 => format!("in {}", words(left)),
        Some(_) | None => format!("expired {} ago", words(now.saturating_sub(at))),
    }
}

/// Writes an instant as RFC 3339 in UTC; 0 means that there is none.
pub(crate) fn utc(unix: u64) -> Option<String> {
    if unix == 0 {
        return None;
    }
    Some(rfc3339(unix))
}

/// Reads a duration: `90s`, `15m`, `1h30m`, `7d`.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || "this is not a duration; write it as 90s, 15m, 24h or 7d".to_owned();
    let mut seconds = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = match rest.as_bytes()[digits] {
            b's' => 1,
            b'm' => MINUTE,
            b'h' => HOUR,
            b'd' => DAY,
            _ => return Err(wrong()),
        };
        seconds =
            number.checked_mul(unit).and_then(|n| seconds.checked_add(n)).ok_or_else(wrong)?;
        rest = &rest[digits + 1..];
    }

    match seconds {
        0 => Err(wrong()),
        1..=LONGEST => Ok(Duration::from_secs(seconds)),
        _ => Err("this is too long; the most is 50 years".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let expected = [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (61, "1 min 1 s"),
            (3 * 3600, "3 h"),
            (90_000, "1 d 1 h"),
        ];
        for (seconds, text) in expected {
            assert_eq!(words(seconds), text);
        }
    }

    #[test]
    fn instants_are_utc() {
        assert_eq!(utc(0), None);
        assert_eq!(utc(951_782_400).as_deref(), Some("2000-02-29T00:00:00Z"));
        assert_eq!(utc(1_700_000_000).as_deref(), Some("2023-11-14T22:13:20Z"));
        assert_eq!(utc(4_102_444_799).as_deref(), Some("2099-12-31T23:59:59Z"));
    }

    #[test]
    fn deadlines_know_both_sides_of_now() {
        assert_eq!(deadline(100, 160), "in 1 min");
        assert_eq!(deadline(160, 100), "expired 1 min ago");
    }

    #[test]
    fn durations_are_parsed_and_junk_is_not() {
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(parse("7d"), Ok(Duration::from_secs(604_800)));
        for junk in [
            "",
            "1",
            "h",
            "1y",
            "-1h",
            "0s",
            "1.5h",
            "99999999999999999999s",
            "100000d",
            "1hé",
            "9999999999999999d",
        ] {
            assert!(parse(junk).is_err(), "{junk}");
        }
    }
}
